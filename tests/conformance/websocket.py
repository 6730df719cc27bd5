"""`grid.v1` (docs/streaming.md), by the unmodified PyPI client `websockets`, against a running node that serves configs/streams.toml.

    python tests/conformance/websocket.py --url 127.0.0.1:8000 [--short 127.0.0.1:8100]

The node gets `digits` loaded. `--short` names a second node for what needs one: see tests/conformance/run_streams.
"""

import argparse
import json
import random
import struct
import sys
import threading
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from checks import MODELS, Checks, Failed, must, must_be_close, must_equal, must_name, wait_until
from grid_v1 import PATIENCE, Rest, Stream, must_be_error, must_be_outcome, outputs_of, resume_of, step_of
from recordings import Speech, Vitals, fp32

PIPELINED = 10_000
RESUMED_SEQUENCES = 40
# Before everything else, and the answer in a binary message.
FIRST = {"parameters": {"priority": 1, "binary_data_output": True}}
VITALS_OUTPUTS = ["score", "alarm", "mean_out", "variance_out", "count_out"]


class Connections:
    """What a connection is, beside what is said on it."""

    def __init__(self, address, vitals):
        self.address, self.vitals = address, vitals

    def stream(self, *arguments, **options):
        return Stream(self.address, *arguments, **options)

    def refuses(self, path, status, words=(), **options):
        try:
            connect(f"ws://{self.address}{path}", open_timeout=PATIENCE, **options).close()
        except InvalidStatus as refusal:
            response = refusal.response
            must_equal(response.status_code, status, f"status ({response.body[:300]!r})")
            must_name(json.loads(response.body)["error"], words)
        else:
            raise Failed(f"a WebSocket at {path}, expected the status {status}")

    def check_ready_tells_the_limits(self):
        with self.stream() as stream:
            limits = stream.ready["limits"]
            for key in ["message_bytes", "in_flight", "idle_timeout_ms", "ping_interval_ms"]:
                must(isinstance(limits[key], int) and limits[key] > 0, f"{key} of {limits}")

    def check_the_subprotocol_is_chosen_where_it_is_offered(self):
        offers = {None: None, ("grid.v1",): "grid.v1", ("grid.v9", "grid.v1", "chat"): "grid.v1"}
        for offered, chosen in offers.items():
            with self.stream(subprotocols=offered and list(offered)) as stream:
                must_equal(stream.socket.subprotocol, chosen, f"subprotocol of those offered, {offered}")

    def check_other_subprotocols_are_refused(self):
        self.refuses("/v2/models/vitals/stream", 400, ["grid.v1"], subprotocols=["grid.v2", "chat"])

    def check_compression_is_not_negotiated(self):
        with self.stream(compression="deflate") as stream:
            must("Sec-WebSocket-Extensions" not in stream.socket.response.headers, "an extension was taken")
            self.one_request(stream)

    def check_versions_in_the_path(self):
        with self.stream("vitals", "1") as stream:
            must_equal(self.one_request(stream)["model_version"], "1", "version")
        self.refuses("/v2/models/vitals/versions/99/stream", 404, ["vitals", "99"])
        self.refuses("/v2/models/vitals/versions/new/stream", 404)

    def check_an_unknown_model_is_refused(self):
        self.refuses("/v2/models/no_such_model/stream", 404, ["no_such_model"])

    def check_pages_of_another_origin_are_refused(self):
        port = self.address.rpartition(":")[2]
        foreign = ["http://example.org", f"http://127.0.0.1.example.org:{port}", "http://127.0.0.1:1", "null"]
        for origin in foreign:
            self.refuses("/v2/models/vitals/stream", 403, ["allow_origins"], origin=origin)
        with self.stream(origin=f"http://{self.address}") as stream:
            self.one_request(stream)

    def check_pings_are_answered(self):
        with self.stream() as stream:
            for payload in [b"", b"x", bytes(range(125))]:
                must(stream.socket.ping(payload).wait(PATIENCE), f"no pong for {payload!r}")
            for _ in range(20):
                stream.socket.pong(b"nobody asked")
            self.one_request(stream)

    def check_a_close_is_answered_with_its_code(self):
        for code in [1000, 1001, 4321]:
            stream, begin = self.stream(), time.monotonic()
            # Returns when the server, whose part that is, has closed the TCP connection too.
            stream.socket.close(code, "done")
            must(stream.socket.protocol.close_rcvd is not None, "no answer to a close")
            must_equal(stream.socket.protocol.close_rcvd.code, code, "the code of the answer")
            took = time.monotonic() - begin
            must(took < 1, f"the server kept the connection open for {took:.1f} s behind its answer to a close")

    def check_fragmented_messages_are_read(self):
        text = json.dumps(self.request("fragments"))
        header, raw = self.binary_request("raw fragments")
        message = struct.pack("<I", len(header)) + header + raw
        with self.stream() as stream:
            for pieces in [1, 7, 10_000]:
                stream.socket.send([text[at : at + pieces] for at in range(0, len(text), pieces)])
                self.must_be_right(stream.hear(), "fragments")
                stream.socket.send([message[at : at + pieces] for at in range(0, len(message), pieces)])
                self.must_be_right(stream.hear(), "raw fragments")

            def with_pings():
                for at in range(0, len(text), 40):
                    stream.socket.ping()
                    yield text[at : at + 40]

            stream.socket.send(with_pings())
            self.must_be_right(stream.hear(), "fragments")

    def check_the_server_sends_one_frame_a_message(self):
        with self.stream() as stream:
            stream.say(self.request("one"))
            must_equal(len(list(stream.socket.recv_streaming())), 1, "frames")

    def request(self, request_id, step=1):
        return {"id": request_id, "inputs": self.vitals.inputs(step)}

    def binary_request(self, request_id, step=1):
        (sample,) = self.vitals.inputs(step)
        raw = struct.pack("<3f", *sample.pop("data"))
        sample["parameters"] = {"binary_data_size": len(raw)}
        return json.dumps({"id": request_id, "inputs": [sample]}).encode(), raw

    def must_be_right(self, answer, request_id, step=1):
        must_equal((answer["type"], answer.get("id")), ("output", request_id), f"type and id of {str(answer)[:300]}")
        outputs = outputs_of(answer)
        must_equal(list(outputs), VITALS_OUTPUTS, "outputs")
        sample = [fp32(value) for value in self.vitals.steps[step - 1]["sample"]]
        must_equal([fp32(value) for value in outputs["mean_out"][2]], sample, "mean_out")

    def one_request(self, stream):
        answer = stream.ask(self.request("once"))
        self.must_be_right(answer, "once")
        return answer


