"""Hostile and broken HTTP against a running node that serves the quickstart's models. Only the standard library.

    python tests/conformance/hostile_http.py --url 127.0.0.1:8000

After each attack a good request is answered rightly, on a connection that lives through all of them; others are sent all the
while by a thread, and none of them may pay for what its neighbours do.
"""

import argparse
import gzip
import json
import random
import socket
import struct
import sys
import threading
import time

from checks import MODELS, Checks, Failed, Sample, flat, must, must_equal, must_name

# Nothing is allowed to make a client wait longer than this for its refusal.
PATIENCE = 5.0
# Statuses with which a broken HTTP message may be refused; closing the connection will do as well.
CLIENT_ERRORS = range(400, 500)
DEPTH = 100_000
CREDIT = "/v2/models/credit_risk/infer"


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Connection:
    """A raw connection: sends what it is given and reads answers one by one."""

    def __init__(self, address, timeout=PATIENCE):
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Whether the peer took all of it."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        return bool(data)

    def answer(self):
        """The next answer; none if the peer closed instead."""
        while b"\r\n\r\n" not in self.received:
            if not self.more():
                must(not self.received, f"closed within a response head: {self.received[:200]!r}")
                return None
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if status == 100:
            return self.answer()
        length = int(headers.get("content-length", 0))
        must("transfer-encoding" not in headers, "a chunked response")
        while len(self.received) < length:
            must(self.more(), f"closed within the body of a {status}")
        body, self.received = self.received[:length], self.received[length:]
        return Answer(status, headers, body)

    def is_closed(self):
        """Whether the peer closes, within the patience."""
        try:
            while self.more():
                pass
            return True
        except TimeoutError:
            return False


def http(path, body=b"", method="POST", **headers):
    body = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_request(body, path=CREDIT):
    return http(path, body if isinstance(body, (str, bytes)) else json.dumps(body), Content_Type="application/json")


