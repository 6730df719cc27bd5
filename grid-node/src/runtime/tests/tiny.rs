//! Models of one operator, written byte by byte, for what no real model has.

/// ONNX's element types.
pub(super) mod element {
    pub(in super::super) const FLOAT: u8 = 1;
    pub(in super::super) const UINT8: u8 = 2;
    pub(in super::super) const INT8: u8 = 3;
    pub(in super::super) const UINT16: u8 = 4;
    pub(in super::super) const INT16: u8 = 5;
    pub(in super::super) const INT32: u8 = 6;
    pub(in super::super) const INT64: u8 = 7;
    pub(in super::super) const STRING: u8 = 8;
    pub(in super::super) const BOOL: u8 = 9;
    pub(in super::super) const FLOAT16: u8 = 10;
    pub(in super::super) const DOUBLE: u8 = 11;
    pub(in super::super) const UINT32: u8 = 12;
    pub(in super::super) const UINT64: u8 = 13;
    pub(in super::super) const COMPLEX64: u8 = 14;
    pub(in super::super) const BFLOAT16: u8 = 16;
}

/// A length-delimited field.
pub(in crate::runtime) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

pub(in crate::runtime) fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// A tensor type; `None` for a size is a size of the request's choosing.
pub(super) fn tensor(element: u8, shape: Option<&[Option<u8>]>) -> Vec<u8> {
    let dims = |dims: &[Option<u8>]| -> Vec<u8> {
        let dim = |size: &Option<u8>| field(1, &size.map_or_else(|| field(2, b"n"), |size| number(1, size)));
        field(2, &dims.iter().flat_map(dim).collect::<Vec<_>>())
    };
    field(1, &[number(1, element), shape.map_or_else(Vec::new, dims)].concat())
}

/// A type of sequences of tensors.
pub(super) fn sequence(of: &[u8]) -> Vec<u8> {
    field(4, &field(1, of))
}

/// A model that maps `x` to `y` by one operator.
pub(super) fn model(operator: &str, domain: &str, input: &[u8], output: &[u8]) -> Vec<u8> {
    let node = [
        field(1, b"x"),
        field(2, b"y"),
        field(4, operator.as_bytes()),
        field(7, domain.as_bytes()),
    ];
    let value = |name: &[u8], of: &[u8]| [field(1, name), field(2, of)].concat();
    let graph = [
        field(1, &node.concat()),
        field(2, b"tiny"),
        field(11, &value(b"x", input)),
        field(12, &value(b"y", output)),
    ];
    let opset = |domain: &[u8], version: u8| field(8, &[field(1, domain), number(2, version)].concat());
    [
        number(1, 8),
        opset(b"", 15),
        opset(b"ai.onnx.ml", 2),
        field(7, &graph.concat()),
    ]
    .concat()
}

/// A model that returns its input.
pub(super) fn identity(element: u8, shape: Option<&[Option<u8>]>) -> Vec<u8> {
    let of = tensor(element, shape);
    model("Identity", "", &of, &of)
}
