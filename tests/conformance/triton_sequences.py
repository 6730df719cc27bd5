"""Sequences by the official Triton clients, unmodified, over HTTP and gRPC, and whatever else the gRPC client can say.

    python tests/conformance/triton_sequences.py --url 127.0.0.1:8000 [--grpc 127.0.0.1:8001]

The node serves configs/streams.toml, and `slow_vitals` is in its repository: see tests/conformance/run_streams. Loads and unloads
`digits`. Without --grpc only HTTP is checked.
"""

import argparse
import itertools
import queue
import sys
import time

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from checks import Checks, Failed, Sample, must, must_equal, must_name, wait_until
from recordings import Speech, Vitals

PATIENCE = 10.0


class Client:
    """What the two clients have in common."""

    def __init__(self, triton, client, kind):
        self.triton, self.client, self.kind = triton, client, kind
        self.vitals, self.speech = Vitals(), Speech.find()
        self.numbers = itertools.count(1000)

    def sample(self, step):
        (tensor,) = self.vitals.inputs(step)
        input_ = self.triton.InferInput("sample", [1, 3], "FP32")
        input_.set_data_from_numpy(np.array([tensor["data"]], dtype=np.float32))
        return [input_]

    def step(self, sequence, number, **options):
        return self.client.infer("vitals", self.sample(number), sequence_id=sequence, **options)

    def parameters(self, result):
        """The response's parameters, as Python's values."""
        response = result.get_response()
        if isinstance(response, dict):
            return response.get("parameters", {})
        chosen = {key: value.WhichOneof("parameter_choice") for key, value in response.parameters.items()}
        return {key: getattr(response.parameters[key], choice) for key, choice in chosen.items()}

    def outputs(self, result):
        response = result.get_response()
        if isinstance(response, dict):
            about = {output["name"]: (output["datatype"], output["shape"]) for output in response["outputs"]}
        else:
            about = {output.name: (output.datatype, list(output.shape)) for output in response.outputs}
        return {name: (*one, result.as_numpy(name).flatten().tolist()) for name, one in about.items()}

    def must_be_outcome(self, result, sequence, number, ends=False):
        place = self.parameters(result)
        must_equal((place["sequence_id"], place["sequence_number"]), (str(sequence), number), "place")
        must_equal(place["sequence_end"], ends, "sequence_end")
        must(place["sequence_durable"] >= number, f"not durable: {place}")
        self.vitals.must_match(number, self.outputs(result))
        return place

    def refused(self, call, *arguments, statuses, words=(), **options):
        try:
            call(*arguments, **options)
        except InferenceServerException as error:
            must(str(error.status()) in statuses, f"status {error.status()}, expected one of {statuses}: {error.message()}")
            must_name(error.message(), words)
            return error
        raise Failed("the node took it, and should have refused it")

    def name(self):
        return next(self.numbers)

    # Sequences. Statuses over HTTP, and over gRPC.

    def check_a_whole_sequence_by_number_and_by_name(self):
        for sequence in [self.name(), f"bed {self.kind} {self.name()}"]:
            for number in range(1, self.vitals.last + 1):
                ends = number == self.vitals.last
                result = self.step(sequence, number, sequence_start=number == 1, sequence_end=ends)
                place = self.must_be_outcome(result, sequence, number, ends)
                must_equal("sequence_token" in place, number == 1, "whether there is a token")
            self.refused(self.step, sequence, 1, statuses=["410", "StatusCode.FAILED_PRECONDITION"])

    def check_interleaved_sequences(self):
        sequences = [self.name() for _ in range(5)]
        for number in range(1, 41):
            for sequence in sequences:
                self.must_be_outcome(self.step(sequence, number, sequence_start=number == 1), sequence, number)

    def check_a_sequence_starts_anew(self):
        sequence = self.name()
        for _ in range(3):
            for number in range(1, 21):
                self.must_be_outcome(self.step(sequence, number, sequence_start=number == 1), sequence, number)

    def check_a_first_step_that_is_the_last(self):
        sequence = self.name()
        result = self.step(sequence, 1, sequence_start=True, sequence_end=True)
        self.must_be_outcome(result, sequence, 1, ends=True)

    def check_an_unknown_sequence_is_refused(self):
        self.refused(self.step, self.name(), 1, statuses=["404", "StatusCode.NOT_FOUND"], words=["sequence"])

    def check_numbers_and_tokens(self):
        sequence = self.name()
        numbered = lambda number, **more: {"parameters": {"sequence_number": number, **more}}
        token = self.parameters(self.step(sequence, 1, sequence_start=True, **numbered(1)))["sequence_token"]
        self.must_be_outcome(self.step(sequence, 2, **numbered(2)), sequence, 2)
        self.must_be_outcome(self.step(sequence, 2, **numbered(2)), sequence, 2)
        self.must_be_outcome(self.step(sequence, 3, **numbered(3, sequence_token=token)), sequence, 3)
        self.refused(self.step, sequence, 5, **numbered(5), statuses=["409", "StatusCode.FAILED_PRECONDITION"], words=["4", "5"])
        wrong = numbered(4, sequence_token="0" * 32)
        self.refused(self.step, sequence, 4, **wrong, statuses=["403", "StatusCode.PERMISSION_DENIED"])
        self.must_be_outcome(self.step(sequence, 4), sequence, 4)

    def check_a_wrong_step_leaves_the_state(self):
        sequence = self.name()
        self.must_be_outcome(self.step(sequence, 1, sequence_start=True), sequence, 1)
        wrong = self.triton.InferInput("sample", [1, 4], "FP32").set_data_from_numpy(np.zeros((1, 4), np.float32))
        for number in range(2, 10):
            invalid = ["400", "StatusCode.INVALID_ARGUMENT"]
            self.refused(self.client.infer, "vitals", [wrong], sequence_id=sequence, statuses=invalid, words=["sample"])
            self.must_be_outcome(self.step(sequence, number), sequence, number)

    def check_the_state_as_an_output(self):
        sequence = self.name()
        for number in range(1, self.vitals.last):
            self.step(sequence, number, sequence_start=number == 1)
        names = ["mean_out", "variance_out", "count_out"]
        outputs = [self.triton.InferRequestedOutput(name) for name in names]
        result = self.client.infer("vitals", self.sample(self.vitals.last), outputs=outputs, sequence_id=sequence)
        must_equal(list(self.outputs(result)), names, "outputs")
        self.vitals.must_match_state(self.outputs(result))

    def check_a_request_in_no_sequence(self):
        """The client says nothing of sequences where the id is 0."""
        found = self.outputs(self.step(0, 1))
        must_equal(sorted(found), ["alarm", "count_out", "mean_out", "score", "variance_out"], "outputs")
        must_equal(found["count_out"][2], [1.0], "count_out")

    def check_speech_is_found(self):
        if self.speech is None:
            return print("SKIPPED the speech: silero_vad was not fetched")
        sequence = self.name()
        for number in range(1, self.speech.last + 1):
            chunk = np.frombuffer(self.speech.chunks[number - 1], np.float32).reshape(1, -1)
            sound = self.triton.InferInput("input", list(chunk.shape), "FP32").set_data_from_numpy(chunk)
            rate = self.triton.InferInput("sr", [], "INT64").set_data_from_numpy(np.array(self.speech.rate, np.int64))
            result = self.client.infer("silero_vad", [sound, rate], sequence_id=sequence, sequence_start=number == 1)
            self.speech.must_match(number, self.outputs(result))


