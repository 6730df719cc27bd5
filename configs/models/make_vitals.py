#!/usr/bin/env python3
"""Makes the quickstart's model with state: `vitals`, a control chart that follows a patient's own vital signs.

    python -m venv .venv && .venv/bin/pip install -r configs/models/requirements.txt
    .venv/bin/python configs/models/make_vitals.py

Writes vitals/1/model.onnx, sample.json, expected.json, stream.json and ORIGIN.md. Nothing here is trained and nothing is
fetched: the model is a formula, written down as a graph, and stream.json is a recording made up below. The chart stands here
twice, as numpy and as ONNX, and the two must agree to the last bit.
"""

import json
import sys

sys.dont_write_bytecode = True  # a __pycache__ in this folder would be taken for a model without a version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from make import HERE, IR_VERSION, OPSET, SEED, short, tensor, wrapped, write_json

NAME = "vitals"
TITLE = "a control chart that follows a patient's own vital signs"
COLUMNS = ["heart rate, beats a minute", "oxygen saturation, percent", "respiratory rate, breaths a minute"]

# Samples before the first score. Before that the chart's guess at the deviation is rough: 8,000 recordings like those below, at
# rest, had 42 false alarms with 8, 12 with 16 and 3 with 32, which is a quarter of a minute of silence more.
WARM_UP = 16
# The memory: a sample counts half after 44 more. Before there are 64, all count the same.
SLOWEST = 1 / 64
# A monitor shows whole numbers, so that a change below one says nothing. The saturation of a patient at rest hardly moves, and
# a flat signal not at all: with 0.001 the same recordings had 907 false alarms.
LEAST_DEVIATION = 1.0
LIMIT = 4.0


# ---------------------------------------------------------------------------------------------------------------------------
# The chart, twice


def step(sample, mean, variance, count):
    """The reference, in float32 and in the order of the graph: score, alarm, and the state after the sample."""
    one = np.float32(1)
    deviation = sample - mean
    score = deviation / np.maximum(np.sqrt(variance), np.float32(LEAST_DEVIATION))
    score = np.where(count >= np.float32(WARM_UP), score, np.float32(0))
    alarm = (np.abs(score).max(1, keepdims=True) > np.float32(LIMIT)).astype(np.int64)
    count = count + one
    weight = np.maximum(one / count, np.float32(SLOWEST))
    move = weight * deviation
    return score, alarm, mean + move, (one - weight) * (variance + move * deviation), count


STATE = {"mean": 3, "variance": 3, "count": 1}
OUTPUTS = ["score", "alarm", *(f"{name}_out" for name in STATE)]


def graph():
    constants = {"zero": 0, "one": 1, "warm_up": WARM_UP, "slowest": SLOWEST, "least_deviation": LEAST_DEVIATION, "limit": LIMIT}
    nodes = [
        helper.make_node("Sub", ["sample", "mean"], ["deviation"]),
        helper.make_node("Sqrt", ["variance"], ["spread"]),
        helper.make_node("Max", ["spread", "least_deviation"], ["unit"]),
        helper.make_node("Div", ["deviation", "unit"], ["deviations"]),
        helper.make_node("GreaterOrEqual", ["count", "warm_up"], ["settled"]),
        helper.make_node("Where", ["settled", "deviations", "zero"], ["score"]),
        helper.make_node("Abs", ["score"], ["distance"]),
        helper.make_node("ReduceMax", ["distance"], ["furthest"], axes=[1], keepdims=1),
        helper.make_node("Greater", ["furthest", "limit"], ["outside"]),
        helper.make_node("Cast", ["outside"], ["alarm"], to=TensorProto.INT64),
        helper.make_node("Add", ["count", "one"], ["count_out"]),
        helper.make_node("Div", ["one", "count_out"], ["share"]),
        helper.make_node("Max", ["share", "slowest"], ["weight"]),
        helper.make_node("Mul", ["weight", "deviation"], ["move"]),
        helper.make_node("Add", ["mean", "move"], ["mean_out"]),
        helper.make_node("Mul", ["move", "deviation"], ["news"]),
        helper.make_node("Add", ["variance", "news"], ["grown"]),
        helper.make_node("Sub", ["one", "weight"], ["rest"]),
        helper.make_node("Mul", ["rest", "grown"], ["variance_out"]),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type.lower()}_{i}"

    def tensors(widths, kind=TensorProto.FLOAT, end=""):
        return [helper.make_tensor_value_info(name + end, kind, ["batch", width]) for name, width in widths.items()]

    body = helper.make_graph(
        nodes,
        NAME,
        tensors({"sample": 3, **STATE}),
        tensors({"score": 3}) + tensors({"alarm": 1}, TensorProto.INT64) + tensors(STATE, end="_out"),
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
        doc_string=TITLE,
    )
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=f"configs/models/make_{NAME}.py"
    )


def initial(rows=1):
    return [np.zeros((rows, width), np.float32) for width in STATE.values()]


def follow(one_step, samples):
    """What `one_step` answers to each sample, every state fed into the next; [outputs] by step. `samples`: step, row, column."""
    state, answers = initial(samples.shape[1]), []
    for sample in samples:
        answers.append(one_step(sample, *state))
        state = answers[-1][2:]
    return answers


