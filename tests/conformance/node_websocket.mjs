// `grid.v1` (docs/streaming.md) by the WebSocket that Node has built in, as browsers have it, against a running node that serves
// configs/streams.toml:
//
//     node tests/conformance/node_websocket.mjs 127.0.0.1:8000
//
// Node 22 has it; Node 20 with --experimental-websocket.

import { deepStrictEqual as mustEqual, ok as must } from "node:assert";
import { readFileSync } from "node:fs";

const PATIENCE = 10_000;
const [address = "127.0.0.1:8000"] = process.argv.slice(2);
const recording = new URL("../../configs/models/vitals/stream.json", import.meta.url);
const { steps } = JSON.parse(readFileSync(recording, "utf8"));

// One connection: messages go out by `say` and come in, in their order, by `hear`.
class Stream {
  #arrived = [];
  #waiting = [];

  static async open(subprotocols = "grid.v1") {
    const stream = new Stream();
    stream.socket = new WebSocket(`ws://${address}/v2/models/vitals/stream`, subprotocols);
    stream.socket.binaryType = "arraybuffer";
    stream.socket.onmessage = ({ data }) => stream.#take({ message: decoded(data) });
    stream.closed = new Promise((resolve) => {
      stream.socket.onclose = (event) => {
        stream.#take({ error: new Error(`closed with ${event.code} ${event.reason}`) });
        resolve(event);
      };
    });
    stream.socket.onerror = () => {};
    stream.ready = await stream.hear();
    mustEqual([stream.ready.type, stream.ready.protocol], ["ready", "grid.v1"]);
    return stream;
  }

  #take(arrived) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(arrived);
    else this.#arrived.push(arrived);
  }

  say(message, raw) {
    const text = JSON.stringify(message);
    if (!raw) return this.socket.send(text);
    const json = new TextEncoder().encode(text);
    const bytes = new Uint8Array(4 + json.length + raw.byteLength);
    new DataView(bytes.buffer).setUint32(0, json.length, true);
    bytes.set(json, 4);
    bytes.set(new Uint8Array(raw), 4 + json.length);
    this.socket.send(bytes);
  }

  async hear() {
    const { message, error } = this.#arrived.shift() ?? (await within(new Promise((resolve) => this.#waiting.push(resolve))));
    if (error) throw error;
    return message;
  }

  ask(message, raw) {
    this.say(message, raw);
    return this.hear();
  }

  async close() {
    this.socket.close(1000, "done");
    return within(this.closed);
  }
}

