"""SIGTERM to a node with open WebSockets: what it accepted is answered, then each is closed with 1001, and no new one is taken.

    python tests/conformance/drain_streams.py --url 127.0.0.1:8000 --pid PID

The node serves configs/streams.toml and can load `slow_vitals`: see tests/conformance/run_streams, which waits for its end.
"""

import argparse
import os
import signal
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidStatus

from checks import Checks, Failed, must, must_equal
from grid_v1 import PATIENCE, Rest, Stream, must_be_outcome, step_of
from recordings import Vitals

# Requests of as many rows as the model takes at once.
LARGE, ROWS = 4, 2048


class Drain:
    def __init__(self, address, pid):
        self.address, self.pid, self.vitals = address, pid, Vitals()
        Rest(address).load("slow_vitals")

    def prepare(self):
        self.quiet = Stream(self.address)
        self.large = Stream(self.address, "slow_vitals")
        self.sequence = Stream(self.address)
        self.flood = Stream(self.address)
        self.started = self.sequence.start()
        sizes = {"sample": 3, "mean": 3, "variance": 3, "count": 1}
        inputs = [
            {"name": name, "datatype": "FP32", "shape": [ROWS, size], "parameters": {"binary_data_size": 4 * size * ROWS}}
            for name, size in sizes.items()
        ]
        for number in range(LARGE):
            self.large.say({"id": str(number), "inputs": inputs, "outputs": [{"name": "alarm"}]}, bytes(40 * ROWS))
        for number in range(1, 41):
            self.sequence.say(step_of(self.vitals, self.started["sequence_id"], number))
        self.sent = 0

        def send():
            try:
                while True:
                    self.flood.say({"id": str(self.sent), "inputs": self.vitals.inputs(1)})
                    self.sent += 1
            except ConnectionClosed:
                pass

        self.sender = threading.Thread(target=send, daemon=True)
        self.sender.start()
        for stream in [self.large, self.sequence]:
            # Messages are read in order: whoever is told of this one knows that those before it were accepted.
            stream.say({"id": "behind", "inputs": []})
        self.answers = {stream: self.up_to_behind(stream) for stream in [self.large, self.sequence]}
        # Some of the flood is through.
        self.flooded = [self.flood.hear() for _ in range(100)]
        os.kill(self.pid, signal.SIGTERM)

    def up_to_behind(self, stream):
        answers = []
        while (answer := stream.hear()).get("id") != "behind":
            answers.append(answer)
        return answers

    def rest_of(self, stream):
        """What comes before the close, which is one with 1001."""
        answers = []
        try:
            while True:
                answers.append(stream.hear())
        except Failed as failure:
            must("closed" in str(failure), failure)
        must(stream.socket.protocol.close_rcvd is not None, "the connection ended without a close frame")
        must_equal(stream.socket.protocol.close_rcvd.code, 1001, "close code")
        return answers

    def check_a_quiet_connection_is_closed(self):
        must_equal(self.rest_of(self.quiet), [], "what is said before")

    def check_requests_that_were_accepted_are_answered(self):
        answers = self.answers[self.large] + self.rest_of(self.large)
        must_equal({answer["id"] for answer in answers}, {str(number) for number in range(LARGE)}, "ids")
        must_equal({answer["type"] for answer in answers}, {"output"}, "types")

    def check_messages_of_a_sequence_that_were_accepted_are_answered(self):
        answers = self.answers[self.sequence] + self.rest_of(self.sequence)
        must_equal(len(answers), 40, "outcomes")
        for number, answer in enumerate(answers, 1):
            must_be_outcome(self.vitals, answer, self.started["sequence_id"], number)

    def check_of_a_flood_a_first_part_is_answered(self):
        """Requests are read in order, so what was accepted is what was sent up to some moment."""
        answers = self.flooded + self.rest_of(self.flood)
        self.sender.join(PATIENCE)
        must(not self.sender.is_alive(), "its sender does not end")
        answered = [int(answer["id"]) for answer in answers]
        must_equal(sorted(answered), list(range(len(answered))), "ids that were answered")
        # It does not wait for answers, so the model's queue may be full; that is an answer too.
        kinds = {answer.get("kind", answer["type"]) for answer in answers}
        must(kinds <= {"output", "overloaded"}, f"answers of the kinds {kinds}")
        must("output" in kinds, "none has an output")
        print(f"  {len(answered)} of {self.sent} were accepted", flush=True)

    def check_no_new_connection_is_taken(self):
        try:
            Stream(self.address)
        except (InvalidStatus, OSError) as refusal:
            if isinstance(refusal, InvalidStatus):
                must_equal(refusal.response.status_code, 503, "status")
        else:
            raise Failed("it was taken")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="host and port of the node")
    parser.add_argument("--pid", type=int, required=True, help="process id of the node, which is told to end")
    arguments = parser.parse_args()
    drain, checks = Drain(arguments.url, arguments.pid), Checks()
    drain.prepare()
    for attribute in vars(Drain):
        if attribute.startswith("check_"):
            checks.run(attribute.removeprefix("check_"), getattr(drain, attribute))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
