"""What happens at the bounds of a node: full windows, short lives, busy instances. Run by websocket.py."""

import time

from websockets.exceptions import ConnectionClosed

from checks import Failed, must, must_equal, must_name, wait_until
from grid_v1 import Rest, Stream, must_be_error, must_be_outcome, outputs_of, resume_of, step_of


# Before everything else, and the answer in a binary message.
FIRST = {"parameters": {"priority": 1, "binary_data_output": True}}


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