async function within(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing within ${PATIENCE} ms`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function decoded(data) {
  if (typeof data === "string") return { ...JSON.parse(data), binary: false };
  const view = new DataView(data);
  const length = view.getUint32(0, true);
  const message = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  for (const output of message.outputs) {
    const size = output.parameters?.binary_data_size;
    if (size === undefined) continue;
    const raw = new DataView(data, at, size);
    const width = output.datatype === "INT64" ? 8 : 4;
    output.data = Array.from({ length: size / width }, (_, index) =>
      width === 8 ? Number(raw.getBigInt64(8 * index, true)) : raw.getFloat32(4 * index, true),
    );
    at += size;
  }
  mustEqual(at, data.byteLength, "bytes of the message that belong to something");
  return { ...message, binary: true };
}

const inputs = (step) => [{ name: "sample", datatype: "FP32", shape: [1, 3], data: steps[step - 1].sample }];
const rawInputs = [{ name: "sample", datatype: "FP32", shape: [1, 3], parameters: { binary_data_size: 12 } }];
const rawSample = (step) => new Float32Array(steps[step - 1].sample).buffer;
const output = (answer, name) => answer.outputs.find((one) => one.name === name).data.map(Math.fround);
const step = (sequence, number) => ({
  inputs: inputs(number),
  parameters: { sequence_id: sequence, sequence_number: number },
});

function mustBeOutcome(answer, sequence, number, ends = false) {
  mustEqual(answer.type, "output", JSON.stringify(answer));
  const place = { sequence_id: sequence, sequence_number: number, sequence_durable: number, sequence_end: ends };
  mustEqual({ ...answer.parameters, sequence_durable: number }, place);
  must(answer.parameters.sequence_durable >= number, `message ${number} is not durable`);
  mustEqual(output(answer, "score"), steps[number - 1].score.map(Math.fround), `score of step ${number}`);
  mustEqual(output(answer, "alarm"), [steps[number - 1].alarm], `alarm of step ${number}`);
}

const checks = {
  async the_subprotocol_is_chosen() {
    for (const [offered, chosen] of [["grid.v1", "grid.v1"], [["chat", "grid.v1"], "grid.v1"], [[], ""]]) {
      const stream = await Stream.open(offered);
      mustEqual(stream.socket.protocol, chosen);
      await stream.close();
    }
  },

  async another_subprotocol_is_refused() {
    const socket = new WebSocket(`ws://${address}/v2/models/vitals/stream`, "grid.v2");
    const opened = new Promise((resolve) => {
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    });
    mustEqual(await within(opened), false);
  },

  async a_thousand_requests() {
    const stream = await Stream.open();
    const unanswered = new Map();
    for (let number = 0; number < 1000; number += 1) {
      const at = 1 + (number % steps.length);
      unanswered.set(`r${number}`, at);
      stream.say({ id: `r${number}`, inputs: inputs(at) });
    }
    while (unanswered.size > 0) {
      const answer = await stream.hear();
      mustEqual(answer.type, "output", JSON.stringify(answer));
      must(unanswered.has(answer.id), `answered twice: ${answer.id}`);
      mustEqual(output(answer, "mean_out"), steps[unanswered.get(answer.id) - 1].sample.map(Math.fround));
      unanswered.delete(answer.id);
    }
    await stream.close();
  },

  async binary_frames_in_and_out() {
    const stream = await Stream.open();
    for (let at = 1; at <= 20; at += 1) {
      const request = { id: "raw", inputs: rawInputs, parameters: { binary_data_output: at % 2 === 0 } };
      const answer = await stream.ask(request, rawSample(at));
      mustEqual([answer.type, answer.binary], ["output", at % 2 === 0], JSON.stringify(answer));
      mustEqual(output(answer, "mean_out"), steps[at - 1].sample.map(Math.fround));
    }
    await stream.close();
  },

  async errors_leave_the_connection_open() {
    const stream = await Stream.open();
    const error = await stream.ask({ id: "wrong", inputs: [] });
    mustEqual([error.type, error.id, error.kind, error.retry], ["error", "wrong", "invalid", false]);
    mustEqual((await stream.ask({ id: "right", inputs: inputs(1) })).id, "right");
    await stream.close();
  },

  async a_whole_sequence_with_raw_samples() {
    const stream = await Stream.open();
    const { sequence_id: sequence, type } = await stream.ask({ type: "start" });
    mustEqual(type, "started");
    for (let number = 1; number <= steps.length; number += 1) {
      const message = { ...step(sequence, number), inputs: rawInputs };
      mustBeOutcome(await stream.ask(message, rawSample(number)), sequence, number);
    }
    const ended = await stream.ask({ type: "end", sequence_id: sequence });
    mustEqual([ended.type, ended.last], ["ended", steps.length]);
    await stream.close();
  },

  // There is no way to cut a connection here: each is left with messages unanswered, and taken over while it closes.
  async a_sequence_over_many_connections() {
    let stream = await Stream.open();
    const started = await stream.ask({ type: "start" });
    const { sequence_id: sequence, sequence_token, window } = started;
    let heard = 0;
    let sent = 0;
    for (let round = 0; heard < steps.length; round += 1) {
      const most = Math.min(heard + window.messages, steps.length, sent + 1 + ((7 * round) % 23));
      while (sent < most) stream.say(step(sequence, (sent += 1)));
      const wanted = Math.min(sent, heard + 1 + ((5 * round) % 17));
      while (heard < wanted) mustBeOutcome(await stream.hear(), sequence, (heard += 1));
      stream.socket.close();
      stream = await Stream.open();
      const resumed = await stream.ask({ type: "resume", sequence_id: sequence, sequence_token, last: heard });
      mustEqual(resumed.type, "resumed", JSON.stringify(resumed));
      must(resumed.next > heard && resumed.next <= sent + 1, `next ${resumed.next}, heard ${heard}, sent ${sent}`);
      sent = resumed.next - 1;
    }
    const ended = await stream.ask({ type: "end", sequence_id: sequence });
    mustEqual([ended.type, ended.last], ["ended", steps.length]);
    await stream.close();
  },

  async a_close_is_answered() {
    const stream = await Stream.open();
    const { code, wasClean } = await stream.close();
    mustEqual([code, wasClean], [1000, true]);
  },
};

if (typeof WebSocket === "undefined") {
  console.log(`SKIPPED node_websocket: Node ${process.version} has no WebSocket`);
  process.exit(0);
}
let passed = 0;
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    passed += 1;
    console.log(`ok node_${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL node_${name}: ${String(error.message).split(/\s+/).join(" ").slice(0, 600)}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