class Requests:
    """Requests that belong to no sequence."""

    def __init__(self, address, vitals):
        self.address, self.vitals, self.rest = address, vitals, Rest(address)
        self.rest.load("digits")
        self.digits = json.loads((MODELS / "digits" / "sample.json").read_text())["inputs"]

    def stream(self, *arguments, **options):
        return Stream(self.address, *arguments, **options)

    def inputs(self, number):
        """Another sample of another patient each time, with its state."""
        chance = random.Random(number)
        tensors = {"sample": 3, "mean": 3, "variance": 3, "count": 1}
        values = lambda count: [fp32(chance.uniform(1, 100)) for _ in range(count)]
        return [
            {"name": name, "datatype": "FP32", "shape": [1, count], "data": values(count)}
            for name, count in tensors.items()
        ]

    def raw(self, inputs):
        """The same inputs without data, and their data."""
        raw = [struct.pack(f"<{len(tensor['data'])}f", *tensor["data"]) for tensor in inputs]
        bare = [{key: value for key, value in tensor.items() if key != "data"} for tensor in inputs]
        return [{**t, "parameters": {"binary_data_size": len(r)}} for t, r in zip(bare, raw)], b"".join(raw)

    def expected(self, inputs, model="vitals", **members):
        status, answer = self.rest.infer(model, {"inputs": inputs, **members})
        must_equal(status, 200, f"status of REST ({answer})")
        return outputs_of(answer)

    def must_equal_rest(self, answer, expected, request_id):
        must_equal(answer.get("id"), request_id, f"id of {str(answer)[:300]}")
        must_equal(answer["type"], "output", f"type of {str(answer)[:300]}")
        found = outputs_of(answer)
        must_equal(list(found), list(expected), "outputs")
        for name, (datatype, shape, values) in expected.items():
            must_equal(found[name][:2], (datatype, shape), f"datatype and shape of {name}")
            if datatype == "FP32":
                must_equal([fp32(v) for v in found[name][2]], [fp32(v) for v in values], f"values of {name}")
            else:
                must_equal(found[name][2], values, f"values of {name}")

    def check_ten_thousand_pipelined_requests_are_each_answered_once(self):
        kinds = [self.inputs(number) for number in range(50)]
        expected = [self.expected(inputs) for inputs in kinds]
        raw = [self.raw(inputs) for inputs in kinds]
        with self.stream() as stream:

            def send():
                for number in range(PIPELINED):
                    kind, request_id = number % len(kinds), f"request {number}"
                    inputs, data = raw[kind] if number % 3 == 0 else (kinds[kind], None)
                    back = {"binary_data_output": number % 2 == 0}
                    stream.say({"id": request_id, "inputs": inputs, "parameters": back}, data)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            answered = set()
            for _ in range(PIPELINED):
                answer = stream.hear()
                request_id = answer.get("id")
                must(request_id and request_id not in answered, f"answered twice, or never asked: {answer}")
                answered.add(request_id)
                number = int(request_id.split()[1])
                must_equal(answer["binary"], number % 2 == 0, "whether the answer is binary")
                self.must_equal_rest(answer, expected[number % len(kinds)], request_id)
            sender.join()
            must_equal(len(answered), PIPELINED, "answers")
            stream.is_silent()

    def check_ten_connections_at_once(self):
        failures = []

        def one(connection):
            try:
                with self.stream() as stream:
                    for number in range(200):
                        stream.say({"id": str(number), "inputs": self.inputs(connection)})
                    expected = {str(number) for number in range(200)}
                    for _ in range(200):
                        answer = stream.hear()
                        expected.remove(answer["id"])
                        self.must_equal_rest(answer, rest[connection], answer["id"])
            except Exception as error:
                failures.append(repr(error))

        rest = [self.expected(self.inputs(connection)) for connection in range(10)]
        run_all([lambda connection=connection: one(connection) for connection in range(10)])
        must(not failures, failures)

    def check_outputs_are_chosen_in_each_form(self):
        inputs = self.inputs(1)
        everything = self.expected(inputs)
        with self.stream() as stream:
            chosen = [{"name": "alarm", "parameters": {"binary_data": True}}, {"name": "score"}]
            answer = stream.ask({"id": "both", "inputs": inputs, "outputs": chosen})
            must(answer["binary"], "a raw output in a text message")
            raw = ["parameters" in output for output in answer["outputs"]]
            must_equal(raw, [True, False], "which outputs are raw")
            expected = {name: everything[name] for name in ["alarm", "score"]}
            self.must_equal_rest(answer, expected, "both")
            stream.refused({"id": "x", "inputs": inputs, "outputs": [{"name": "nope"}]}, "invalid", id="x")

    def check_classification_gives_texts_in_each_form(self):
        for binary in [False, True]:
            outputs = [{"name": "probability", "parameters": {"classification": 3, "binary_data": binary}}]
            status, expected = self.rest.infer("digits", {"inputs": self.digits, "outputs": [{**outputs[0], "parameters": {"classification": 3}}]})
            must_equal(status, 200, "status of REST")
            with self.stream("digits") as stream:
                answer = stream.ask({"id": "c", "inputs": self.digits, "outputs": outputs})
                must_equal(answer["binary"], binary, "whether the answer is binary")
                self.must_equal_rest(answer, outputs_of(expected), "c")
                must_equal(outputs_of(answer)["probability"][0], "BYTES", "datatype")

    def check_a_batch_of_many_rows(self):
        rows = 16
        inputs = [{**t, "shape": [rows, t["shape"][1]], "data": t["data"] * rows} for t in self.inputs(2)]
        with self.stream() as stream:
            bare, data = self.raw(inputs)
            answer = stream.ask({"id": "rows", "inputs": bare, "parameters": {"binary_data_output": True}}, data)
            self.must_equal_rest(answer, self.expected(inputs), "rows")

    def check_parameters_and_keys_of_others_are_ignored(self):
        with self.stream() as stream:
            parameters = {"customer": "somebody", "trial": True, "n": 7, "timeout": 5_000_000, "priority": 1}
            request = {"id": "p", "inputs": self.inputs(3), "parameters": parameters, "x": [{}], "type": "infer"}
            self.must_equal_rest(stream.ask({**request, "model_name": "other"}), self.expected(self.inputs(3)), "p")

    def check_a_timeout_that_is_over(self):
        with self.stream() as stream:
            late = {"id": "late", "inputs": self.inputs(4), "parameters": {"timeout": 1}}
            answer = stream.ask(late)
            if answer["type"] == "error":
                must_be_error(answer, "deadline_exceeded", id="late")
            for wrong in [0, -1, "soon", 1.5]:
                refused = {**late, "id": "wrong", "parameters": {"timeout": wrong}}
                stream.refused(refused, "invalid", id="wrong", retry=False)
            self.must_be_open(stream)

    def check_an_id_may_have_1_to_256_bytes(self):
        with self.stream() as stream:
            for good in ["a", "ü" * 128, "x" * 256, 'with "quotes"\n and \U0001f600', "\0"]:
                self.must_equal_rest(stream.ask({"id": good, "inputs": self.inputs(5)}), self.expected(self.inputs(5)), good)
            for bad in ["", "x" * 257, "ü" * 129]:
                error = stream.refused({"id": bad, "inputs": self.inputs(5)}, "invalid", retry=False)
                must_name(error["error"], ["id", "256"])
            for bad in [7, None, ["a"], {}]:
                error = stream.refused({"id": bad, "inputs": self.inputs(5)}, "invalid", retry=False)
                must_name(error["error"], ["id"])
            error = stream.refused({"inputs": self.inputs(5)}, "invalid", id=None)
            must_name(error["error"], ["id"])
            self.must_be_open(stream)

    def check_errors_come_by_id_and_leave_the_connection_open(self):
        (first, *rest) = self.inputs(6)
        wrong = {
            "name": [{**first, "name": "sampl"}, *rest],
            "datatype": [{**first, "datatype": "FP64"}, *rest],
            "shape": [{**first, "shape": [1, 4]}, *rest],
            "rank": [{**first, "shape": [3]}, *rest],
            "data": [{**first, "data": ["a", "b", "c"]}, *rest],
            "twice": [first, first, *rest],
            "missing": rest,
            "list": "inputs",
        }
        with self.stream() as stream:
            for name, inputs in wrong.items():
                stream.say({"id": name, "inputs": inputs})
            stream.say({"id": "good", "inputs": self.inputs(6)})
            unanswered = set(wrong)
            while unanswered:
                error = stream.hear()
                must_be_error(error, "invalid", retry=False)
                unanswered.remove(error["id"])
            self.must_equal_rest(stream.hear(), self.expected(self.inputs(6)), "good")

    def check_messages_that_cannot_be_read_are_errors_without_id(self):
        good = json.dumps({"id": "g", "inputs": self.inputs(7)})
        with self.stream() as stream:
            for text in ["", "{", good[:-1], "[]", "null", "7", '"text"', good + "x", '{"id":'] :
                stream.socket.send(text)
                must_be_error(stream.hear(), "invalid", retry=False)
            for binary in [b"", b"\x02\0\0", b"\xff\xff\xff\xff{}", b"\x03\0\0\0{}", struct.pack("<I", 2) + b"[]"]:
                stream.socket.send(binary)
                must_be_error(stream.hear(), "invalid", retry=False, id=None)
            self.must_be_open(stream)

    def check_an_unknown_type_is_an_error(self):
        with self.stream() as stream:
            error = stream.refused({"type": "stop", "id": "a"}, "invalid", id="a", retry=False)
            must_name(error["error"], ["type", "stop", "infer"])
            for other in ["", "Infer", 7, None, [], "ready", "output"]:
                stream.refused({"type": other, "id": "b"}, "invalid", id="b")
            stream.refused({"type": "cancel"}, "invalid")
            for word in ["resume", "end", "ack"]:
                stream.refused({"type": word}, "invalid")
            self.must_be_open(stream)

    def check_lying_sizes_of_raw_tensors_are_errors(self):
        inputs, data = self.raw(self.inputs(8))
        with self.stream() as stream:
            for size in [0, 11, 13, 2**31, 2**63, 2**64, -12, "12", 1.5]:
                lies = [{**inputs[0], "parameters": {"binary_data_size": size}}, *inputs[1:]]
                stream.refused({"id": "lies", "inputs": lies}, "invalid", raw=data, id="lies")
            stream.refused({"id": "more", "inputs": inputs}, "invalid", raw=data + b"x", id="more")
            stream.refused({"id": "less", "inputs": inputs}, "invalid", raw=data[:-1], id="less")
            stream.refused({"id": "text", "inputs": inputs}, "invalid", id="text")
            self.must_be_open(stream)

    def check_a_cancel_of_nothing_is_ignored(self):
        with self.stream() as stream:
            stream.say({"type": "cancel", "id": "never sent"})
            self.must_be_open(stream)
            stream.say({"type": "cancel", "id": "open"})
            stream.is_silent()

    def check_each_of_many_cancelled_requests_is_answered_once(self):
        with self.stream("digits") as stream:
            stream.ask({"id": "first", "inputs": self.digits})
            ids = {str(number) for number in range(500)}
            for request_id in list(ids):
                stream.say({"id": request_id, "inputs": self.digits})
                stream.say({"type": "cancel", "id": request_id})
            while ids:
                answer = stream.hear()
                ids.remove(answer["id"])
                if answer["type"] == "error":
                    must_be_error(answer, "cancelled", retry=False)
            stream.is_silent()

    def must_be_open(self, stream):
        self.must_equal_rest(stream.ask({"id": "open", "inputs": self.inputs(9)}), self.expected(self.inputs(9)), "open")


