// The frames of `grid.v1`: JSON as text, or JSON with raw tensors behind it. See docs/streaming.md.

const ARRAYS = {
  BOOL: Uint8Array, UINT8: Uint8Array, UINT16: Uint16Array, UINT32: Uint32Array, UINT64: BigUint64Array,
  INT8: Int8Array, INT16: Int16Array, INT32: Int32Array, INT64: BigInt64Array, FP32: Float32Array, FP64: Float64Array,
};

/** The frame of a message: binary if the `data` of any input is a typed array, which is then sent raw; or else text. */
export function encode(message) {
  const raw = [];
  const inputs = message.inputs?.map(({ data, ...input }) => {
    if (!ArrayBuffer.isView(data)) return { ...input, data };
    raw.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return { ...input, parameters: { ...input.parameters, binary_data_size: data.byteLength } };
  });
  if (!raw.length) return JSON.stringify(message);
  const json = new TextEncoder().encode(JSON.stringify({ ...message, inputs }));
  const frame = new Uint8Array(raw.reduce((size, bytes) => size + bytes.length, 4 + json.length));
  new DataView(frame.buffer).setUint32(0, json.length, true);
  let at = 4;
  for (const bytes of [json, ...raw]) {
    frame.set(bytes, at);
    at += bytes.length;
  }
  return frame.buffer;
}

/** The message in a frame. The `data` of raw outputs are typed arrays; of types without one, bytes. */
export function decode(frame) {
  if (typeof frame === "string") return JSON.parse(frame);
  let at = 4 + new DataView(frame).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, at - 4)));
  for (const output of message.outputs ?? []) {
    const size = output.parameters?.binary_data_size;
    if (size === undefined) continue;
    output.data = new (ARRAYS[output.datatype] ?? Uint8Array)(frame.slice(at, at + size));
    at += size;
  }
  return message;
}