class Http(Client):
    def __init__(self, address):
        super().__init__(triton_http, triton_http.InferenceServerClient(address, network_timeout=PATIENCE), "http")


class Grpc(Client):
    """Sequences over gRPC, and the other calls."""

    def __init__(self, address):
        super().__init__(triton_grpc, triton_grpc.InferenceServerClient(address), "grpc")
        self.address = address
        self.digits = Sample("digits")

    def check_live_ready_and_metadata(self):
        must(self.client.is_server_live(client_timeout=PATIENCE), "not live")
        must(self.client.is_server_ready(client_timeout=PATIENCE), "not ready")
        must(self.client.is_model_ready("vitals"), "vitals is not ready")
        must(self.client.is_model_ready("vitals", "1"), "vitals version 1 is not ready")
        must(not self.client.is_model_ready("no_such_model"), "no_such_model is ready")
        server = self.client.get_server_metadata(as_json=True)
        must(server["name"] and server["version"], f"server metadata {server}")
        vitals = self.client.get_model_metadata("vitals", as_json=True)
        must_equal((vitals["name"], vitals["versions"]), ("vitals", ["1"]), "name and versions")
        must_equal([one["name"] for one in vitals["inputs"]], ["sample", "mean", "variance", "count"], "inputs")
        must_equal([one["name"] for one in vitals["outputs"]][:2], ["score", "alarm"], "outputs")
        must_equal(vitals["inputs"][0]["shape"], ["-1", "3"], "shape of sample")
        for call in [self.client.get_model_metadata, self.client.get_model_config]:
            self.refused(call, "no_such_model", statuses=["StatusCode.NOT_FOUND"], words=["no_such_model"])

    def check_the_config(self):
        config = self.client.get_model_config("vitals", as_json=True)["config"]
        must_equal((config["name"], config["max_batch_size"]), ("vitals", 16), "name and max_batch_size")
        must_equal(config["input"][0]["data_type"], "TYPE_FP32", "data_type")

    def check_statistics_count(self):
        count = lambda: int(self.client.get_inference_statistics("vitals").model_stats[0].inference_stats.success.count)
        before = count()
        for _ in range(5):
            self.step(0, 1)
        wait_until(lambda: count() == before + 5, "5 more successes")
        everything = self.client.get_inference_statistics().model_stats
        must("vitals" in [one.name for one in everything], "vitals is missing among all")

    def check_the_repository(self):
        state = lambda: {one.name: one.state for one in self.client.get_model_repository_index().models}
        must_equal(state()["vitals"], "READY", "state")
        self.client.load_model("digits")
        wait_until(lambda: self.client.is_model_ready("digits"), "digits is ready")
        image = self.digits.inputs[0]
        input_ = triton_grpc.InferInput(image["name"], image["shape"], image["datatype"])
        input_.set_data_from_numpy(np.array(image["data"], np.float32).reshape(image["shape"]))
        self.digits.must_match(self.outputs(self.client.infer("digits", [input_])))
        classes = [triton_grpc.InferRequestedOutput("probability", class_count=1)]
        best = self.client.infer("digits", [input_], outputs=classes).as_numpy("probability").flatten()
        must_equal(len(best), self.digits.rows, "classes")
        must(all(b":" in text for text in best), f"no classes: {best}")
        self.client.unload_model("digits")
        wait_until(lambda: not self.client.is_model_ready("digits"), "digits is not ready")
        wait_until(lambda: state()["digits"] == "UNAVAILABLE", "the index says UNAVAILABLE")
        refusals = ["StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE"]
        self.refused(self.client.infer, "digits", [input_], statuses=refusals, words=["digits"])
        for call in [self.client.load_model, self.client.unload_model]:
            self.refused(call, "no_such_model", statuses=["StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"])

    def check_errors_of_infer(self):
        invalid = ["StatusCode.INVALID_ARGUMENT"]
        self.refused(self.client.infer, "vitals", [], statuses=invalid, words=["sample"])
        wrong = triton_grpc.InferInput("sample", [1, 3], "FP64").set_data_from_numpy(np.zeros((1, 3)))
        self.refused(self.client.infer, "vitals", [wrong], statuses=invalid, words=["FP32", "FP64"])
        nope = [triton_grpc.InferRequestedOutput("nope")]
        self.refused(self.client.infer, "vitals", self.sample(1), outputs=nope, statuses=invalid, words=["nope"])
        missing = ["StatusCode.NOT_FOUND"]
        self.refused(self.client.infer, "no_such_model", self.sample(1), statuses=missing)
        self.refused(self.client.infer, "vitals", self.sample(1), model_version="99", statuses=missing, words=["99"])
        self.step(0, 1)

    def check_ids_priorities_and_timeouts(self):
        result = self.client.infer("vitals", self.sample(1), request_id="ü 7", priority=1, timeout=5_000_000)
        must_equal(result.get_response().id, "ü 7", "id")

    def check_a_deadline_that_is_over(self):
        """The client's deadline goes with the request. It passes while each instance is busy with a large batch."""
        self.client.load_model("slow_vitals")
        wait_until(lambda: self.client.is_model_ready("slow_vitals"), "slow_vitals is ready")
        rows, answers = 2048, queue.Queue()
        sizes = {"sample": 3, "mean": 3, "variance": 3, "count": 1}
        large = [triton_grpc.InferInput(name, [rows, size], "FP32") for name, size in sizes.items()]
        for input_ in large:
            input_.set_data_from_numpy(np.zeros(input_.shape(), np.float32))
        late = lambda: self.client.infer("slow_vitals", self.sample(1), client_timeout=0.01)
        # Either it is over, or the node says at once that it will not be in time.
        statuses = ["StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE"]
        for count in [4, 8, 16, 32]:
            for _ in range(count):
                self.client.async_infer("slow_vitals", large, lambda result, error: answers.put(error))
            try:
                self.refused(late, statuses=statuses)
                break
            except Failed:
                must(count < 32, "a request waits for large ones, and is answered within 10 ms")
            finally:
                for _ in range(count):
                    must(answers.get(timeout=PATIENCE) is None, "a large request failed")
        self.client.infer("slow_vitals", self.sample(1), client_timeout=PATIENCE)

    def check_compressed_requests(self):
        for algorithm in ["gzip", "deflate"]:
            try:
                self.client.infer("vitals", self.sample(1), compression_algorithm=algorithm)
            except InferenceServerException as error:
                must_equal(str(error.status()), "StatusCode.UNIMPLEMENTED", f"status of {error.message()}")

    def check_many_at_once_and_some_cancelled(self):
        answers, calls = queue.Queue(), []
        for number in range(200):
            done = lambda result, error, number=number: answers.put((number, result, error))
            calls.append(self.client.async_infer("vitals", self.sample(1 + number % 100), done, request_id=str(number)))
            if number % 10 == 0:
                calls[-1].cancel()
        found = {}
        for _ in calls:
            number, result, error = answers.get(timeout=PATIENCE)
            must(number not in found, "answered twice")
            found[number] = error
            if error is None:
                must_equal(result.get_response().id, str(number), "id")
                sample = np.array(self.vitals.steps[number % 100]["sample"], np.float32)
                must(np.array_equal(result.as_numpy("mean_out")[0], sample), f"mean_out of {number}")
            else:
                must(number % 10 == 0, f"{number} failed: {error}")
                must_equal(str(error.status()), "StatusCode.CANCELLED", "status")
        must_equal(len(found), 200, "answers")

    # Streams.

    def stream(self):
        """A stream, and the queue of its (result, error)."""
        client, answers = triton_grpc.InferenceServerClient(self.address), queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        return client, answers

    def hear(self, answers):
        try:
            result, error = answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed(f"no answer within {PATIENCE:g} s") from None
        must(error is None, f"an error: {error}")
        return result

    def check_whole_sequences_on_a_stream(self):
        for sequence in [self.name(), f"bed on a stream {self.name()}"]:
            client, answers = self.stream()
            for number in range(1, self.vitals.last + 1):
                ends = number == self.vitals.last
                client.async_stream_infer(
                    "vitals", self.sample(number), request_id=str(number),
                    sequence_id=sequence, sequence_start=number == 1, sequence_end=ends,
                )  # fmt: skip
                result = self.hear(answers)
                must_equal(result.get_response().id, str(number), "id")
                self.must_be_outcome(result, sequence, number, ends)
            client.stop_stream()

    def check_a_sequence_in_windows_on_a_stream(self):
        """Sent without waiting: messages on one stream are taken in their order."""
        client, answers = self.stream()
        sequence = self.name()
        for first in range(1, self.vitals.last + 1, 40):
            numbers = range(first, first + 40)
            for number in numbers:
                client.async_stream_infer("vitals", self.sample(number), sequence_id=sequence, sequence_start=number == 1)
            found = {}
            for _ in numbers:
                result = self.hear(answers)
                found[self.parameters(result)["sequence_number"]] = result
            for number in numbers:
                self.must_be_outcome(found[number], sequence, number)
        client.stop_stream()

    def check_interleaved_sequences_on_a_stream(self):
        client, answers = self.stream()
        sequences = [self.name() for _ in range(4)]
        for number in range(1, 31):
            for sequence in sequences:
                client.async_stream_infer(
                    "vitals", self.sample(number), sequence_id=sequence, sequence_start=number == 1, request_id=str(sequence)
                )  # fmt: skip
            found = {result.get_response().id: result for result in (self.hear(answers) for _ in sequences)}
            for sequence in sequences:
                self.must_be_outcome(found[str(sequence)], sequence, number)
        client.stop_stream()

    def check_a_sequence_goes_on_on_another_stream(self):
        sequence, number = self.name(), 0
        for _ in range(6):
            client, answers = self.stream()
            for _ in range(20):
                number += 1
                client.async_stream_infer("vitals", self.sample(number), sequence_id=sequence, sequence_start=number == 1)
                self.must_be_outcome(self.hear(answers), sequence, number)
            client.stop_stream(cancel_requests=number % 40 == 0)

    def check_errors_leave_a_stream_open(self):
        client, answers = self.stream()
        client.async_stream_infer("vitals", [], request_id="wrong")
        client.async_stream_infer("no_such_model", self.sample(1), request_id="nowhere")
        client.async_stream_infer("vitals", self.sample(1), sequence_id=self.name(), request_id="unknown sequence")
        for _ in range(3):
            result, error = answers.get(timeout=PATIENCE)
            must(isinstance(error, InferenceServerException), f"no error but {result}")
        client.async_stream_infer("vitals", self.sample(1), request_id="right")
        must_equal(self.hear(answers).get_response().id, "right", "id")
        client.stop_stream()

    def check_a_thousand_requests_on_a_stream(self):
        client, answers = self.stream()
        for number in range(1000):
            client.async_stream_infer("vitals", self.sample(1 + number % 100), request_id=str(number))
        found = set()
        for _ in range(1000):
            result = self.hear(answers)
            number = int(result.get_response().id)
            must(number not in found, "answered twice")
            found.add(number)
            sample = np.array(self.vitals.steps[number % 100]["sample"], np.float32)
            must(np.array_equal(result.as_numpy("mean_out")[0], sample), f"mean_out of {number}")
        client.stop_stream()
        must(answers.empty(), "an answer that nobody asked for")

    def check_a_cancelled_stream_ends_at_once(self):
        client, answers = self.stream()
        for number in range(200):
            client.async_stream_infer("vitals", self.sample(1), request_id=str(number))
        begin = time.monotonic()
        client.stop_stream(cancel_requests=True)
        must(time.monotonic() - begin < PATIENCE, "it does not end")
        self.step(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--grpc", help="host and port of its gRPC gateway")
    arguments = parser.parse_args()
    checks, groups = Checks(), [Http(arguments.url)]
    if arguments.grpc:
        groups.append(Grpc(arguments.grpc))
    else:
        print("SKIPPED gRPC: no --grpc")
    for group in groups:
        for attribute in [*vars(Client), *vars(type(group))]:
            if attribute.startswith("check_"):
                checks.run(f"{group.kind}_{attribute.removeprefix('check_')}", getattr(group, attribute))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