class Sequences:
    """Sequences on a node with the usual settings."""

    def __init__(self, address, vitals):
        self.address, self.vitals, self.rest = address, vitals, Rest(address)
        self.speech = Speech.find()
        self.chance = random.Random(20240229)
        self.taken = 0

    def stream(self, **options):
        return Stream(self.address, **options)

    def name(self):
        self.taken += 1
        return f"bed-{self.taken}"

    def must_step(self, stream, sequence, number, **parameters):
        """One message and its outcome."""
        stream.say(step_of(self.vitals, sequence, number, **parameters))
        must_be_outcome(self.vitals, stream.hear(), sequence, number, ends=parameters.get("sequence_end", False))

    def must_hear(self, stream, sequence, numbers, ends_with=None):
        for number in numbers:
            must_be_outcome(self.vitals, stream.hear(), sequence, number, ends=number == ends_with)

    def must_end(self, stream, sequence, last):
        ended = stream.hear()
        members = {key: ended.get(key) for key in ["type", "sequence_id", "last"]}
        must_equal(members, {"type": "ended", "sequence_id": str(sequence), "last": last}, "the end")

    def check_a_whole_sequence_message_by_message(self):
        for sequence in [self.name(), None]:
            with self.stream() as stream:
                started = stream.start(sequence)
                for key in ["messages", "bytes"]:
                    must(started["window"][key] > 0, f"window of {started}")
                must(started["resume_within_ms"] > 0, f"resume_within_ms of {started}")
                sequence = started["sequence_id"]
                must(1 <= len(sequence) <= 128, f"id {sequence!r}")
                for number in range(1, self.vitals.last):
                    self.must_step(stream, sequence, number)
                self.must_step(stream, sequence, self.vitals.last, sequence_end=True)
                self.must_end(stream, sequence, self.vitals.last)
                stream.is_silent()

    def check_a_sequence_without_numbers_in_windows(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            for first in range(1, self.vitals.last + 1, 40):
                numbers = range(first, first + 40)
                for number in numbers:
                    stream.say(step_of(self.vitals, sequence, number, numbered=False))
                self.must_hear(stream, sequence, numbers)
            stream.say({"type": "end", "sequence_id": sequence})
            self.must_end(stream, sequence, self.vitals.last)

    def check_a_start_in_the_first_message(self):
        for sequence in [self.name(), None]:
            with self.stream() as stream:
                first = step_of(self.vitals, sequence, 1, sequence_start=True)
                if sequence is None:
                    del first["parameters"]["sequence_id"]
                started = stream.ask(first)
                must_equal(started["type"], "started", "type of the first answer")
                sequence = started["sequence_id"]
                self.must_hear(stream, sequence, [1])
                self.must_step(stream, sequence, 2, sequence_end=True)
                self.must_end(stream, sequence, 2)

    def check_binary_messages_with_ids_in_a_sequence(self):
        with self.stream() as stream:
            sequence = stream.start(self.name())["sequence_id"]
            for number in range(1, 31):
                message = step_of(self.vitals, sequence, number, binary_data_output=True)
                sample = message["inputs"][0]
                raw = struct.pack("<3f", *sample.pop("data"))
                sample["parameters"] = {"binary_data_size": 12}
                answer = stream.ask({**message, "id": f"m{number}"}, raw)
                must(answer["binary"], "an answer without raw tensors")
                must_equal(answer["id"], f"m{number}", "id")
                must_be_outcome(self.vitals, answer, sequence, number)

    def check_the_state_can_be_asked_for(self):
        with self.stream() as stream:
            sequence = stream.start(self.name())["sequence_id"]
            for number in range(1, self.vitals.last):
                self.must_step(stream, sequence, number)
            message = step_of(self.vitals, sequence, self.vitals.last)
            message["outputs"] = [{"name": name} for name in ["mean_out", "variance_out", "count_out"]]
            self.vitals.must_match_state(outputs_of(stream.ask(message)))

    def check_a_whole_number_is_the_same_as_its_digits(self):
        with self.stream() as stream:
            started = stream.start(4711)
            must_equal(started["sequence_id"], "4711", "sequence_id")
            self.must_step(stream, 4711, 1)
            self.must_step(stream, "4711", 2)
            stream.refused(step_of(self.vitals, "04711", 3), "sequence_unknown")
            stream.start(2**64 - 1)
            must_be_outcome(self.vitals, stream.ask(step_of(self.vitals, 2**64 - 1, 1)), 2**64 - 1, 1)

    def check_ids_of_sequences(self):
        with self.stream() as stream:
            for good in ["x" * 128, "ü" * 64, "bed 7 / ward\U0001f600"]:
                stream.start(good)
                self.must_step(stream, good, 1)
            for bad in ["x" * 129, "ü" * 65, "a\nb", "\0", -1, 2**64, 1.5, True, [], {}]:
                stream.refused({"type": "start", "sequence_id": bad}, "invalid", retry=False)

    def check_speech_is_found(self):
        if self.speech is None:
            return print("SKIPPED the speech: silero_vad was not fetched")
        with self.stream(model="silero_vad") as stream:
            sequence = stream.start("sound")["sequence_id"]
            for first in range(1, self.speech.last + 1, 50):
                numbers = range(first, min(first + 50, self.speech.last + 1))
                for number in numbers:
                    inputs, raw = self.speech.raw_inputs(number)
                    place = {"sequence_id": sequence, "sequence_number": number}
                    stream.say({"inputs": inputs, "parameters": {**place, "binary_data_output": number % 2 == 0}}, raw)
                for number in numbers:
                    must_be_outcome(self.speech, stream.hear(), sequence, number)

    def check_interleaved_sequences_on_one_connection(self):
        with self.stream() as stream:
            sequences = [stream.start(self.name())["sequence_id"] for _ in range(8)]
            next_of = dict.fromkeys(sequences, 1)
            for first in range(1, self.vitals.last + 1, 30):
                orders = [(number, sequence) for number in range(first, first + 30) for sequence in sequences]
                for number, sequence in orders:
                    stream.say(step_of(self.vitals, sequence, number))
                for _ in orders:
                    answer = stream.hear()
                    sequence = answer["parameters"]["sequence_id"]
                    must_be_outcome(self.vitals, answer, sequence, next_of[sequence])
                    next_of[sequence] += 1
            must_equal(set(next_of.values()), {self.vitals.last + 1}, "the next numbers")

    def check_sequences_on_several_connections(self):
        failures = []

        def one(sequence):
            try:
                with self.stream() as stream:
                    stream.start(sequence)
                    for first in range(1, self.vitals.last + 1, 60):
                        numbers = range(first, first + 60)
                        for number in numbers:
                            stream.say(step_of(self.vitals, sequence, number))
                        self.must_hear(stream, sequence, numbers)
            except Exception as error:
                failures.append(f"{sequence}: {error!r}")

        run_all([lambda sequence=self.name(): one(sequence) for _ in range(8)])
        must(not failures, failures)

    def check_the_same_name_at_two_models(self):
        if self.speech is None:
            return print("SKIPPED the second model: silero_vad was not fetched")
        with self.stream() as vitals, self.stream(model="silero_vad") as speech:
            sequence = self.name()
            vitals.start(sequence)
            speech.start(sequence)
            self.must_step(vitals, sequence, 1)
            inputs, raw = self.speech.raw_inputs(1)
            answer = speech.ask({"inputs": inputs, "parameters": {"sequence_id": sequence}}, raw)
            must_be_outcome(self.speech, answer, sequence, 1)

    # Resuming.

    def check_no_gap_and_no_repeat_after_resets_at_random_points(self):
        for _ in range(RESUMED_SEQUENCES):
            self.reset_again_and_again()

    def reset_again_and_again(self):
        """Sends as much as may be unanswered, reads some of the outcomes, and resets the connection."""
        stream = self.stream()
        started = stream.start()
        sequence, window = started["sequence_id"], started["window"]["messages"]
        sent, heard, last = 0, 0, self.vitals.last
        while heard < last:
            most = min(window, last - heard)
            for number in range(sent + 1, heard + self.chance.randint(0, most) + 1):
                stream.say(step_of(self.vitals, sequence, number))
                sent = number
            wanted = self.chance.randint(0, sent - heard)
            self.must_hear(stream, sequence, range(heard + 1, heard + wanted + 1))
            heard += wanted
            if self.chance.random() < 0.7:
                stream.abort()
                stream = self.stream()
                resumed = stream.resume(started, heard)
                must(heard < resumed["next"] <= sent + 1, f"heard {heard}, sent {sent}: {resumed}")
                sent = resumed["next"] - 1
        stream.say({"type": "end", "sequence_id": sequence})
        self.must_end(stream, sequence, last)
        stream.is_silent()
        stream.socket.close()

    def check_a_reset_within_a_message(self):
        for cut in [1, 3, 7, 50]:
            stream = self.stream()
            started = stream.start()
            sequence = started["sequence_id"]
            self.must_step(stream, sequence, 1)
            text = json.dumps(step_of(self.vitals, sequence, 2)).encode()
            frame = bytes([0x81, 0x80 | 126]) + struct.pack(">H", len(text)) + bytes(4) + text
            stream.socket.socket.sendall(frame[:cut])
            stream.abort()
            with self.stream() as stream:
                must_equal(stream.resume(started, 1)["next"], 2, "next")
                self.must_step(stream, sequence, 2)

    def check_resuming_on_the_same_connection(self):
        with self.stream() as stream:
            started = stream.start()
            sequence = started["sequence_id"]
            for number in range(1, 11):
                self.must_step(stream, sequence, number)
            must_equal(stream.resume(started, 4)["next"], 11, "next")
            self.must_hear(stream, sequence, range(5, 11))
            self.must_step(stream, sequence, 11)
            stream.is_silent()

    def check_an_older_connection_is_fenced(self):
        with self.stream() as old, self.stream() as new:
            started = old.start()
            sequence = started["sequence_id"]
            for number in range(1, 4):
                self.must_step(old, sequence, number)
            must_equal(new.resume(started, 3)["next"], 4, "next")
            fenced = old.hear()
            must_equal((fenced["type"], fenced["sequence_id"]), ("fenced", sequence), "what the old one hears")
            error = old.refused(step_of(self.vitals, sequence, 4), "sequence_unknown", "sequence_fenced")
            must_equal((error["sequence_id"], error["sequence_number"], error["sequence_outcome"]), (sequence, 4, False), "place")
            for word in [{"type": "end"}, {"type": "cancel", "sequence_number": 4}, {"type": "ack", "sequence_number": 3}]:
                old.refused({**word, "sequence_id": sequence}, "sequence_unknown", "sequence_fenced", sequence_id=sequence)
            self.must_step(new, sequence, 4)
            # And back again.
            must_equal(old.resume(started, 4)["next"], 5, "next")
            must_equal(new.hear()["type"], "fenced", "what the new one hears")
            self.must_step(old, sequence, 5)

    def check_fencing_a_connection_that_is_busy(self):
        for _ in range(20):
            with self.stream() as old, self.stream() as new:
                started = old.start()
                sequence = started["sequence_id"]
                sent = 60
                for number in range(1, sent + 1):
                    old.say(step_of(self.vitals, sequence, number))
                next_one = new.resume(started, 0)["next"]
                must(next_one <= sent + 1, f"next {next_one}, sent {sent}")
                self.must_hear(new, sequence, range(1, next_one))
                heard = 0
                while (answer := old.hear())["type"] == "output":
                    heard += 1
                    must_be_outcome(self.vitals, answer, sequence, heard)
                must_equal(answer["type"], "fenced", "what follows the outputs")
                self.must_step(new, sequence, next_one)
                new.is_silent()

    def check_a_wrong_token(self):
        with self.stream() as stream, self.stream() as other:
            started = stream.start()
            wrong = {**started, "sequence_token": "0" * 32}
            other.refused(resume_of(wrong, 0), "sequence_wrong_token", sequence_id=started["sequence_id"], retry=False)
            for bad in ["", "0" * 31, "g" * 32, 7, None]:
                other.refused(resume_of({**started, "sequence_token": bad}, 0), "invalid")
            self.must_step(stream, started["sequence_id"], 1)
            stream.is_silent()

    def check_a_gap_and_what_is_ahead(self):
        with self.stream() as stream, self.stream() as other:
            started = stream.start()
            sequence, window = started["sequence_id"], started["window"]["messages"]
            for number in range(1, 101):
                self.must_step(stream, sequence, number)
            other.refused(resume_of(started, 101), "sequence_ahead", sequence_id=sequence)
            other.refused(resume_of(started, 2**63), "sequence_ahead", sequence_id=sequence)
            for bad in [-1, "5", 1.5, None]:
                other.refused(resume_of(started, bad), "invalid")
            for last in [0, 1, 100 - window - 1]:
                other.refused(resume_of(started, last), "sequence_gap", sequence_id=sequence)
            self.must_step(stream, sequence, 101)
            must_equal(other.resume(started, 101 - window)["next"], 102, "next")
            self.must_hear(other, sequence, range(102 - window, 102))

    def check_what_was_acknowledged_may_be_forgotten(self):
        with self.stream() as stream, self.stream() as other:
            started = stream.start()
            sequence = started["sequence_id"]
            for number in range(1, 31):
                self.must_step(stream, sequence, number)
            stream.say({"type": "ack", "sequence_id": sequence, "sequence_number": 20})
            stream.say({"type": "ack", "sequence_id": sequence, "sequence_number": 10})
            self.must_step(stream, sequence, 31)
            other.refused(resume_of(started, 10), "sequence_gap")
            must_equal(other.resume(started, 20)["next"], 32, "next")
            self.must_hear(other, sequence, range(21, 32))

    def check_nothing_can_be_resumed_that_is_not_there(self):
        with self.stream() as stream:
            missing = {"sequence_id": "nobody", "sequence_token": "0" * 32}
            stream.refused(resume_of(missing, 0), "sequence_unknown", sequence_id="nobody")

    # Numbers.

    def check_a_message_sent_again_is_not_run_again(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            for number in [1, 2, 3, 1, 3, 2, 4, 4, 5]:
                self.must_step(stream, sequence, number)
            for number in range(6, 101):
                self.must_step(stream, sequence, number)
            self.must_step(stream, sequence, 50)
            stream.refused(step_of(self.vitals, sequence, 2), "sequence_gap", sequence_number=2, sequence_outcome=False)
            self.must_step(stream, sequence, 101)

    def check_a_number_left_out(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            for wrong in [2, 100, 2**63, 2**64 - 1]:
                members = {"sequence_number": wrong, "sequence_outcome": False, "sequence_id": sequence, "retry": False}
                stream.refused(step_of(self.vitals, sequence, wrong), "sequence_out_of_order", **members)
            for wrong in [0, -1, 1.5, "1", None, 2**64]:
                stream.refused({**step_of(self.vitals, sequence, 1, sequence_number=wrong), "id": "n"}, "invalid", id="n")
            self.must_step(stream, sequence, 1)

    def check_a_wrong_message_leaves_its_number_and_the_state(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            for number in range(1, 21):
                message = {**step_of(self.vitals, sequence, number), "id": "wrong"}
                message["inputs"] = [{"name": "sample", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}]
                place = {"sequence_id": sequence, "sequence_number": number, "sequence_outcome": False}
                stream.refused(message, "invalid", id="wrong", **place)
                self.must_step(stream, sequence, number)

    def check_the_error_of_a_message_that_cannot_be_read_has_its_place(self):
        """It cannot be known from elsewhere: the `id` of a message in a sequence may be missing."""
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            message = step_of(self.vitals, sequence, 1)
            message["inputs"][0] = {**message["inputs"][0], "shape": [1, 4]}
            place = {"sequence_id": sequence, "sequence_number": 1, "sequence_outcome": False}
            stream.refused(message, "invalid", **place)
            self.must_step(stream, sequence, 1)

    def check_state_sent_along_in_a_sequence(self):
        """Either the message is refused, or the server's own state counts."""
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            self.must_step(stream, sequence, 1)
            message = step_of(self.vitals, sequence, 2)
            message["inputs"].append({"name": "count", "datatype": "FP32", "shape": [1, 1], "data": [99.0]})
            answer = stream.ask(message)
            if answer["type"] == "error":
                must_be_error(answer, "invalid", sequence_outcome=False)
                self.must_step(stream, sequence, 2)
            else:
                must_be_outcome(self.vitals, answer, sequence, 2)
            message = step_of(self.vitals, sequence, 3)
            message["outputs"] = [{"name": "count_out"}]
            must_equal(outputs_of(stream.ask(message))["count_out"][2], [3.0], "count")

    def check_several_rows_do_not_fit_a_sequence(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            message = step_of(self.vitals, sequence, 1)
            message["inputs"] = [{"name": "sample", "datatype": "FP32", "shape": [2, 3], "data": [1.0] * 6}]
            stream.refused(message, "invalid", sequence_id=sequence, sequence_number=1, sequence_outcome=False)
            self.must_step(stream, sequence, 1)

    # Ends.

    def check_ends(self):
        with self.stream() as stream:
            empty = stream.start()
            stream.say({"type": "end", "sequence_id": empty["sequence_id"]})
            self.must_end(stream, empty["sequence_id"], 0)
            sequence = stream.start()["sequence_id"]
            for number in range(1, 31):
                stream.say(step_of(self.vitals, sequence, number))
            stream.say({"type": "end", "sequence_id": sequence})
            self.must_hear(stream, sequence, range(1, 30))
            outcome = stream.hear()
            self.vitals.must_match(30, outputs_of(outcome))
            self.must_end(stream, sequence, 30)

    def check_a_first_message_that_is_the_last(self):
        with self.stream() as stream:
            sequence = self.name()
            message = step_of(self.vitals, sequence, 1, sequence_start=True, sequence_end=True)
            must_equal(stream.ask(message)["type"], "started", "type")
            self.must_hear(stream, sequence, [1], ends_with=1)
            self.must_end(stream, sequence, 1)

    def check_a_message_behind_the_end_is_refused(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            for number in range(1, 11):
                stream.say(step_of(self.vitals, sequence, number))
            stream.say({"type": "end", "sequence_id": sequence})
            stream.say(step_of(self.vitals, sequence, 11))
            # Its error may come before the outcomes.
            answers = [stream.hear() for _ in range(12)]
            (error,) = [answer for answer in answers if answer["type"] == "error"]
            must_be_error(error, "sequence_ended", "sequence_unknown", sequence_number=11, sequence_outcome=False)
            must_equal([a["type"] for a in answers if a is not error], ["output"] * 10 + ["ended"], "the others")

    def check_an_ended_sequence_can_be_resumed(self):
        with self.stream() as stream, self.stream() as other:
            started = stream.start()
            sequence = started["sequence_id"]
            for number in range(1, 10):
                self.must_step(stream, sequence, number)
            self.must_step(stream, sequence, 10, sequence_end=True)
            self.must_end(stream, sequence, 10)
            for last in [10, 7, 0]:
                must_equal(other.resume(started, last)["next"], 11, "next")
                self.must_hear(other, sequence, range(last + 1, 11), ends_with=10)
                self.must_end(other, sequence, 10)
            other.refused(resume_of(started, 11), "sequence_ahead")
            other.refused(resume_of({**started, "sequence_token": "0" * 32}, 0), "sequence_wrong_token")

    def check_an_ended_sequence_can_be_ended_again(self):
        with self.stream() as stream:
            started = stream.start()
            end = {"type": "end", "sequence_id": started["sequence_id"]}
            self.must_step(stream, started["sequence_id"], 1)
            for _ in range(2):
                stream.say(end)
                self.must_end(stream, started["sequence_id"], 1)
            must_equal(stream.resume(started, 1)["next"], 2, "next")
            self.must_end(stream, started["sequence_id"], 1)
            stream.say(end)
            self.must_end(stream, started["sequence_id"], 1)

    def check_the_last_message_sent_again_to_an_ended_sequence(self):
        """It has an outcome already, so it gets that again."""
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            self.must_step(stream, sequence, 1, sequence_end=True)
            self.must_end(stream, sequence, 1)
            self.must_step(stream, sequence, 1, sequence_end=True)

    def check_a_message_to_an_ended_sequence_is_told_of_the_end(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            self.must_step(stream, sequence, 1, sequence_end=True)
            self.must_end(stream, sequence, 1)
            error = stream.refused(step_of(self.vitals, sequence, 2), "sequence_ended", sequence_outcome=False)
            must_name(error["error"], ["1"])

    def check_the_name_of_an_ended_sequence_can_be_taken_again(self):
        with self.stream() as stream:
            sequence = self.name()
            for _ in range(3):
                stream.start(sequence)
                self.must_step(stream, sequence, 1)
                self.must_step(stream, sequence, 2, sequence_end=True)
                self.must_end(stream, sequence, 2)

    def check_a_living_name_is_taken(self):
        with self.stream() as stream, self.stream() as other:
            sequence = stream.start(self.name())["sequence_id"]
            self.must_step(stream, sequence, 1)
            for one in [stream, other]:
                one.refused({"type": "start", "sequence_id": sequence}, "sequence_exists", sequence_id=sequence, retry=False)
                again = step_of(self.vitals, sequence, 1, sequence_start=True)
                one.refused(again, "sequence_exists", sequence_id=sequence)
            self.must_step(stream, sequence, 2)

    def check_a_sequence_of_another_connection_is_unknown_here(self):
        with self.stream() as stream, self.stream() as other:
            sequence = stream.start()["sequence_id"]
            other.refused(step_of(self.vitals, sequence, 1), "sequence_unknown", sequence_id=sequence)
            for word in ["end", "cancel", "ack"]:
                message = {"type": word, "sequence_id": sequence, "sequence_number": 1}
                other.refused(message, "sequence_unknown", sequence_id=sequence)
            self.must_step(stream, sequence, 1)

    def check_cancelling_what_has_its_outcome_changes_nothing(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            self.must_step(stream, sequence, 1)
            for number in [1, 2, 3, 2**64 - 1]:
                stream.say({"type": "cancel", "sequence_id": sequence, "sequence_number": number})
            self.must_step(stream, sequence, 2)
            stream.is_silent()

    # REST beside.

    def rest_step(self, sequence, number, status=200, **parameters):
        message = step_of(self.vitals, sequence, number, **parameters)
        found, answer = self.rest.infer("vitals", message)
        must_equal(found, status, f"status ({answer})")
        if status == 200:
            place = answer["parameters"]
            must_equal((place["sequence_id"], place["sequence_number"]), (str(sequence), number), "place")
            must_equal(place["sequence_end"], parameters.get("sequence_end", False), "sequence_end")
            must(place["sequence_durable"] >= number, f"not durable: {place}")
            self.vitals.must_match(number, outputs_of(answer))
        return answer

    def check_a_sequence_over_rest(self):
        sequence = self.name()
        token = self.rest_step(sequence, 1, sequence_start=True)["parameters"]["sequence_token"]
        must_equal(len(token), 32, "characters of the token")
        for number in range(2, self.vitals.last):
            self.rest_step(sequence, number, numbered=number % 2 == 0)
        self.rest_step(sequence, self.vitals.last, sequence_end=True)
        self.rest_step(sequence, self.vitals.last + 1, 410)
        self.rest_step(sequence, 5, 410, sequence_token=token)

    def check_errors_over_rest(self):
        sequence = self.name()
        self.rest_step(sequence, 1, 404)
        self.rest_step(sequence, 1, sequence_start=True)
        self.rest_step(sequence, 3, 409)
        self.rest_step(sequence, 2, 403, sequence_token="0" * 32)
        self.rest_step(sequence, 0, 400)
        self.rest_step(sequence, 2)
        self.rest_step(sequence, 2)
        self.rest_step(sequence, 1, 410)
        # Started over, it begins anew.
        self.rest_step(sequence, 1, sequence_start=True)
        self.rest_step(sequence, 2)

    def check_rest_continues_what_a_websocket_started(self):
        with self.stream() as stream:
            started = stream.start(self.name())
            sequence, token = started["sequence_id"], started["sequence_token"]
            self.must_step(stream, sequence, 1)
            self.rest_step(sequence, 2, 403)
            self.rest_step(sequence, 2, 403, sequence_token="0" * 32)
            self.rest_step(sequence, 1, 409, sequence_start=True)
            self.rest_step(sequence, 2, sequence_token=token)
            # The reader is told every outcome, in order.
            self.must_hear(stream, sequence, [2])
            self.must_step(stream, sequence, 3)
            stream.say({"type": "end", "sequence_id": sequence})
            self.must_end(stream, sequence, 3)
            self.rest_step(sequence, 4, 410, sequence_token=token)
            self.rest_step(sequence, 3, 200, sequence_token=token, sequence_end=True)

    def check_a_websocket_resumes_what_rest_started(self):
        sequence = self.name()
        token = self.rest_step(sequence, 1, sequence_start=True)["parameters"]["sequence_token"]
        for number in range(2, 21):
            self.rest_step(sequence, number)
        started = {"sequence_id": sequence, "sequence_token": token}
        with self.stream() as stream:
            must_equal(stream.resume(started, 20)["next"], 21, "next")
            self.must_step(stream, sequence, 21)
            self.rest_step(sequence, 22)
            self.must_hear(stream, sequence, [22])
            stream.refused({"type": "start", "sequence_id": sequence}, "sequence_exists")


class Short:
    """What needs a node with one instance of each model, short lives, and low bounds: see run_streams."""

    # Vitals that take their time: see slow_vitals.py.
    model = "slow_vitals"

    LIFE, WINDOW, MOST = 1.0, 4, 40
    # The model's max_batch_size, so that nothing rides along with a large request.
    ROWS = 2048

    def __init__(self, address, vitals):
        self.address, self.vitals, self.rest = address, vitals, Rest(address)
        self.rest.load(self.model)
        self.hogs = 4
        sizes = {"sample": 3, "mean": 3, "variance": 3, "count": 1}
        self.large = [
            {"name": name, "datatype": "FP32", "shape": [self.ROWS, size], "parameters": {"binary_data_size": 4 * size * self.ROWS}}
            for name, size in sizes.items()
        ]
        self.large_data = bytes(4 * sum(sizes.values()) * self.ROWS)

    def step(self, sequence, number, **parameters):
        """A message of which the outputs of vitals are wanted."""
        return {**step_of(self.vitals, sequence, number, **parameters), "outputs": [{"name": "score"}, {"name": "alarm"}]}

    def stream(self):
        return Stream(self.address, self.model)

    def while_busy(self, check):
        """The check, on a connection of its own, while the only instance of the model works through large requests that came
        before. Where these were answered before the check was through it says nothing, and comes again with more of them."""
        for _ in range(5):
            with self.stream() as hog, self.stream() as stream:
                stream.ask({"id": "so that the size of an answer is known", "inputs": self.vitals.inputs(1)})
                for number in range(self.hogs):
                    hog.say({"id": str(number), "inputs": self.large, "outputs": [{"name": "alarm"}], **FIRST}, self.large_data)
                # Messages are read in order: this one's error says that those before it were taken.
                hog.say({"id": "behind", "inputs": []})
                answered = 0
                while hog.hear()["id"] != "behind":
                    answered += 1
                try:
                    after = check(stream)
                except Failed:
                    # The last two answers may still be on their way.
                    if answered + waiting_messages(hog) < self.hogs - 2:
                        raise
                else:
                    if answered + waiting_messages(hog) < self.hogs:
                        return after and after()
                self.hogs *= 2
        raise Failed("the large requests were always answered before the check was through")

    def check_one_request_twice_in_flight(self):
        def check(stream):
            request = {"id": "same", "inputs": self.vitals.inputs(1)}
            stream.say(request)
            error = stream.refused(request, "invalid", id="same", retry=False)
            must_name(error["error"], ["same", "in flight"])

            def after():
                must_equal(stream.hear()["type"], "output", "type of the first")
                must_equal(stream.ask(request)["type"], "output", "type of the id when it is free again")
                stream.is_silent()

            return after

        self.while_busy(check)

    def check_a_request_is_cancelled(self):
        def check(stream):
            for request_id in ["a", "b", "c"]:
                stream.say({"id": request_id, "inputs": self.vitals.inputs(1)})
            must_be_error(stream.ask({"type": "cancel", "id": "b"}), "cancelled", id="b", retry=False)

            def after():
                must_equal({stream.hear()["id"] for _ in range(2)}, {"a", "c"}, "ids of the others")
                stream.is_silent()

            return after

        self.while_busy(check)

    def check_a_deadline_passes(self):
        def check(stream):
            stream.say({"id": "in time", "inputs": self.vitals.inputs(1), "parameters": {"timeout": 60_000_000}})
            stream.say({"id": "late", "inputs": self.vitals.inputs(1), "parameters": {"timeout": 1_000}})
            stream.refused({"type": "none", "id": "behind"}, "invalid", "deadline_exceeded", "overloaded")

            def after():
                answers = {answer["id"]: answer for answer in [stream.hear(), stream.hear()]}
                must_equal(answers["in time"]["type"], "output", "type")
                if "late" in answers:
                    # One that could not have come in time is told so at once.
                    must_be_error(answers["late"], "deadline_exceeded", "overloaded", id="late")

            return after

        self.while_busy(check)

    def check_urgent_requests_come_first(self):
        def check(stream):
            for number in range(100):
                stream.say({"id": str(number), "inputs": self.vitals.inputs(1), "parameters": {"priority": 9, "timeout": 60_000_000 + number}})
            stream.say({"id": "urgent", "inputs": self.vitals.inputs(1), "parameters": {"priority": 2}})
            # Everything before this was taken.
            stream.refused({"id": "behind", "inputs": []}, "invalid", id="behind")

            def after():
                ids = [stream.hear()["id"] for _ in range(101)]
                must_equal(len(set(ids)), 101, "answers")
                must_equal(ids[0], "urgent", "the first that is answered")

            return after

        self.while_busy(check)

    def check_a_full_window(self):
        def check(stream):
            sequence = stream.start()["sequence_id"]
            # One runs, or would; the others wait.
            for number in range(1, self.WINDOW + 2):
                stream.say(self.step(sequence, number))
            full = self.step(sequence, self.WINDOW + 2)
            place = {"sequence_id": sequence, "sequence_number": self.WINDOW + 2, "sequence_outcome": False}
            stream.refused(full, "sequence_full", retry=True, **place)
            stream.refused(self.step(sequence, 2), "sequence_under_way", sequence_number=2, sequence_outcome=False)
            stream.refused(self.step(sequence, 9), "sequence_out_of_order", sequence_number=9)

            def after():
                for number in range(1, self.WINDOW + 2):
                    must_be_outcome(self.vitals, stream.hear(), sequence, number)
                must_be_outcome(self.vitals, stream.ask(full), sequence, self.WINDOW + 2)
                stream.is_silent()

            return after

        self.while_busy(check)

    def check_cancels_and_deadlines_in_a_sequence_leave_its_state(self):
        """Of messages 1 to 5, the first and the third are taken back, and the fourth comes too late."""

        def check(stream):
            sequence = stream.start()["sequence_id"]
            for number in range(1, 6):
                late = {"timeout": 10_000} if number == 4 else {}
                stream.say({**self.step(sequence, number, **late), "id": f"m{number}"})
            for number in [3, 1]:
                stream.say({"type": "cancel", "sequence_id": sequence, "sequence_number": number})

            def after():
                expected = {1: "cancelled", 3: "cancelled", 4: "deadline_exceeded"}
                ran = []
                for number in range(1, 6):
                    answer = stream.hear()
                    must_equal(answer["id"], f"m{number}", "id")
                    if number in expected:
                        place = {"sequence_id": sequence, "sequence_number": number, "sequence_outcome": True}
                        must_be_error(answer, expected[number], retry=False, **place)
                    else:
                        must_equal(answer["type"], "output", f"type of {answer}")
                        must_equal(answer["parameters"]["sequence_number"], number, "number")
                        ran.append(number)
                # The state is that of those that ran.
                everything = [*ran, *range(6, 60)]
                other = stream.start()["sequence_id"]
                for place, number in enumerate(everything, 1):
                    if number > 5:
                        found = outputs_of(stream.ask(self.step(sequence, number)))
                    alone = stream.ask(self.step(other, number, sequence_number=place))
                    if number > 5:
                        must_equal(found, outputs_of(alone), f"outputs of message {number}")
                # Sent again they have the same outcomes, where those are kept.
                error = stream.refused(self.step(sequence, 4), "sequence_gap", "deadline_exceeded")
                must_equal(error["sequence_number"], 4, "number")

            return after

        self.while_busy(check)

    def check_messages_that_wait_outlive_their_connection(self):
        def check(stream):
            started = stream.start()
            for number in range(1, 5):
                stream.say(self.step(started["sequence_id"], number))
            stream.refused({"id": "behind", "inputs": []}, "invalid", id="behind")
            stream.abort()

            def after():
                with self.stream() as again:
                    must_equal(again.resume(started, 0)["next"], 5, "next")
                    for number in range(1, 5):
                        must_be_outcome(self.vitals, again.hear(), started["sequence_id"], number)
                    again.is_silent()

            return after

        self.while_busy(check)

    def check_a_message_behind_an_end_that_waits(self):
        def check(stream):
            sequence = stream.start()["sequence_id"]
            stream.say(self.step(sequence, 1))
            stream.say({"type": "end", "sequence_id": sequence})
            stream.refused(self.step(sequence, 2), "sequence_ended", sequence_number=2, sequence_outcome=False)
            stream.say({"type": "end", "sequence_id": sequence})

            def after():
                must_be_outcome(self.vitals, stream.hear(), sequence, 1, ends=True)
                ended = stream.hear()
                must_equal((ended["type"], ended["last"]), ("ended", 1), "the end")

            return after

        self.while_busy(check)

    def check_a_sequence_expires(self):
        with self.stream() as stream:
            started = stream.start()
            must_equal(started["resume_within_ms"], self.LIFE * 1000, "resume_within_ms")
            sequence = started["sequence_id"]
            must_be_outcome(self.vitals, stream.ask(self.step(sequence, 1)), sequence, 1)
        begin = time.monotonic()
        while True:
            # To ask for it with a wrong last number does not keep it alive.
            with self.stream() as stream:
                error = stream.refused(resume_of(started, 99), "sequence_ahead", "sequence_expired", "sequence_unknown")
            if error["kind"] != "sequence_ahead":
                break
            must(time.monotonic() - begin < 5 * self.LIFE, "it does not expire")
            time.sleep(0.05)
        must_equal(error["kind"], "sequence_expired", "kind")
        must(time.monotonic() - begin > 0.9 * self.LIFE, "it expired too early")
        status, answer = self.rest.infer(self.model, self.step(sequence, 2, sequence_token=started["sequence_token"]))
        must_equal(status, 410, f"status over REST ({answer})")
        with self.stream() as stream:
            wait_until(lambda: stream.ask(resume_of(started, 1))["kind"] == "sequence_unknown", "it is forgotten")

    def check_a_sequence_that_is_read_does_not_expire(self):
        with self.stream() as stream:
            sequence = stream.start()["sequence_id"]
            must_be_outcome(self.vitals, stream.ask(self.step(sequence, 1)), sequence, 1)
            time.sleep(2 * self.LIFE)
            must_be_outcome(self.vitals, stream.ask(self.step(sequence, 2)), sequence, 2)

    def check_most_sequences_that_may_live(self):
        def open_streams():
            with self.stream() as stream:
                for _ in range(self.MOST):
                    stream.start()
                error = stream.refused({"type": "start"}, "overloaded", retry=True)
                must(error["retry_after_ms"] > 0, f"no retry_after_ms: {error}")
                first = {"inputs": self.vitals.inputs(1), "parameters": {"sequence_id": "more", "sequence_start": True}}
                stream.refused(first, "overloaded", retry=True, sequence_id="more")
                status, answer = self.rest.infer(self.model, first)
                must_equal(status, 503, f"status over REST ({answer})")
                # An ended one makes room.
                first["parameters"] = {}
                must_equal(stream.ask({**first, "id": "r"})["type"], "output", "type of a request beside")

        def none_live():
            with self.stream() as stream:
                answer = stream.ask({"type": "start"})
                if answer["type"] == "started":
                    stream.say({"type": "end", "sequence_id": answer["sequence_id"]})
                    must_equal(stream.hear()["type"], "ended", "type")
                return answer["type"] == "started"

        # Sequences of earlier checks may still live.
        time.sleep(self.LIFE)
        wait_until(lambda: self.live() == 0, "no sequence lives")
        open_streams()
        wait_until(none_live, "there is room again when they have expired")
        wait_until(lambda: self.live() == 0, "no sequence lives")
        open_streams()

    def live(self):
        """The gauge of living sequences of vitals."""
        _, text = self.rest.text("GET", "/metrics")
        lines = [line for line in text.decode().splitlines() if line.startswith("grid_sequences{") and f'"{self.model}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def check_a_quiet_client_that_answers_pings_stays(self):
        with self.stream() as stream:
            interval = stream.ready["limits"]["ping_interval_ms"] / 1000
            time.sleep(6 * interval)
            must_equal(stream.ask({"id": "still", "inputs": self.vitals.inputs(1)})["type"], "output", "type")

    def check_an_idle_client_is_closed_with_4000(self):
        stream = self.stream()
        idle = stream.ready["limits"]["idle_timeout_ms"] / 1000
        begin = time.monotonic()
        try:
            message = stream.socket.recv(timeout=3 * idle + 2)
            raise Failed(f"a message: {message[:300]!r}")
        except ConnectionClosed:
            must_equal(stream.socket.close_code, 4000, "close code")
        must(time.monotonic() - begin > 0.9 * idle, "closed too early")


def waiting_messages(stream):
    """How many messages have arrived; they are read."""
    count = 0
    while True:
        try:
            stream.hear(0)
        except Failed:
            return count
        count += 1


def run_all(works):
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * PATIENCE)
        must(not thread.is_alive(), "it takes too long")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--short", help="host and port of a node with one instance of each model, short lives and low bounds")
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    arguments = parser.parse_args()
    vitals, checks = Vitals(), Checks()
    groups = [group(arguments.url, vitals) for group in (Connections, Requests, Sequences)]
    if arguments.short:
        groups.append(Short(arguments.short, vitals))
    for group in groups:
        for attribute in vars(type(group)):
            if attribute.startswith("check_") and arguments.only in attribute:
                checks.run(attribute.removeprefix("check_"), getattr(group, attribute))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
