"""Hostile and broken WebSockets against a running node that serves vitals. Only the standard library.

    python tests/conformance/hostile_websocket.py --url 127.0.0.1:8000 --pid PID --log FILE

The node needs short times and low bounds (see tests/conformance/run_streams), or half of this would take minutes. After each
group it is live and ready, answers rightly over HTTP and over a new WebSocket, holds little more memory than before it all, and
no panic stands in its log.
"""

import argparse
import base64
import collections
import json
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time

from checks import Checks, Failed, flat, must, must_equal, must_name, wait_until
from hostile_http import CLIENT_ERRORS, DEPTH, PATIENCE, Connection, http, is_well
from recordings import Vitals, fp32

PATH = "/v2/models/vitals/stream"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
# How much more the node may hold after all this than before: buffers of a few connections, and what its allocator keeps.
GROWTH = 64 << 20
# A neighbour waits no longer than this for its answer, whatever others do, and half of the time much less.
SLOWEST, USUAL = 2.0, 0.25
FLOOD = 100_000


def frame(opcode, payload=b"", fin=True, masked=True, reserved=0, announced=None):
    """A frame; `announced` is a length that is not the payload's, in 64 bits."""
    length = len(payload) if announced is None else announced
    mask = 0x80 if masked else 0
    if announced is None and length < 126:
        head = struct.pack(">B", mask | length)
    elif announced is None and length < 1 << 16:
        head = struct.pack(">BH", mask | 126, length)
    else:
        head = struct.pack(">BQ", mask | 127, length)
    # A mask of zeros is one, and leaves the payload as it is.
    return bytes([(0x80 if fin else 0) | reserved << 4 | opcode]) + head + bytes(4 * masked) + payload


def text(message):
    return frame(TEXT, json.dumps(message).encode())


