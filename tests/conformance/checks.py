"""What the conformance scripts share: checks that print one line each, and the samples of the quickstart's models."""

import json
import pathlib
import time
import traceback

MODELS = pathlib.Path(__file__).resolve().parents[2] / "configs" / "models"

# Float answers may differ by the rounding of another runtime or another batch size.
TOLERANCE = 1e-4


class Failed(Exception):
    """A check did not hold."""


class Checks:
    """Runs checks, each under its name, and counts them."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def run(self, name, check, *arguments):
        try:
            check(*arguments)
        except Failed as failure:
            self.fail(name, failure)
        except Exception as error:  # Whatever a client raises unasked is a failed check, and the others go on.
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.fail(name, f"{type(error).__name__}: {error} ({pathlib.Path(where.filename).name}:{where.lineno})")
        else:
            self.passed += 1
            print(f"ok {name}", flush=True)

    def fail(self, name, why):
        self.failed += 1
        print(f"FAIL {name}: {' '.join(str(why).split())[:600]}", flush=True)

    def finish(self):
        """Prints the sums; the exit code."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0


def must(condition, why):
    if not condition:
        raise Failed(why)


def must_equal(found, expected, what):
    must(found == expected, f"{what}: expected {expected!r}, found {found!r}")


def must_name(text, words, what="the message"):
    """All of the words stand in the text, in whatever case."""
    missing = [word for word in words if word.lower() not in text.lower()]
    must(not missing, f"{what} does not name {missing}: {text!r}")


def wait_until(condition, what, seconds=10.0):
    """Waits for something that the node does in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        must(time.monotonic() < deadline, f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


def flat(data):
    return [element for part in data for element in flat(part)] if isinstance(data, list) else [data]


class Sample:
    """A model's sample request, and the right answer to it."""

    def __init__(self, model, folder=MODELS):
        self.model = model
        self.request = json.loads((folder / model / "sample.json").read_text())
        self.expected = json.loads((folder / model / "expected.json").read_text())
        self.inputs = self.request["inputs"]
        self.rows = self.inputs[0]["shape"][0]

    def must_match(self, outputs):
        """`outputs`: from names to (datatype, shape, flat values)."""
        for output in self.expected["outputs"]:
            name = output["name"]
            must(name in outputs, f"output {name} is missing; there are {sorted(outputs)}")
            datatype, shape, values = outputs[name]
            must_equal(datatype, output["datatype"], f"datatype of {name}")
            must_equal(list(shape), output["shape"], f"shape of {name}")
            must_be_close(name, values, flat(output["data"]))


def must_be_close(name, found, expected):
    must_equal(len(found), len(expected), f"elements of {name}")
    for index, (one, other) in enumerate(zip(found, expected)):
        must(abs(one - other) <= TOLERANCE, f"{name}[{index}]: expected {other}, found {one}")