# ---------------------------------------------------------------------------------------------------------------------------
# Recordings, made up

SECONDS, ONSET = 120, 90


def recording(rng, seconds=SECONDS, onset=ONSET):
    """One sample a second of an adult at rest, and from `onset` on of one who briefly gets too little air: the saturation falls
    from 97 to 86 % within eight seconds, heart and breath follow, and all three come back. Two decimals; [seconds, 3]."""
    time = np.arange(seconds, dtype=np.float64)

    def wander(deviation, memory):
        out, now = np.empty(seconds), rng.normal(0, deviation)
        for i in range(seconds):
            out[i], now = now, memory * now + rng.normal(0, deviation * np.sqrt(1 - memory**2))
        return out

    def event(delay, up, stay, down):
        """0, a ramp up to 1, a while there, a ramp back."""
        since = time - onset - delay
        return np.clip(np.minimum(since / up, (up + stay + down - since) / down), 0, 1)

    breath = np.sin(2 * np.pi * 15 / 60 * time + rng.uniform(0, 2 * np.pi))
    heart = 72 + 2 * breath + wander(1.2, 0.8) + rng.normal(0, 0.5, seconds)
    oxygen = 97 + wander(0.3, 0.9) + rng.normal(0, 0.15, seconds)
    breaths = 15 + wander(0.5, 0.8) + rng.normal(0, 0.3, seconds)
    heart += 30 * event(2, 8, 8, 16)
    oxygen -= 11 * event(0, 8, 6, 12)
    breaths += 9 * event(1, 8, 6, 14)
    return np.round(np.stack([heart, np.minimum(oxygen, 100), breaths], 1), 2).astype(np.float32)


def table_of(alarms):
    """Of [recordings, SECONDS] alarms: false ones, events found, and the median seconds from the onset to the first."""
    before, after = alarms[:, WARM_UP:ONSET], alarms[:, ONSET:]
    found = after.any(1)
    return f"{before.sum()} | {found.mean() * 100:.1f} % | {np.median(after[found].argmax(1)):.0f}"


# ---------------------------------------------------------------------------------------------------------------------------
# What is written beside the model


def write_stream(path, samples, answers):
    def line(value):
        return json.dumps(value)

    def row(array):
        return [short(v) for v in array.ravel()]

    steps = [
        line({"sample": row(sample), "score": row(answer[0]), "alarm": int(answer[1][0, 0])})
        for sample, answer in zip(samples, answers)
    ]
    final = {name: row(array) for name, array in zip(STATE, answers[-1][2:])}
    path.write_text(
        f'{{"model_name": {line(NAME)}, "seconds_between_samples": 1, "columns": {line(COLUMNS)},\n"steps": [\n  '
        + ",\n  ".join(steps)
        + f'\n],\n"final_state": {line(final)}}}\n'
    )


ORIGIN = """\
# vitals: {title}

Written by `configs/models/make_vitals.py`: change that, not this.

{what}

## Where it comes from

{source}

## How it was made

{how}

- Operators: {operators}
  (opset ai.onnx {opset}; IR version {ir}).
- `sample.json` holds the recording's first sample, without the state, which is then zero; `expected.json` is what ONNX Runtime
  {ort} answers: no score yet, and the state after one sample.
- `stream.json` holds the recording, {seconds} samples, with the score and the alarm that each must get when every state goes into
  the next step, and the state at the end. The first alarm is at step {first}, counted from 0, and there is none before the event.

## How well it does, on made-up patients

{count:,} recordings like that of `stream.json`, of another seed. After the warm-up each has {quiet} seconds at rest, {hours:.0f} hours in
all, and then the event:

| | false alarms | events found | seconds to the first alarm |
|---|---|---|---|
| this chart | {chart} |
| a fixed limit, saturation under 90 % | {fixed} |

{caution}

## Inputs

| | type, shape | |
|---|---|---|
| `sample` | FP32 `[batch, 3]` | {columns} |
| `mean` | FP32 `[batch, 3]` | state, zeros at the start of a stream |
| `variance` | FP32 `[batch, 3]` | state, zeros at the start of a stream |
| `count` | FP32 `[batch, 1]` | state, zero at the start of a stream: samples so far |

A reading that is missing must not be sent as NaN: it would stay in the state.

## Outputs

| | type, shape | |
|---|---|---|
| `score` | FP32 `[batch, 3]` | distance from the mean before the sample, in standard deviations; 0 for the first {warm_up} samples |
| `alarm` | INT64 `[batch, 1]` | 1 where any score is over {limit:g} or under -{limit:g}, or else 0 |
| `mean_out`, `variance_out`, `count_out` | as the state | the next step's `mean`, `variance`, `count` |

Every row stands for itself: in ONNX Runtime a row in a batch of 2 to 33 is answered to the last bit as it is alone.
"""

