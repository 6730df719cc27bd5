"""The recordings of the two models with state, with what must be answered to them. Only the standard library."""

import json
import struct
import wave

from checks import MODELS, must, must_equal

# Answers to the sound are written with six digits, and other runtimes round otherwise.
SPEECH_TOLERANCE = 1e-5


def fp32(value):
    """The nearest number of 32 bits: what the text of one stands for."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Vitals:
    """120 samples of a patient. Steps are counted from 1, as messages are."""

    model = "vitals"

    def __init__(self, models=MODELS):
        stream = json.loads((models / "vitals" / "stream.json").read_text())
        self.steps = stream["steps"]
        self.final_state = stream["final_state"]
        self.last = len(self.steps)

    def inputs(self, step):
        sample = self.steps[(step - 1) % self.last]["sample"]
        return [{"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": sample}]

    def must_match(self, step, outputs):
        """`outputs`: from names to (datatype, shape, flat values). To the last bit."""
        expected = self.steps[step - 1]
        must_equal(sorted(outputs), ["alarm", "score"], f"outputs of step {step}")
        datatype, shape, values = outputs["score"]
        must_equal((datatype, list(shape)), ("FP32", [1, 3]), f"score of step {step}")
        must_equal([fp32(value) for value in values], [fp32(value) for value in expected["score"]], f"score of {step}")
        datatype, shape, values = outputs["alarm"]
        must_equal((datatype, list(shape)), ("INT64", [1, 1]), f"alarm of step {step}")
        must_equal(list(values), [expected["alarm"]], f"alarm of step {step}")

    def must_match_state(self, outputs):
        """The state behind the last step, asked for as outputs."""
        for name, expected in self.final_state.items():
            values = outputs[f"{name}_out"][2]
            must_equal([fp32(value) for value in values], [fp32(value) for value in expected], f"final {name}")


class Speech:
    """Two spoken sentences, in chunks. `None` where the model was not fetched: see `find`."""

    model = "silero_vad"

    @staticmethod
    def find(larger=MODELS.parent / "larger"):
        folder = larger / "silero_vad"
        return Speech(folder) if (folder / "1" / "model.onnx").exists() else None

    def __init__(self, folder):
        about = json.loads((folder / "speech_expected.json").read_text())
        self.expected = about["probability"]
        self.rate, chunk, context = about["sample_rate"], about["chunk"], about["context"]
        with wave.open(str(folder / about["recording"])) as file:
            frames = file.readframes(file.getnframes())
        sound = [sample / 32768 for (sample,) in struct.iter_unpack("<h", frames)]
        sound = [0.0] * context + sound
        starts = range(0, len(sound) - context - chunk + 1, chunk)
        self.chunks = [struct.pack(f"<{context + chunk}f", *sound[at : at + context + chunk]) for at in starts]
        self.samples = context + chunk
        self.last = len(self.chunks)
        must_equal(self.last, len(self.expected), "chunks of the recording")

    def raw_inputs(self, step):
        """The inputs without their data, and the data: sound raw, the rate as it is."""
        chunk = self.chunks[step - 1]
        sound = {"name": "input", "datatype": "FP32", "shape": [1, self.samples]}
        sound["parameters"] = {"binary_data_size": len(chunk)}
        return [sound, {"name": "sr", "datatype": "INT64", "shape": [], "data": [self.rate]}], chunk

    def must_match(self, step, outputs):
        must_equal(sorted(outputs), ["output"], f"outputs of chunk {step}")
        datatype, shape, values = outputs["output"]
        must_equal((datatype, list(shape), len(values)), ("FP32", [1, 1], 1), f"output of chunk {step}")
        off = abs(values[0] - self.expected[step - 1])
        must(off <= SPEECH_TOLERANCE, f"chunk {step}: expected {self.expected[step - 1]}, found {values[0]}")
