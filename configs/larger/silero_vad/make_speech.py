#!/usr/bin/env python3
"""Makes speech.wav, two spoken sentences with a pause between them, and speech_expected.json, what the model says to it.

    python -m venv .venv && .venv/bin/pip install -r configs/models/requirements.txt
    configs/fetch models silero_vad
    .venv/bin/python configs/larger/silero_vad/make_speech.py [--keep-recording]

The sentences are spoken by espeak-ng (Debian: `apt-get install espeak-ng`); another version of it speaks a little otherwise, so
the recording is kept here. --keep-recording leaves it as it is and needs no espeak-ng.
"""

import argparse
import hashlib
import io
import json
import subprocess
import wave
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
RECORDING, MODEL, EXPECTED = HERE / "speech.wav", HERE / "1" / "model.onnx", HERE / "speech_expected.json"

# What the model is made for at this rate: see ORIGIN.md.
RATE, CHUNK, CONTEXT = 16_000, 512, 64

ESPEAK = ["espeak-ng", "-v", "en-us+f3", "-s", "150"]
SENTENCES = ["Every stream remembers what it has heard.", "When its node goes away another one takes over."]
SILENCE, PAUSE = 1.0, 1.2  # seconds: before the first and after the last sentence; between the two
PEAK = 0.5
NOISE = 10 ** (-55 / 20)  # of full scale, root mean square: a quiet room
SEED = 20240229


def spoken(sentence):
    """The sentence at RATE and PEAK, without the silence around it."""
    raw = subprocess.run([*ESPEAK, "--stdout", sentence], stdout=subprocess.PIPE, check=True).stdout
    # The header of a stream does not know how long it is.
    with wave.open(io.BytesIO(raw)) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(len(raw)), "<i2") / 32768
    heard = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    sound = sound[heard[0] : heard[-1] + 1]
    # By way of the spectrum, whose upper part goes. Whole fiftieths of a second are whole samples at both rates.
    sound = np.pad(sound, (0, -len(sound) % (rate // 50)))
    length = len(sound) * RATE // rate
    sound = np.fft.irfft(np.fft.rfft(sound)[: length // 2 + 1], length)
    return sound * PEAK / np.abs(sound).max()


def record():
    """Writes the recording; where each sentence begins and ends in it, in seconds."""
    sentences = [spoken(sentence) for sentence in SENTENCES]
    parts, places, at = [], [], 0
    for before, sentence in zip([SILENCE, PAUSE], sentences, strict=True):
        at += round(before * RATE)
        parts += [np.zeros(round(before * RATE)), sentence]
        places.append([round(at / RATE, 2), round((at + len(sentence)) / RATE, 2)])
        at += len(sentence)
    rest = round(SILENCE * RATE)
    sound = np.concatenate([*parts, np.zeros(rest + -(at + rest) % CHUNK)])
    sound = sound + np.random.default_rng(SEED).normal(0, NOISE, len(sound))
    with wave.open(str(RECORDING), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
    return places


def chunks():
    """The recording as the model takes it: [chunk, CONTEXT + CHUNK], from -1 to 1."""
    with wave.open(str(RECORDING)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    before = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    return np.stack([before[at : at + CONTEXT + CHUNK] for at in range(0, len(sound) - CHUNK + 1, CHUNK)])


def probabilities():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    state, answers = np.zeros((2, 1, 128), np.float32), []
    for chunk in chunks():
        inputs = {"input": chunk[None], "state": state, "sr": np.array(RATE, np.int64)}
        output, state = session.run(["output", "stateN"], inputs)
        answers.append(float(output[0, 0]))
    return answers


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep-recording", action="store_true", help="only write anew what the model says to it")
    keep = parser.parse_args().keep_recording
    places = json.loads(EXPECTED.read_text())["sentences"] if keep else record()
    answers = probabilities()

    # In the middle of a chunk, in seconds.
    middle = (np.arange(len(answers)) + 0.5) * CHUNK / RATE
    within = np.any([(start <= middle) & (middle <= end) for start, end in places], 0)
    # The model hears a sentence begin, and lets it end, a few chunks late.
    clear = np.all([(middle < start - 0.2) | (middle > end + 0.2) for start, end in places], 0)
    loud, quiet = np.array(answers)[within], np.array(answers)[clear]
    print(f"{len(answers)} chunks: {(loud > 0.5).mean():.1%} of {len(loud)} within sentences over 0.5, mean {loud.mean():.3f};")
    print(f"the {len(quiet)} more than 0.2 s away from them at most {quiet.max():.3f}, mean {quiet.mean():.3f}")
    begins = np.flatnonzero(np.diff(np.array(answers) > 0.5, prepend=False))[::2]
    assert len(begins) == 2 and (loud > 0.5).all() and (quiet < 0.2).all(), "the model does not hear two sentences"

    facts = {
        "model_name": "silero_vad",
        "model_sha256": sha256(MODEL),
        "recording": RECORDING.name,
        "recording_sha256": sha256(RECORDING),
        "onnxruntime": onnxruntime.__version__,
        "sample_rate": RATE,
        "chunk": CHUNK,
        "context": CONTEXT,
        "sentences": places,
    }
    rows = [", ".join(f"{p:.6f}" for p in answers[at : at + 12]) for at in range(0, len(answers), 12)]
    head = "".join(f'"{key}": {json.dumps(value)},\n' for key, value in facts.items())
    EXPECTED.write_text(f'{{\n{head}"probability": [\n  ' + ",\n  ".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
