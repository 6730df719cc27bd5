"""Sequences over `grid.v1`, by the client `websockets`. Run by websocket.py."""

import json
import random
import struct

from checks import must, must_equal, must_name
from grid_v1 import Rest, Stream, must_be_error, must_be_outcome, outputs_of, resume_of, run_all, step_of
from recordings import Speech

RESUMED_SEQUENCES = 40


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