def binary(header, raw=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return frame(BINARY, struct.pack("<I", len(header) if length is None else length) + header + raw)


def handshake(path=PATH, method="GET", version="HTTP/1.1", **headers):
    """A good handshake but for these headers; `None` leaves one out."""
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {path} {version}", *lines]).encode() + b"\r\n\r\n"


class Raw(Connection):
    """A WebSocket whose frames are ours to spoil."""

    def __init__(self, address, path=PATH, receive_buffer=None):
        super().__init__(address)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.pongs = 0
        self.send(handshake(path))
        answer = self.answer()
        must(answer is not None, "no answer to a handshake")
        must_equal(answer.status, 101, f"status of a handshake ({answer.body[:200]!r})")
        self.ready = self.hear()
        must_equal(self.ready["type"], "ready", "the first message")

    def take(self, count):
        while len(self.received) < count:
            must(self.more(), f"closed within a frame: {self.received[:100]!r}")
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def frame(self):
        """The opcode and the payload of the next frame; none at the end."""
        if not self.received and not self.more():
            return None
        first, second = self.take(2)
        must(first & 0x80 and not first & 0x70 and not second & 0x80, f"a frame that no server sends: {first:x} {second:x}")
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
        return first & 0x0F, self.take(length)

    def data(self):
        """The next frame that is no ping or pong; pings are answered. None at the end."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.frame()) is not None:
            if found[0] == PING:
                if time.monotonic() > deadline:
                    raise TimeoutError
                self.send(frame(PONG, found[1]))
            elif found[0] == PONG:
                self.pongs += 1
            else:
                return found
        return None

    def hear(self):
        found = self.data()
        must(found is not None, "closed")
        opcode, payload = found
        must(opcode != CLOSE, f"closed with {payload!r}")
        if opcode == BINARY:
            (length,) = struct.unpack_from("<I", payload)
            payload = payload[4 : 4 + length]
        return json.loads(payload)

    def close_code(self):
        """The code with which the server closes, whatever it says before; none if it only ends the connection."""
        try:
            while (found := self.data()) is not None:
                if found[0] == CLOSE:
                    must(self.is_closed(), "a close frame, and the connection stays open")
                    return struct.unpack(">H", found[1][:2])[0] if found[1] else 1005
        except TimeoutError:
            raise Failed(f"not closed within {PATIENCE:g} s") from None
        return None

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Hostile:
    def __init__(self, address, pid, log):
        self.address, self.pid, self.log = address, pid, log
        self.vitals = Vitals()
        with self.open() as raw:
            limits = raw.ready["limits"]
        self.message_bytes = limits["message_bytes"]
        self.silence = limits["ping_interval_ms"] / 1000
        self.request = {"id": "good", "inputs": self.vitals.inputs(1)}
        for _ in range(50):
            self.must_serve()
        self.before = self.memory()

    def open(self, **options):
        return Raw(self.address, **options)

    def memory(self):
        """Bytes of the node in memory; none where that is not told."""
        if self.pid is None:
            return None
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    # What is checked.

    def must_be_right(self, answer, request_id="good"):
        must_equal((answer["type"], answer["id"]), ("output", request_id), f"type and id of {str(answer)[:300]}")
        (mean,) = [output for output in answer["outputs"] if output["name"] == "mean_out"]
        sample = self.vitals.steps[0]["sample"]
        must_equal([fp32(v) for v in flat(mean["data"])], [fp32(v) for v in sample], "mean_out")

    def must_serve(self):
        with self.open() as raw:
            raw.send(text(self.request))
            self.must_be_right(raw.hear())

    def must_be_well(self):
        is_well(self.address)
        with Connection(self.address) as connection:
            connection.send(http("/v2/models/vitals/infer", json.dumps(self.request)))
            answer = connection.answer()
            must(answer is not None and answer.status == 200, "no answer over HTTP")
            must_equal(answer.json()["id"], "good", "id over HTTP")
        self.must_serve()
        if self.log:
            panics = [line for line in self.log.read_text(errors="replace").splitlines() if "panicked" in line]
            must(not panics, f"{len(panics)} panics, the first: {panics[:1]}")
        if self.pid is not None:
            must_shrink = f"it holds {{}} MiB more than before, expected at most {GROWTH >> 20}"
            deadline = time.monotonic() + PATIENCE
            while (more := self.memory() - self.before) > GROWTH:
                must(time.monotonic() < deadline, must_shrink.format(more >> 20))
                time.sleep(0.05)

    # Handshakes.

    def handshakes(self):
        yield "no_upgrade_header", handshake(Upgrade=None), [426]
        yield "upgrade_to_something_else", handshake(Upgrade="h2c"), [426]
        yield "no_connection_header", handshake(Connection=None), [426]
        yield "connection_that_closes", handshake(Connection="close"), [426]
        yield "no_version", handshake(Sec_WebSocket_Version=None), [400]
        for version in ["8", "14", "", "13, 8", "thirteen"]:
            yield f"version_{version!r}", handshake(Sec_WebSocket_Version=version), [400, 426]
        yield "no_key", handshake(Sec_WebSocket_Key=None), [400]
        keys = {"empty": "", "short": "c2hvcnQ=", "no_base64": "?" * 24, "long": base64.b64encode(bytes(17)).decode()}
        for name, key in keys.items():
            yield f"key_that_is_{name}", handshake(Sec_WebSocket_Key=key), [400]
        yield "another_subprotocol", handshake(Sec_WebSocket_Protocol="grid.v2, chat"), [400]
        yield "another_origin", handshake(Origin="http://example.org"), [403]
        yield "http_1_0", handshake(version="HTTP/1.0"), [400, 426, 505]
        for method in ["POST", "PUT", "HEAD", "OPTIONS", "CONNECT"]:
            yield f"method_{method}", handshake(method=method), list(CLIENT_ERRORS)
        yield "plain_get", http(PATH, method="GET"), [426]
        yield "unknown_model", handshake("/v2/models/nope/stream"), [404]
        yield "unknown_version", handshake("/v2/models/vitals/versions/7/stream"), [404]
        yield "climbing_name", handshake("/v2/models/..%2f..%2fetc/stream"), [400, 404]
        yield "chunked_body", handshake(Transfer_Encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n", [400]
        yield "header_of_1_mib", handshake(X_Long="x" * (1 << 20)), [None, *CLIENT_ERRORS]

    def refuses_handshake(self, data, statuses):
        with Connection(self.address) as connection:
            connection.send(data)
            if b"HEAD " == data[:5]:
                # It has no body, whatever length it names.
                must(connection.more(), "closed")
                status = int(connection.received.split()[1])
            else:
                answer = connection.answer()
                status = answer and answer.status
            must(status in statuses, f"status {status}, expected one of {statuses}")

    # Frames. Name, bytes, the codes with which the connection may be closed.

    def broken_frames(self):
        good = json.dumps(self.request).encode()
        limit = self.message_bytes
        yield "frame_without_mask", frame(TEXT, good, masked=False), [1002]
        for bit in [1, 2, 4, 7]:
            yield f"reserved_bits_{bit}", frame(TEXT, good, reserved=bit), [1002]
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]:
            yield f"opcode_{opcode}", frame(opcode, b"x"), [1002]
        yield "ping_of_126_bytes", frame(PING, bytes(126)), [1002]
        yield "ping_that_announces_2_to_the_62", frame(PING, announced=1 << 62), [1002]
        yield "ping_in_fragments", frame(PING, b"x", fin=False), [1002]
        yield "close_in_fragments", frame(CLOSE, b"", fin=False), [1002]
        yield "continuation_of_nothing", frame(0, good), [1002]
        yield "text_within_a_message", frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), [1002]
        yield "close_of_one_byte", frame(CLOSE, b"\x03"), [1002]
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535]:
            yield f"close_with_the_code_{code}", frame(CLOSE, struct.pack(">H", code)), [1002]
        yield "close_whose_reason_is_no_utf_8", frame(CLOSE, b"\x03\xe8\xff\xfe"), [1002, 1007]
        utf_8 = {
            "stray": b"\xff",
            "overlong": b"\xc0\xaf",
            "surrogate": b"\xed\xa0\x80",
            "beyond_unicode": b"\xf4\x90\x80\x80",
            "cut": b'{"id":"\xc3',
        }
        for name, wrong in utf_8.items():
            yield f"text_that_is_no_utf_8_{name}", frame(TEXT, wrong), [1007]
        yield "text_that_is_no_utf_8_in_fragments", frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), [1007]
        yield "length_of_2_to_the_63", frame(TEXT, announced=1 << 63), [1002, 1009]
        yield "length_of_2_to_the_64_less_1", frame(BINARY, announced=(1 << 64) - 1), [1002, 1009]
        yield "length_of_2_to_the_62_and_nothing_behind", frame(BINARY, announced=1 << 62), [1009]
        yield "length_over_the_limit_by_one", frame(BINARY, announced=limit + 1), [1009]
        within = frame(BINARY, bytes(1000), fin=False) + frame(0, announced=limit - 999)
        yield "length_over_the_limit_in_fragments", within, [1009]

    def closes(self, data, codes):
        with self.open() as raw:
            raw.send(data)
            code = raw.close_code()
            must(code in codes, f"closed with {code}, expected {codes}")

    def a_message_over_the_limit_that_is_sent(self):
        with self.open() as raw:
            raw.send(frame(BINARY, bytes(self.message_bytes + 1)))
            must(raw.close_code() in [1009, None], "not closed for its size")

    def fragments_without_end(self):
        with self.open() as raw:
            raw.send(frame(TEXT, b" " * 1000, fin=False))
            piece, sent, taken = frame(0, b" " * 1000, fin=False) * 100, 0, True
            while taken and sent < 4 * self.message_bytes:
                taken = raw.send(piece)
                sent += 100_000
            must(not taken or raw.close_code() == 1009, f"{sent} bytes of one message were taken")

    def two_hundred_thousand_empty_fragments(self):
        with self.open() as raw:
            good = json.dumps(self.request).encode()
            raw.send(frame(TEXT, good[:20], fin=False))
            for _ in range(200):
                must(raw.send(frame(0, b"", fin=False) * 1000), "closed")
            raw.send(frame(0, good[20:]))
            self.must_be_right(raw.hear())

    def two_hundred_messages_announced_and_never_sent(self):
        many = [self.open() for _ in range(200)]
        for raw in many:
            raw.send(frame(BINARY, bytes(10), announced=self.message_bytes))
        self.must_be_well()
        for raw in many:
            raw.socket.close()

    def a_character_cut_by_fragments_is_read(self):
        with self.open() as raw:
            request = json.dumps({**self.request, "id": "ü\U0001f600"}, ensure_ascii=False).encode()
            for at in range(len(request) - 1):
                raw.send(frame(TEXT, request[at : at + 1], fin=False) if at == 0 else frame(0, request[at : at + 1], fin=False))
            raw.send(frame(0, request[-1:]))
            self.must_be_right(raw.hear(), "ü\U0001f600")

    def a_frame_byte_by_byte_is_read(self):
        with self.open() as raw:
            for data in [text(self.request), frame(TEXT, json.dumps(self.request).encode().ljust(70_000))[:100]]:
                for position in range(len(data)):
                    raw.send(data[position : position + 1])
            self.must_be_right(raw.hear())

    def a_mask_is_applied(self):
        with self.open() as raw:
            good, mask = json.dumps(self.request).encode(), bytes([0x12, 0xFE, 0, 0x9A])
            for before in range(200, 208):
                payload = b" " * before + good
                masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
                raw.send(bytes([0x81, 0x80 | 126]) + struct.pack(">H", len(payload)) + mask + masked)
                self.must_be_right(raw.hear())

    # Floods.

    def a_flood_of_pings_while_requests_are_answered(self):
        with self.open() as raw:
            pings = frame(PING, b"x" * 125) * 500
            sender = Sender(raw, (pings + text({**self.request, "id": str(n)}) for n in range(FLOOD // 500)))
            unanswered = {str(number) for number in range(FLOOD // 500)}
            while unanswered:
                answer = raw.hear()
                unanswered.remove(answer["id"])
                self.must_be_right(answer, answer["id"])
            sender.must_be_done()
            raw.send(frame(PING, b"last") + text(self.request))
            self.must_be_right(raw.hear())
            must(raw.pongs > 0, "no ping was answered")

    def a_flood_of_pings_by_one_who_reads_nothing(self):
        with self.open(receive_buffer=4096) as raw:
            raw.socket.settimeout(0.5)
            pings = frame(PING, b"x" * 125) * 1000
            try:
                for _ in range(FLOOD // 1000):
                    raw.socket.sendall(pings)
            except (TimeoutError, ConnectionError):
                pass  # It is held up, or cut.
            self.must_be_well()

    def a_flood_of_pongs_that_nobody_asked_for(self):
        with self.open() as raw:
            for _ in range(FLOOD // 1000):
                must(raw.send(frame(PONG, b"x" * 100) * 1000), "closed")
            raw.send(text(self.request))
            self.must_be_right(raw.hear())

    def a_flood_of_starts(self):
        """At most `sequences.max` of them live; the room is free again when they have expired."""
        with self.open() as raw:
            starts = text({"type": "start"}) * 1000
            sender = Sender(raw, (starts for _ in range(FLOOD // 1000)))
            kinds = collections.Counter()
            for _ in range(FLOOD):
                answer = raw.hear()
                kinds[answer["type"] if answer["type"] != "error" else answer["kind"]] += 1
            sender.must_be_done()
            must_equal(set(kinds), {"started", "overloaded"}, "answers")
            must(kinds["started"] < FLOOD // 10, f"{kinds['started']} sequences live")
            print(f"  {kinds['started']} started, {(self.memory() or 0) - (self.before or 0) >> 20} MiB more", flush=True)

        def is_free():
            with self.open() as raw:
                raw.send(text({"type": "start"}))
                answer = raw.hear()
                raw.send(text({"type": "end", "sequence_id": answer.get("sequence_id", "x")}))
                return answer["type"] == "started"

        wait_until(is_free, "sequences have expired")

    def a_flood_of_sequences_that_end(self):
        with self.open() as raw:

            def messages():
                for number in range(200):
                    yield b"".join(
                        text({"inputs": self.request["inputs"], "parameters": {"sequence_id": f"{number}-{one}", "sequence_start": True, "sequence_end": True}})
                        for one in range(100)
                    )

            sender = Sender(raw, messages())
            kinds = collections.Counter()
            while kinds["ended"] + kinds["overloaded"] < 20_000:
                answer = raw.hear()
                kinds[answer["type"] if answer["type"] != "error" else answer["kind"]] += 1
            sender.must_be_done()
            print(f"  {dict(kinds)}", flush=True)
            must(set(kinds) <= {"started", "output", "ended", "overloaded"}, f"answers {kinds}")
            must(kinds["started"] == kinds["output"] == kinds["ended"] > 0, f"answers {kinds}")

    def a_flood_of_messages_to_a_sequence(self):
        """Without looking at the window: each is answered once, and the outputs are those of 1, 2, 3 and so on."""
        with self.open() as raw:
            raw.send(text({"type": "start", "sequence_id": "flood"}))
            must_equal(raw.hear()["type"], "started", "type")
            message = lambda: {"inputs": self.request["inputs"], "parameters": {"sequence_id": "flood"}}
            sender = Sender(raw, (text(message()) * 100 for _ in range(200)))
            last = 0
            for _ in range(20_000):
                answer = raw.hear()
                if answer["type"] == "output":
                    last += 1
                    must_equal(answer["parameters"]["sequence_number"], last, "number")
                else:
                    must_equal((answer.get("kind"), answer.get("retry")), ("sequence_full", True), f"kind of {answer}")
            sender.must_be_done()
            must(last > 0, "none was taken")

    # Readers.

    def a_client_that_does_not_answer_pings_is_cut(self):
        with self.open() as raw:
            begin = time.monotonic()
            while (found := raw.frame()) is not None:
                must_equal(found[0], PING, "opcode of the frame that a quiet client gets")
                must(time.monotonic() - begin < PATIENCE, "it is not cut")
            must(time.monotonic() - begin >= 0.9 * self.silence, "it is cut before it was asked")

    def a_half_open_client_is_cut_and_its_sequence_goes_on(self):
        raw = self.open()
        raw.send(text({"type": "start", "sequence_id": "half open"}))
        started = raw.hear()
        raw.send(text({"inputs": self.request["inputs"], "parameters": {"sequence_id": "half open"}}))
        must_equal(raw.hear()["type"], "output", "type")
        # From here on it neither reads nor answers.
        deadline = time.monotonic() + PATIENCE
        while not is_reset(raw.socket):
            must(time.monotonic() < deadline, "it is not cut")
            time.sleep(0.02)
        with self.open() as other:
            token = {key: started[key] for key in ["sequence_id", "sequence_token"]}
            other.send(text({"type": "resume", "last": 0, **token}))
            must_equal([other.hear()["type"] for _ in range(2)], ["resumed", "output"], "what follows a resume")

    def a_slow_reader(self, make, count=50_000):
        """Sends requests and reads no answer: it is held up and cut, the node's memory stays bounded, others are served."""
        raw = self.open(receive_buffer=4096)
        most, over = [self.memory() or 0], threading.Event()

        def watch():
            while not over.wait(0.02):
                most[0] = max(most[0], self.memory() or 0)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        neighbour = Neighbour(self)
        neighbour.start()
        begin, sent, cut = time.monotonic(), 0, False
        raw.socket.settimeout(4 * PATIENCE)
        try:
            for number in range(0, count, 100):
                raw.socket.sendall(b"".join(make(number + one) for one in range(100)))
                sent = number + 100
        except ConnectionError:
            cut = True
        except TimeoutError:
            pass
        deadline = time.monotonic() + 2 * PATIENCE
        while not cut and time.monotonic() < deadline:
            cut = is_reset(raw.socket)
            time.sleep(0.02)
        took = time.monotonic() - begin
        over.set()
        neighbour.report()
        more = most[0] - (self.before or 0) >> 20
        print(f"  it got rid of {sent} requests, held {more} MiB, and was cut after {took:.1f} s", flush=True)
        raw.socket.close()
        must(cut, "it is not cut")
        must(more << 20 <= GROWTH, f"the node held {more} MiB more, expected at most {GROWTH >> 20}")

    def a_slow_reader_of_requests(self):
        rows = 16
        inputs = [{"name": "sample", "datatype": "FP32", "shape": [rows, 3], "parameters": {"binary_data_size": 12 * rows}}]
        for name, size in [("mean", 3), ("variance", 3), ("count", 1)]:
            inputs.append({"name": name, "datatype": "FP32", "shape": [rows, size], "parameters": {"binary_data_size": 4 * size * rows}})
        raw = struct.pack("<160f", *[random.Random(7).uniform(1, 100) for _ in range(160)])
        self.a_slow_reader(lambda number: binary({"id": str(number), "inputs": inputs}, raw))

    def a_slow_reader_of_errors(self):
        self.a_slow_reader(lambda number: text({"id": "x" * 200 + str(number), "inputs": []}))

    def a_slow_reader_of_a_sequence(self):
        start = text({"type": "start", "sequence_id": "slow"})
        message = text({"inputs": self.request["inputs"], "parameters": {"sequence_id": "slow"}})
        self.a_slow_reader(lambda number: message if number else start + message)

    # Departures.

    def a_hundred_leave_within_the_handshake(self):
        data = handshake()
        for number in range(100):
            connection = Connection(self.address)
            connection.send(data[: len(data) * (number + 1) // 101])
            leave(connection, number % 2)
        for number in range(100):
            connection = Connection(self.address)
            connection.send(data)
            leave(connection, number % 2)

    def a_hundred_leave_within_a_message(self):
        data = text(self.request)
        for number in range(100):
            raw = self.open()
            raw.send(data + data[: len(data) * (number + 1) // 101])
            leave(raw, number % 2)

    def a_hundred_leave_before_their_answers(self):
        for number in range(100):
            raw = self.open()
            raw.send(text(self.request) + text({**self.request, "id": "other"}) * 50)
            leave(raw, number % 2)

    def a_hundred_leave_within_a_sequence(self):
        for number in range(100):
            raw = self.open()
            message = text({"inputs": self.request["inputs"], "parameters": {"sequence_id": f"left {number}"}})
            raw.send(text({"type": "start", "sequence_id": f"left {number}"}) + message * 20 + message[:30])
            leave(raw, number % 2)

    def five_hundred_quiet_connections(self):
        quiet = [self.open() for _ in range(500)]
        self.must_be_well()
        for raw in quiet:
            raw.socket.close()

    # Messages.

    def messages(self):
        """Name, frame: one answer each, an error or an output, and the connection stays."""
        good = self.request
        request = lambda **members: {**good, **members}
        yield "deep_lists", frame(TEXT, b"[" * DEPTH)
        yield "deep_objects", frame(TEXT, b'{"a":' * DEPTH)
        yield "deep_lists_in_an_unknown_key", frame(TEXT, b'{"x":' + b"[" * DEPTH + b"]" * DEPTH + b"}")
        deep = json.dumps(request(parameters={"x": "HERE"})).replace('"HERE"', "[" * DEPTH + "]" * DEPTH)
        yield "deep_lists_in_parameters", frame(TEXT, deep.encode())
        for name, number in {"1e999": "1e999", "long": "1" * 100_000, "fraction": "0." + "1" * 100_000, "nan": "NaN", "minus": "-"}.items():
            sample = json.dumps(request(inputs=[{**good["inputs"][0], "data": ["HERE", 1, 1]}]))
            yield f"number_{name}", frame(TEXT, sample.replace('"HERE"', number).encode())
            yield f"sequence_id_{name}", frame(TEXT, f'{{"type":"start","sequence_id":{number}}}'.encode())
            yield f"last_{name}", frame(TEXT, f'{{"type":"resume","sequence_id":"x","sequence_token":"{"0" * 32}","last":{number}}}'.encode())
        yield "id_of_1_mib", text(request(id="x" * (1 << 20)))
        yield "type_of_1_mib", text(request(type="x" * (1 << 20)))
        yield "sequence_id_of_1_mib", text({"type": "start", "sequence_id": "x" * (1 << 20)})
        yield "token_of_1_mib", text({"type": "resume", "sequence_id": "x", "sequence_token": "0" * (1 << 20), "last": 0})
        yield "output_name_of_1_mib", text(request(outputs=[{"name": "x" * (1 << 20)}]))
        yield "ten_thousand_inputs", text(request(inputs=good["inputs"] * 10_000))
        yield "hundred_thousand_dimensions", text(request(inputs=[{**good["inputs"][0], "shape": [1] * DEPTH}]))
        yield "huge_shape", text(request(inputs=[{**good["inputs"][0], "shape": [2**32, 2**32]}]))
        yield "doubled_members", frame(TEXT, json.dumps(good).encode()[:-1] + b',"id":"twice"}')
        yield "doubled_type", frame(TEXT, b'{"type":"start","type":"end"}')
        for length in [0, 1, 3, 10**6, 2**31, 2**32 - 1]:
            yield f"header_length_{length}", binary(good, length=length)
        yield "no_header_length", frame(BINARY, b"\0\0")
        yield "empty_binary_message", frame(BINARY)
        yield "empty_text_message", frame(TEXT)
        yield "header_that_is_no_utf_8", binary(b'{"id":"\xff\xfe"}')
        for size in [0, 11, 13, 2**31, 2**62, 2**63 - 1, 2**64 - 1, -1]:
            raw = {**good["inputs"][0], "parameters": {"binary_data_size": size}}
            del raw["data"]
            yield f"binary_data_size_{size}", binary(request(inputs=[raw]), bytes(12))
        texts = {"name": "sample", "datatype": "BYTES", "shape": [1, 3], "parameters": {"binary_data_size": 8}}
        yield "text_that_claims_4_gib", binary(request(inputs=[texts]), b"\xff\xff\xff\xffabcd")

    def answers_once(self, data):
        with self.open() as raw:
            raw.send(data)
            answer = raw.hear()
            raw.send(text(self.request))
            must(answer["type"] in ["error", "output", "started"], f"type of {str(answer)[:300]}")
            if answer["type"] == "error":
                must_equal(answer["retry"], False, "retry")
                must(0 < len(answer["error"]) < 4096, f"a text of {len(answer['error'])} characters")
            must_equal(raw.hear()["id"], "good", "id of the answer to a good request behind it")

    def random_bytes(self):
        chance = random.Random(4711)
        for _ in range(300):
            with self.open() as raw:
                raw.send(chance.randbytes(chance.randrange(1, 5000)))

    def random_frames(self):
        """Frames that are well formed and hold anything, with some that are not."""
        chance = random.Random(4712)
        for _ in range(300):
            with self.open() as raw:
                for _ in range(chance.randrange(1, 30)):
                    payload = chance.randbytes(chance.choice([0, 1, 2, 4, 5, 100, 125, 126, 3000]))
                    opcode = chance.choice([0, TEXT, BINARY, BINARY, BINARY, PING, PONG, chance.randrange(16)])
                    raw.send(frame(opcode, payload, fin=chance.random() < 0.8, reserved=chance.random() < 0.02))

    def mutated(self, seeds, wrap, alphabet, seed, rounds=60, each=50):
        """Bytes changed, cut out, and put in at random: one answer each, and the connection stays."""
        chance = random.Random(seed)
        with self.open() as raw:
            for round_ in range(rounds):
                batch = []
                for _ in range(each):
                    payload = bytearray(chance.choice(seeds))
                    for _ in range(chance.randrange(1, 5)):
                        at = chance.randrange(len(payload))
                        what = chance.random()
                        if what < 0.6:
                            payload[at] = chance.choice(alphabet)
                        elif what < 0.8:
                            del payload[at : at + chance.randrange(1, 8)]
                            payload = payload or bytearray(b" ")
                        else:
                            payload[at:at] = bytes(chance.choices(alphabet, k=chance.randrange(1, 8)))
                    batch.append(bytes(payload))
                probe = f"probe {round_}"
                raw.send(b"".join(wrap(payload) for payload in batch) + text({**self.request, "id": probe}))
                # In any order; one that too many come to is found by the next round.
                answers, probed = 0, False
                while answers < each or not probed:
                    answer = raw.hear()
                    if answer.get("id") == probe:
                        self.must_be_right(answer, probe)
                        probed = True
                    else:
                        must(answer["type"] in ["output", "error"], f"type of {str(answer)[:300]}")
                        answers += 1
                must_equal(answers, each, f"answers to {each} messages")

    def seeds(self):
        with_place = {**self.request, "parameters": {"timeout": 10_000_000, "priority": 1, "binary_data_output": True}}
        chosen = {**self.request, "outputs": [{"name": "score", "parameters": {"classification": 1}}, {"name": "alarm"}]}
        resume = {"type": "resume", "sequence_id": "nobody", "sequence_token": "0123456789abcdef" * 2, "last": 5}
        return [json.dumps(one).encode() for one in [self.request, with_place, chosen, resume]]

    def mutations_of_text_messages(self):
        printable = bytes(range(32, 127)) + b'{}[]",:0123456789' * 3
        self.mutated(self.seeds(), lambda payload: frame(TEXT, payload), printable, 4713)

    def mutations_of_headers_of_binary_messages(self):
        self.mutated(self.seeds(), lambda payload: binary(payload), bytes(range(256)), 4714)

    def mutations_of_whole_binary_messages(self):
        raw = {**self.request["inputs"][0], "parameters": {"binary_data_size": 12}}
        del raw["data"]
        header = json.dumps({"id": "raw", "inputs": [raw]}).encode()
        message = struct.pack("<I", len(header)) + header + bytes(12)
        self.mutated([message], lambda payload: frame(BINARY, payload), bytes(range(256)), 4715)

    groups = {
        "floods": [
            a_flood_of_pings_while_requests_are_answered,
            a_flood_of_pings_by_one_who_reads_nothing,
            a_flood_of_pongs_that_nobody_asked_for,
            a_flood_of_starts,
            a_flood_of_sequences_that_end,
            a_flood_of_messages_to_a_sequence,
        ],
        "readers": [
            a_client_that_does_not_answer_pings_is_cut,
            a_half_open_client_is_cut_and_its_sequence_goes_on,
            a_slow_reader_of_requests,
            a_slow_reader_of_errors,
            a_slow_reader_of_a_sequence,
        ],
        "departures": [
            a_hundred_leave_within_the_handshake,
            a_hundred_leave_within_a_message,
            a_hundred_leave_before_their_answers,
            a_hundred_leave_within_a_sequence,
            five_hundred_quiet_connections,
        ],
        "randomness": [
            random_bytes,
            random_frames,
            mutations_of_text_messages,
            mutations_of_headers_of_binary_messages,
            mutations_of_whole_binary_messages,
        ],
        "fragments": [
            a_message_over_the_limit_that_is_sent,
            fragments_without_end,
            two_hundred_thousand_empty_fragments,
            two_hundred_messages_announced_and_never_sent,
            a_character_cut_by_fragments_is_read,
            a_frame_byte_by_byte_is_read,
            a_mask_is_applied,
        ],
    }

    def run(self, checks, only):
        def run(name, check, *arguments):
            if only in name:
                begin = time.monotonic()
                checks.run(name, bounded, check, *arguments)
                if time.monotonic() - begin > 1:
                    print(f"  {time.monotonic() - begin:.1f} s", flush=True)

        for name, data, statuses in self.handshakes():
            run(f"handshake_{name}", self.refuses_handshake, data, statuses)
        checks.run("well_after_handshakes", self.must_be_well)
        for name, data, codes in self.broken_frames():
            run(name, self.closes, data, codes)
        checks.run("well_after_frames", self.must_be_well)
        for name, data in self.messages():
            run(f"message_{name}", self.answers_once, data)
        checks.run("well_after_messages", self.must_be_well)
        for group, attacks in self.groups.items():
            for attack in attacks:
                run(attack.__name__, attack, self)
            checks.run(f"well_after_{group}", self.must_be_well)


def bounded(check, *arguments):
    try:
        check(*arguments)
    except TimeoutError:
        raise Failed(f"nothing came within {PATIENCE:g} s") from None


def leave(connection, by_reset):
    if by_reset:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()


def is_reset(connected):
    """Whether the peer has ended the connection, without reading what it sent."""
    error = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    state = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    established = 1
    return bool(error) or state != established


class Sender(threading.Thread):
    """Sends pieces while somebody reads."""

    def __init__(self, raw, pieces):
        super().__init__(daemon=True)
        self.raw, self.pieces, self.failure = raw, pieces, "it does not end"
        self.start()

    def run(self):
        try:
            for piece in self.pieces:
                self.raw.socket.sendall(piece)
            self.failure = None
        except OSError as error:
            self.failure = repr(error)

    def must_be_done(self):
        self.join(PATIENCE)
        must(self.failure is None, f"sending failed: {self.failure}")


class Neighbour(threading.Thread):
    """Good requests all the while, on one connection."""

    def __init__(self, hostile):
        super().__init__(daemon=True)
        self.hostile, self.over, self.failure, self.times = hostile, threading.Event(), None, []

    def run(self):
        try:
            with self.hostile.open() as raw:
                while not self.over.wait(0.005):
                    begin = time.monotonic()
                    raw.send(text(self.hostile.request))
                    self.hostile.must_be_right(raw.hear())
                    self.times.append(time.monotonic() - begin)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def report(self):
        self.over.set()
        self.join(2 * PATIENCE)
        must(self.failure is None, f"a neighbour: {self.failure}")
        must(self.times, "a neighbour had no answer")
        times = sorted(self.times)
        usual, slowest = times[len(times) // 2], times[-1]
        print(f"  {len(times)} requests of a neighbour took {usual * 1000:.1f} ms, at most {slowest * 1000:.0f}", flush=True)
        must(usual <= USUAL and slowest <= SLOWEST, f"a neighbour waited {usual:.3f} s, at most {slowest:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--pid", type=int, help="process id of the node, whose memory is watched")
    parser.add_argument("--log", type=pathlib.Path, help="the node's output, in which no panic may stand")
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    arguments = parser.parse_args()
    host, _, port = arguments.url.rpartition(":")
    checks = Checks()
    Hostile((host, int(port)), arguments.pid, arguments.log).run(checks, arguments.only)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
