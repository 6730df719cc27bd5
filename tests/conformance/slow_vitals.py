"""Makes a slow model of vitals: the same, and beside it a product of matrices that takes its time for each row.

    python tests/conformance/slow_vitals.py FROM.onnx TO.onnx

In protobuf a list may be continued anywhere, so what is added to the graph is only appended to it. The product goes into an output
`work` of its own, or nothing would compute it. Only the standard library.
"""

import pathlib
import sys

# Two million multiplications a row: 2,048 rows keep a core busy for a tenth of a second and more.
WIDTH, PRODUCTS = 512, 8
# Fields and values of onnx.proto.
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_OUTPUT = 7, 1, 5, 12
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR = 1, 2, 4
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
FLOAT = 1


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def number(field, value):
    return varint(field << 3) + varint(value)


def part(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def matrix(name, rows, columns):
    dims = number(TENSOR_DIMS, rows) + number(TENSOR_DIMS, columns)
    raw = part(TENSOR_RAW, bytes(4 * rows * columns))
    return part(GRAPH_INITIALIZER, dims + number(TENSOR_TYPE, FLOAT) + part(TENSOR_NAME, name) + raw)


def product(left, right, result):
    node = part(NODE_INPUT, left) + part(NODE_INPUT, right) + part(NODE_OUTPUT, result) + part(NODE_OPERATOR, "MatMul")
    return part(GRAPH_NODE, node)


def output(name):
    """FP32 `[batch, 1]`."""
    shape = part(1, part(2, "batch")) + part(1, number(1, 1))
    tensor = number(1, FLOAT) + part(2, shape)
    return part(GRAPH_OUTPUT, part(1, name) + part(2, part(1, tensor)))


def addition():
    names = [f"work_{index}" for index in range(PRODUCTS + 1)]
    graph = matrix("first", 3, WIDTH) + matrix("again", WIDTH, WIDTH) + matrix("last", WIDTH, 1)
    graph += product("sample", "first", names[0])
    for before, after in zip(names, names[1:]):
        graph += product(before, "again", after)
    graph += product(names[-1], "last", "work") + output("work")
    return graph


def read_varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def with_more_in_its_graph(model, more):
    parts, at = [], 0
    while at < len(model):
        begin = at
        key, at = read_varint(model, at)
        # Of a model's fields, all are numbers or have a length.
        length, at = read_varint(model, at)
        if key & 7 == 2:
            at += length
        graph = model[at - length : at] if key == MODEL_GRAPH << 3 | 2 else None
        parts.append(model[begin:at] if graph is None else part(MODEL_GRAPH, graph + more))
    return b"".join(parts)


def main():
    source, target = map(pathlib.Path, sys.argv[1:])
    target.write_bytes(with_more_in_its_graph(source.read_bytes(), addition()))


if __name__ == "__main__":
    main()