class Hostile:
    def __init__(self, address, models, body_limit):
        self.address = address
        self.body_limit = body_limit
        self.sample = Sample("credit_risk", models)
        self.features = self.sample.inputs[0]
        self.good = json_request(self.sample.request)
        self.neighbour = Connection(address)

    # Requests like the good one but for one thing.

    def tensor(self, **changes):
        tensor = {**self.features, **changes}
        return {key: value for key, value in tensor.items() if value is not None}

    def with_tensor(self, **changes):
        return json_request({"inputs": [self.tensor(**changes)]})

    def with_keys(self, **keys):
        return json_request({**self.sample.request, **keys})

    def with_text_in_data(self, text):
        """The good request with this JSON text as its first element."""
        body = json.dumps({"inputs": [self.tensor(data=["HERE", *self.features["data"][1:]])]})
        return json_request(body.replace('"HERE"', text))

    def binary(self, header_length=None, payload=None, **parameters):
        payload = struct.pack("<108f", *self.features["data"]) if payload is None else payload
        parameters = {"binary_data_size": 432, **parameters}
        tensor = self.tensor(data=None, parameters={k: v for k, v in parameters.items() if v is not None})
        header = json.dumps({"inputs": [tensor]}).encode()
        length = len(header) if header_length is None else header_length
        return http(CREDIT, header + payload, Inference_Header_Content_Length=length)

    # What is checked.

    def must_match(self, answer):
        must(answer is not None, "the good request got no answer")
        must_equal(answer.status, 200, f"status of the good request ({answer.body[:300]!r})")
        outputs = {o["name"]: (o["datatype"], o["shape"], flat(o["data"])) for o in answer.json()["outputs"]}
        self.sample.must_match(outputs)

    def must_serve_neighbours(self):
        must(self.neighbour.send(self.good), "the neighbour's connection was closed")
        self.must_match(self.neighbour.answer())

    def refuses(self, request, statuses, words=(), keep_alive=None):
        """One request, one refusal: status, JSON body with a message that names these words. `keep_alive` is a good
        request that is answered on the same connection afterwards, unless the refusal announced the connection's end."""
        statuses = [statuses] if isinstance(statuses, int) else statuses
        with Connection(self.address) as connection:
            connection.send(request)
            answer = connection.answer()
            must(answer is not None, "closed without an answer")
            must(answer.status in statuses, f"status {answer.status}, expected {statuses}: {answer.body[:300]!r}")
            message = must_be_error(answer)
            must_name(message, words)
            if answer.status == 503:
                must("retry-after" in answer.headers, "a 503 without Retry-After")
            if answer.headers.get("connection", "").lower() == "close":
                must(connection.is_closed(), "the refusal says `connection: close`, and the connection stays open")
            elif keep_alive:
                connection.send(keep_alive)
                self.must_match(connection.answer())

    def refuses_or_closes(self, data, half_close=False):
        """Something that is no HTTP: a client error or a closed connection, soon."""
        with Connection(self.address) as connection:
            connection.send(data)
            if half_close:
                connection.socket.shutdown(socket.SHUT_WR)
            try:
                answer = connection.answer()
            except TimeoutError:
                raise Failed(f"neither an answer nor a close within {PATIENCE:g} s") from None
            if answer is not None:
                must(answer.status in CLIENT_ERRORS, f"status {answer.status}: {answer.body[:300]!r}")

    def tensors(self):
        """Name, request, statuses, words of the message: what is wrong with tensors and parameters."""
        data = self.features["data"]
        yield "wrong_input_name", self.with_tensor(name="feature"), 400, ["feature", "features"]
        yield "empty_input_name", self.with_tensor(name=""), 400, ["features"]
        yield "very_long_input_name", self.with_tensor(name="n" * 100_000), 400, ["features"]
        yield "missing_input_name", self.with_tensor(name=None), 400, ["name"]
        yield "missing_datatype", self.with_tensor(datatype=None), 400, ["datatype"]
        yield "missing_shape", self.with_tensor(shape=None), 400, ["shape"]
        yield "missing_data", self.with_tensor(data=None), 400, ["features", "data"]
        yield "wrong_datatype", self.with_tensor(datatype="FP64"), 400, ["features", "FP32", "FP64"]
        yield "unknown_datatype", self.with_tensor(datatype="FP31"), 400, ["FP31", "FP32"]
        yield "wrong_shape", self.with_tensor(shape=[2, 53], data=data[:106]), 400, ["features", "54", "53"]
        yield "wrong_rank", self.with_tensor(shape=[108]), 400, ["features", "108"]
        yield "zero_rows", self.with_tensor(shape=[0, 54], data=[]), [200, 400], []
        yield "negative_size", self.with_tensor(shape=[-2, 54]), 400, ["shape"]
        yield "fractional_size", self.with_tensor(shape=[2.5, 54]), 400, ["shape"]
        yield "huge_size", self.with_tensor(shape=[2**62, 54]), 400, []
        yield "size_beyond_64_bits", self.with_tensor(shape=[2**70, 54]), 400, ["shape"]
        yield "sizes_whose_product_overflows", self.with_tensor(shape=[2**32, 2**32]), 400, ["features"]
        yield "claims_many_rows_and_sends_few", self.with_tensor(shape=[10**9, 54]), 400, ["features"]
        yield "very_many_dimensions", self.with_tensor(shape=[1] * 100_000), 400, []
        yield "too_few_elements", self.with_tensor(data=data[:-1]), 400, ["features", "108", "107"]
        yield "too_many_elements", self.with_tensor(data=[*data, 1.0]), 400, ["features", "108"]
        yield "text_in_numbers", self.with_text_in_data('"one"'), 400, ["features"]
        yield "null_in_numbers", self.with_text_in_data("null"), 400, ["features"]
        yield "object_in_numbers", self.with_text_in_data("{}"), 400, ["features"]
        yield "data_is_a_text", self.with_tensor(data="1,2,3"), 400, ["features"]
        yield "missing_input", json_request({"inputs": []}), 400, ["features"]
        yield "no_inputs_key", json_request({}), 400, ["inputs"]
        yield "inputs_is_no_list", json_request({"inputs": {"features": 1}}), 400, ["inputs"]
        twice = {"inputs": [self.features, self.features]}
        yield "double_input", json_request(twice), 400, ["features", "twice"]
        yield "ten_thousand_inputs", json_request({"inputs": [{**self.features, "data": []}] * 10_000}), 400, []
        extra = {"inputs": [self.features, {**self.features, "name": "more"}]}
        yield "extra_input", json_request(extra), 400, ["more"]
        yield "unknown_output", self.with_keys(outputs=[{"name": "nope"}]), 400, ["nope", "probability"]
        yield "outputs_is_no_list", self.with_keys(outputs="probability"), 400, ["outputs"]
        yield "id_is_no_text", self.with_keys(id=[1]), 400, ["id"]
        yield "deadline_of_zero", self.with_keys(parameters={"timeout": 0}), [400, 504], []
        yield "negative_timeout", self.with_keys(parameters={"timeout": -5}), 400, ["timeout"]
        yield "timeout_is_no_number", self.with_keys(parameters={"timeout": "soon"}), 400, ["timeout"]
        yield "priority_is_no_number", self.with_keys(parameters={"priority": "high"}), 400, ["priority"]
        yield "parameters_is_no_object", self.with_keys(parameters=[1]), 400, ["parameters"]

    def addresses(self):
        body = self.sample.request
        yield "unknown_model", json_request(body, "/v2/models/nope/infer"), 404, ["nope"]
        yield "unknown_version", json_request(body, "/v2/models/credit_risk/versions/99/infer"), 404, ["99"]
        yield "version_is_no_number", json_request(body, "/v2/models/credit_risk/versions/new/infer"), [400, 404], ["new"]
        huge = "/v2/models/credit_risk/versions/99999999999999999999999/infer"
        yield "version_beyond_64_bits", json_request(body, huge), [400, 404], []
        yield "model_name_climbs", json_request(body, "/v2/models/..%2f..%2fetc/infer"), [400, 404], []
        yield "model_name_with_nul", json_request(body, "/v2/models/credit%00risk/infer"), [400, 404], []
        yield "model_name_is_no_utf8", json_request(body, "/v2/models/%ff%fe/infer"), [400, 404], []
        yield "unknown_path", http("/v2/nope", method="GET"), 404, []
        yield "wrong_method", http(CREDIT, method="GET"), [404, 405], []
        yield "load_unknown_model", json_request({}, "/v2/repository/models/nope/load"), [400, 404], ["nope"]
        climbs = "/v2/repository/models/..%2fmodels%2fcredit_risk/load"
        yield "load_name_climbs", json_request({}, climbs), [400, 404], []
        load = "/v2/repository/models/credit_risk/load"
        yield "load_with_broken_json", json_request("{", load), 400, []

    def json_texts(self):
        good = json.dumps(self.sample.request)
        yield "empty_body", json_request(""), 400, []
        yield "cut_json", json_request(good[: len(good) // 2]), 400, []
        yield "text_behind_json", json_request(good + "x"), 400, []
        yield "json_is_a_list", json_request("[]"), 400, []
        yield "json_is_null", json_request("null"), 400, []
        yield "json_is_a_number", json_request("1e5"), 400, []
        yield "bytes_that_are_no_utf8", json_request(good.encode().replace(b"features", b"feat\xff\xfe")), 400, []
        yield "control_character_in_a_text", json_request(good.replace("features", "feat\x01ures")), 400, []
        yield "lone_surrogate", json_request(good.replace("features", "\\ud800")), 400, []
        doubled = good[:-1] + ', "inputs": []}'
        yield "doubled_key", json_request(doubled), 400, ["inputs"]
        yield "deep_lists", json_request("[" * DEPTH), 400, []
        yield "deep_objects", json_request('{"a":' * DEPTH), 400, []
        yield "deep_lists_in_data", self.with_text_in_data("[" * DEPTH + "]" * DEPTH), 400, []
        yield "deep_lists_in_an_unknown_key", json_request('{"x":' + "[" * DEPTH + "]" * DEPTH + "," + good[1:]), 400, []
        yield "deep_lists_in_parameters", self.deep_parameters(), 400, []
        for text in ["NaN", "Infinity", "-Infinity", "nan"]:
            yield f"json_with_{text}", self.with_text_in_data(text), 400, []
        yield "number_beyond_fp64", self.with_text_in_data("1e999"), 400, []
        yield "number_of_100000_digits", self.with_text_in_data("1" * 100_000), [200, 400], []
        yield "number_without_end", self.with_text_in_data("1."), 400, []

    def deep_parameters(self):
        body = json.dumps({**self.sample.request, "parameters": {"x": "HERE"}})
        return json_request(body.replace('"HERE"', "[" * DEPTH + "]" * DEPTH))

    def binaries(self):
        right = struct.pack("<108f", *self.features["data"])
        yield "binary_size_too_small", self.binary(binary_data_size=428), 400, ["features", "432", "428"]
        yield "binary_size_too_large", self.binary(binary_data_size=436), 400, ["features", "436"]
        yield "binary_size_cuts_an_element", self.binary(binary_data_size=431, payload=right[:-1]), 400, ["features"]
        yield "binary_size_huge", self.binary(binary_data_size=2**63 - 1), 400, ["features"]
        yield "binary_size_beyond_64_bits", self.binary(binary_data_size=2**65), 400, []
        yield "binary_size_negative", self.binary(binary_data_size=-432), 400, []
        yield "binary_size_is_no_number", self.binary(binary_data_size="432"), 400, []
        yield "binary_size_missing", self.binary(binary_data_size=None), 400, ["features"]
        yield "bytes_left_over", self.binary(payload=right + b"more"), 400, []
        yield "bytes_missing", self.binary(payload=right[:100]), 400, ["features"]
        yield "no_bytes_at_all", self.binary(payload=b""), 400, ["features"]
        for name, length in [("beyond_the_body", 10**6), ("huge", 2**64), ("negative", -1), ("of_zero", 0)]:
            yield f"header_length_{name}", self.binary(header_length=length), 400, []
        yield "header_length_is_no_number", self.binary(header_length="many"), 400, []
        yield "header_length_cuts_the_json", self.binary(header_length=40), 400, []
        both = json.dumps({"inputs": [self.tensor(parameters={"binary_data_size": 432})]}).encode()
        both = http(CREDIT, both + right, Inference_Header_Content_Length=len(both))
        yield "data_and_bytes_for_one_input", both, 400, ["features"]
        texts = {"name": "features", "shape": [2, 54], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}
        texts = json.dumps({"inputs": [texts]}).encode()
        texts = http(CREDIT, texts + b"\xff\xff\xff\xffabcd", Inference_Header_Content_Length=len(texts))
        yield "text_that_claims_4_gib", texts, 400, ["features"]

    def encodings(self):
        body = json.dumps(self.sample.request).encode()
        squeezed, bomb = gzip.compress(body), gzip.compress(bytes(64 << 20))
        yield "gzip", http(CREDIT, squeezed, Content_Encoding="gzip"), [200, 415], []
        yield "gzip_bomb", http(CREDIT, bomb, Content_Encoding="gzip"), [400, 413, 415], []
        yield "gzip_that_is_none", http(CREDIT, body, Content_Encoding="gzip"), [400, 415], []
        yield "unknown_encoding", http(CREDIT, body, Content_Encoding="rot13"), [400, 415], []

    def too_large(self):
        claims = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {{}}\r\n\r\n"
        for name, length in [("by_one", self.body_limit + 1), ("by_far", 10**12)]:
            yield f"body_claims_to_be_too_large_{name}", claims.format(length).encode(), 413, [str(self.body_limit)]

    # Attacks on HTTP itself.

    def broken_http(self):
        head = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\n"
        body = json.dumps(self.sample.request)
        length = f"Content-Length: {len(body)}\r\n"
        yield "request_line_that_is_none", "HELLO\r\n\r\n"
        yield "old_http", "GET /v2/health/live\r\n\r\n"
        yield "future_http", "GET /v2/health/live HTTP/9.9\r\n\r\n"
        yield "tls_hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512)
        yield "http2_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\0" * 64
        yield "nul_bytes", bytes(4096)
        yield "header_without_colon", head + "nonsense\r\n\r\n"
        yield "header_name_with_nul", head + "a\0b: c\r\n\r\n"
        yield "header_of_1_mib", head + "X: " + "x" * (1 << 20) + "\r\n\r\n"
        yield "ten_thousand_headers", head + "".join(f"X-{n}: {n}\r\n" for n in range(10_000)) + "\r\n"
        yield "address_of_1_mib", "GET /" + "x" * (1 << 20) + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
        yield "content_length_is_no_number", head + "Content-Length: many\r\n\r\n" + body
        yield "content_length_negative", head + "Content-Length: -1\r\n\r\n" + body
        yield "content_length_beyond_64_bits", head + f"Content-Length: {2**70}\r\n\r\n" + body
        yield "two_content_lengths", head + length + "Content-Length: 5\r\n\r\n" + body
        yield "chunked_and_content_length", head + length + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        yield "unknown_transfer_encoding", head + "Transfer-Encoding: rot13\r\n\r\n" + body
        chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
        yield "chunk_size_is_no_number", chunked + "zz\r\nabc\r\n0\r\n\r\n"
        yield "chunk_size_beyond_64_bits", chunked + "f" * 40 + "\r\nabc\r\n0\r\n\r\n"
        yield "chunk_longer_than_it_says", chunked + "3\r\nabcdef\r\n0\r\n\r\n"

    def a_content_length_that_says_too_little(self):
        body = json.dumps(self.sample.request).encode()
        with Connection(self.address) as connection:
            head = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) // 2}\r\n\r\n"
            connection.send(head.encode() + body)
            answer = connection.answer()
            must(answer is None or answer.status == 400, f"status {answer and answer.status}")
            following = connection.answer() if answer else None
            must(following is None or following.status in CLIENT_ERRORS, "the rest was taken for a request")
            must(connection.is_closed(), "a connection out of step stays open")

    def a_content_length_that_says_too_much(self):
        body = json.dumps(self.sample.request).encode()
        head = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 100}\r\n\r\n"
        self.refuses_or_closes(head.encode() + body, half_close=True)

    def a_chunked_body_over_the_limit(self):
        with Connection(self.address) as connection:
            head = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            taken = connection.send(head.encode())
            piece, sent = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16)), 0
            while taken and sent <= self.body_limit + (4 << 20):
                taken = connection.send(piece)
                sent += 1 << 16
            if taken:
                connection.send(b"0\r\n\r\n")
            answer = connection.answer()
            if taken:
                must(answer is not None, "a body over the limit was taken, and no answer came")
            if answer is not None:
                must_equal(answer.status, 413, "status")
                must_name(must_be_error(answer), [str(self.body_limit)])

    def a_chunked_good_request_is_answered(self):
        body = json.dumps(self.sample.request).encode()
        pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
        head = f"POST {CREDIT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        with Connection(self.address) as connection:
            connection.send(head.encode() + chunks + b"0\r\n\r\n")
            self.must_match(connection.answer())

    def a_good_request_byte_by_byte_is_answered(self):
        with Connection(self.address) as connection:
            for position in range(len(self.good)):
                connection.send(self.good[position : position + 1])
            self.must_match(connection.answer())

    def a_client_that_waits_for_100_continue_is_answered(self):
        head, _, body = self.good.partition(b"\r\n\r\n")
        with Connection(self.address) as connection:
            connection.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
            must(connection.more(), "closed instead of 100 Continue")
            must(connection.received.startswith(b"HTTP/1.1 100"), f"no 100 Continue: {connection.received[:100]!r}")
            connection.send(body)
            self.must_match(connection.answer())

    def pipelined_requests_are_answered_in_order(self):
        count = 20
        requests = [json_request({**self.sample.request, "id": f"number-{n}"}) for n in range(count)]
        with Connection(self.address) as connection:
            connection.send(b"".join(requests))
            for number in range(count):
                answer = connection.answer()
                self.must_match(answer)
                must_equal(answer.json()["id"], f"number-{number}", "id")

    def a_refusal_in_a_pipeline_spoils_no_neighbour(self):
        wrong = self.with_tensor(shape=[2, 53])
        with Connection(self.address) as connection:
            connection.send(self.good + wrong + self.good + wrong + self.good)
            for expected in [200, 400, 200, 400, 200]:
                answer = connection.answer()
                must(answer is not None, "closed within the pipeline")
                must_equal(answer.status, expected, "status")
                if expected == 200:
                    self.must_match(answer)

    def fifty_clients_leave_within_the_body(self):
        for number in range(50):
            with Connection(self.address) as connection:
                connection.send(self.good[: len(self.good) * (number + 1) // 51])

    def fifty_clients_leave_before_the_answer(self):
        for _ in range(50):
            with Connection(self.address) as connection:
                connection.send(self.good)

    def fifty_clients_reset_before_the_answer(self):
        for _ in range(50):
            with Connection(self.address) as connection:
                connection.send(self.good)
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def a_client_that_never_reads(self):
        with Connection(self.address) as connection:
            connection.socket.settimeout(0.5)
            try:
                while True:
                    connection.socket.sendall(self.good * 50)
            except (TimeoutError, ConnectionError):
                pass  # The node takes no more from it: that is what it should do.
            self.must_serve_neighbours()

    def a_slow_loris(self):
        """Heads and bodies that come byte by byte, for five seconds, on 100 connections."""
        lorises = [Connection(self.address) for _ in range(100)]
        start = len(self.good) - 200
        for number, loris in enumerate(lorises):
            loris.position = 0 if number % 2 else start
            loris.send(self.good[: loris.position])
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for loris in lorises:
                loris.send(self.good[loris.position : loris.position + 1])
                loris.position += 1
            self.must_serve_neighbours()
            time.sleep(0.1)
        for loris in lorises:
            loris.socket.close()

    def idle_connections(self):
        idle = [Connection(self.address) for _ in range(300)]
        self.must_serve_neighbours()
        for connection in idle:
            connection.socket.close()

    def a_thousand_connections_of_garbage(self):
        garbage = random.Random(4711)
        for number in range(1000):
            with Connection(self.address) as connection:
                connection.send(garbage.randbytes(garbage.randrange(1, 2000)))
            if number % 100 == 0:
                self.must_serve_neighbours()

    def a_thousand_mutations_of_a_good_request(self):
        """Bytes of the body changed at random: each is answered, with 200 or 400, on one connection."""
        chance = random.Random(4712)
        head, _, body = self.good.partition(b"\r\n\r\n")
        with Connection(self.address) as connection:
            for _ in range(1000):
                mutated = bytearray(body)
                for _ in range(chance.randrange(1, 4)):
                    mutated[chance.randrange(len(mutated))] = chance.randrange(256)
                must(connection.send(head + b"\r\n\r\n" + mutated), f"closed before {bytes(mutated)!r}")
                answer = connection.answer()
                must(answer is not None, f"closed at {bytes(mutated)!r}")
                must(answer.status in (200, 400), f"status {answer.status} to {bytes(mutated)!r}")

    attacks = [
        a_content_length_that_says_too_little,
        a_content_length_that_says_too_much,
        a_chunked_body_over_the_limit,
        a_chunked_good_request_is_answered,
        a_good_request_byte_by_byte_is_answered,
        a_client_that_waits_for_100_continue_is_answered,
        pipelined_requests_are_answered_in_order,
        a_refusal_in_a_pipeline_spoils_no_neighbour,
        fifty_clients_leave_within_the_body,
        fifty_clients_leave_before_the_answer,
        fifty_clients_reset_before_the_answer,
        a_client_that_never_reads,
        a_slow_loris,
        idle_connections,
        a_thousand_connections_of_garbage,
        a_thousand_mutations_of_a_good_request,
    ]

    def run(self, checks):
        """Each attack, followed by a good request of a neighbour."""
        self.must_serve_neighbours()
        for cases in [self.tensors, self.addresses, self.json_texts, self.binaries, self.encodings]:
            for name, request, statuses, words in cases():
                if isinstance(statuses, list) and 200 in statuses:
                    self.checked(checks, name, self.answers_with, request, statuses)
                else:
                    self.checked(checks, name, self.refuses, request, statuses, words, self.good)
        for name, request, statuses, words in self.too_large():
            self.checked(checks, name, self.refuses, request, statuses, words)
        for name, data in self.broken_http():
            data = data.encode("latin-1") if isinstance(data, str) else data
            self.checked(checks, name, self.refuses_or_closes, data)
        for attack in self.attacks:
            self.checked(checks, attack.__name__, attack, self)

    def answers_with(self, request, statuses):
        with Connection(self.address) as connection:
            connection.send(request)
            answer = connection.answer()
            must(answer is not None, "closed without an answer")
            must(answer.status in statuses, f"status {answer.status}, expected {statuses}: {answer.body[:300]!r}")

    def checked(self, checks, name, attack, *arguments):
        def attack_and_look():
            try:
                attack(*arguments)
            except TimeoutError:
                raise Failed(f"no answer within {PATIENCE:g} s") from None
            finally:
                self.look()

        checks.run(name, attack_and_look)

    def look(self):
        """A good request of the neighbour; a broken neighbour is replaced, so that one failure stays one."""
        try:
            self.must_serve_neighbours()
        except Exception:
            self.neighbour.socket.close()
            self.neighbour = Connection(self.address)
            raise


def must_be_error(answer):
    """The message of an error body."""
    try:
        message = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise Failed(f"the body of the {answer.status} is not {{\"error\": ...}}: {answer.body[:300]!r}") from None
    must(isinstance(message, str) and message, "an empty message")
    must(len(message) < 4096, f"a message of {len(message)} characters")
    return message


class GoodTraffic(threading.Thread):
    """Good requests all the while, on connections that are opened anew now and then."""

    def __init__(self, hostile):
        super().__init__(daemon=True)
        self.hostile, self.over = hostile, threading.Event()
        self.answered, self.failures, self.slowest = 0, [], 0.0

    def run(self):
        while not self.over.is_set():
            try:
                with Connection(self.hostile.address) as connection:
                    for _ in range(50):
                        self.one(connection)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def one(self, connection):
        begin = time.monotonic()
        must(connection.send(self.hostile.good), "closed")
        self.hostile.must_match(connection.answer())
        self.slowest = max(self.slowest, time.monotonic() - begin)
        self.answered += 1
        self.over.wait(0.01)

    def report(self):
        self.over.set()
        self.join(2 * PATIENCE)
        must(not self.failures, f"{len(self.failures)} failures, the first: {self.failures[:1]}")
        must(self.answered > 0, "none was answered")
        print(f"  {self.answered} good requests meanwhile, the slowest took {self.slowest * 1000:.0f} ms")


def is_well(address):
    with Connection(address) as connection:
        for path in ["/v2/health/live", "/v2/health/ready"]:
            connection.send(http(path, method="GET"))
            answer = connection.answer()
            must(answer is not None and answer.status == 200, f"{path} is not 200")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--models", type=type(MODELS), default=MODELS, help="the folder with the samples")
    parser.add_argument("--body-limit", type=int, default=16 << 20, help="`http.max_body` in bytes")
    arguments = parser.parse_args()
    host, _, port = arguments.url.rpartition(":")
    checks, address = Checks(), (host, int(port))
    hostile = Hostile(address, arguments.models, arguments.body_limit)
    traffic = GoodTraffic(hostile)
    traffic.start()
    hostile.run(checks)
    checks.run("good_requests_meanwhile", traffic.report)
    checks.run("live_and_ready_at_the_end", is_well, address)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