WHAT = f"""\
One step takes one sample of three vital signs and says how far each lies from what this patient's own last minute predicts.
What it remembers of the patient (a mean and a variance of each sign, and how many samples there were) goes in and comes out as
state: the model itself keeps nothing. It shows how to serve a model with state. It is no medical device, has seen no patient,
and is fit for no decision about one."""

SOURCE = f"""\
A moving-centerline EWMA control chart: the centre is an exponentially weighted moving average (Roberts, S. W., *Control Chart
Tests Based on Geometric Moving Averages*, Technometrics 1, 1959, doi:10.1080/00401706.1959.10489860), taken as the prediction
of the next sample, and the chart is one of the prediction's errors (Montgomery, D. C., Mastrangelo, C. M., *Some Statistical
Process Control Methods for Autocorrelated Data*, Journal of Quality Technology 23, 1991). Mean and variance follow by the
recursion of West, D. H. D., *Updating Mean and Variance Estimates: An Improved Method*, Communications of the ACM 22, 1979,
doi:10.1145/359146.359153, in the exponentially weighted form of Finch, T., *Incremental Calculation of Weighted Mean and
Variance*, University of Cambridge, 2009: with the deviation d of the sample from the mean and the weight w, the mean moves by
wd, and the variance becomes (1 - w)(variance + w d²).

Here w is 1 / (samples so far + 1), but at least 1/64: all samples count the same until there are 64, and from then on a sample
counts half after 44 more. The standard deviation is taken as at least {LEAST_DEVIATION:g}. What it alarms of, it learns as well: a
level that stays is the new normal after a minute or two. The numbers are ours: {WARM_UP} samples before the first score, a weight
of 1/64, a least standard deviation of {LEAST_DEVIATION:g}, alarms beyond {LIMIT:g}."""

HOW = f"""\
Assembled by hand; nothing was trained. Checked against the same formula in numpy, which it equals to the last bit over the
whole recording. The recording is **synthetic**: an adult at rest (72 beats a minute that swing with the breath, 97 percent
oxygen saturation, 15 breaths a minute, each with noise that wanders), and at second {ONSET} an event in which the saturation falls
to 86 percent while heart and breath quicken. Seed {SEED}. Licence: this repository's."""

CAUTION = """\
The patients are as simple as the chart's own idea of them, so this says that the graph does what it should, and nothing about
real monitors, where movement and slipped sensors raise alarms as well."""


def main():
    model = graph()
    onnx.checker.check_model(model, full_check=True)
    folder = HERE / NAME
    (folder / "1").mkdir(parents=True, exist_ok=True)
    file = folder / "1" / "model.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(sample, *state):
        return session.run(OUTPUTS, dict(zip(["sample", *STATE], [sample, *state])))

    def must_be_equal(ones, others):
        for one, other in zip(ones, others, strict=True):
            for name, a, b in zip(OUTPUTS, one, other, strict=True):
                assert a.dtype == b.dtype and np.array_equal(a, b), f"{name}: ONNX Runtime does not answer what numpy does"

    samples = recording(np.random.default_rng(SEED))[:, None]
    answers = follow(step, samples)
    must_be_equal(follow(run, samples), answers)

    rng = np.random.default_rng(SEED + 1)
    many = np.stack([recording(rng) for _ in range(4000)], 1)
    followed = follow(step, many)
    for rows in range(2, 34):  # odd sizes too: what a vector unit leaves over is computed otherwise
        must_be_equal(follow(run, many[:, :rows]), [[part[:rows] for part in answer] for answer in followed])

    alarms = np.stack([answer[1][:, 0] for answer in answers]).ravel()
    first = int(alarms.argmax())
    assert alarms.any() and first >= ONSET, "the recording's event, and nothing else, must raise an alarm"

    write_json(folder / "sample.json", {"inputs": [tensor("sample", samples[0])]})
    outputs = [tensor(name, array) for name, array in zip(OUTPUTS, run(samples[0], *initial()))]
    write_json(folder / "expected.json", {"model_name": NAME, "model_version": "1", "outputs": outputs})
    write_stream(folder / "stream.json", samples, answers)
    chart = table_of(np.stack([answer[1][:, 0] for answer in followed], 1).astype(bool))
    fixed = table_of((many[:, :, 1] < 90).T)
    origin = ORIGIN.format(
        title=TITLE,
        what=wrapped(WHAT),
        source=wrapped(SOURCE),
        how=wrapped(HOW),
        caution=wrapped(CAUTION),
        operators=", ".join(sorted({node.op_type for node in model.graph.node})),
        opset=OPSET,
        ir=IR_VERSION,
        ort=onnxruntime.__version__,
        seconds=SECONDS,
        first=first,
        count=many.shape[1],
        quiet=ONSET - WARM_UP,
        hours=many.shape[1] * (ONSET - WARM_UP) / 3600,
        chart=chart,
        fixed=fixed,
        columns="; ".join(COLUMNS),
        warm_up=WARM_UP,
        limit=LIMIT,
    )
    (folder / "ORIGIN.md").write_text(origin, encoding="utf-8")
    print(f"{NAME}: {file.stat().st_size:,} bytes; false alarms | events found | seconds to the first: {chart}")


if __name__ == "__main__":
    main()
