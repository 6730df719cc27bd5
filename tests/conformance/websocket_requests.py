"""Requests of their own over `grid.v1`, by the client `websockets`. Run by websocket.py."""

import json
import random
import struct
import threading

from checks import MODELS, must, must_equal, must_name
from grid_v1 import Rest, Stream, must_be_error, outputs_of, run_all
from recordings import fp32

PIPELINED = 10_000


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
