// What the client of `grid.v1` does at moments that a real node seldom brings about: node --test tests/browser/stream_test.mjs
// The socket is scripted; time passes as it does.

import assert from "node:assert/strict";
import test from "node:test";

import { decode, encode } from "../../grid-node/src/gateway/pages/frames.js";
import { Sequence } from "../../grid-node/src/gateway/pages/stream.js";

globalThis.fetch = async () => ({ status: 426 }); // there is such a path

/** A socket whose server is the test; `sockets` are all that were opened, in order. */
function scripted() {
  const sockets = [];
  const opened = [];
  class Socket {
    heard = []; closed = false; #asked = [];
    constructor() { sockets.push(this); opened.shift()?.(this); }
    send(frame) { this.heard.push(decode(frame)); this.#asked.shift()?.(); }
    close() { this.closed = true; }
    say(...messages) { for (const message of messages) this.onmessage({ data: JSON.stringify(message) }); }
    break() { this.onclose({ code: 1006, reason: "" }); }
    async until(count) { while (this.heard.length < count) await new Promise((go) => this.#asked.push(go)); }
  }
  const next = (count) => sockets[count - 1] ?? new Promise((go) => opened.push(go)).then(() => next(count));
  return { Socket, sockets, next };
}

const ready = { type: "ready", protocol: "grid.v1" };
const started = { type: "started", sequence_id: "s", sequence_token: "t", window: { messages: 3, bytes: 1 }, resume_within_ms: 60_000 };
const output = (number) => ({ type: "output", final: true, parameters: { sequence_id: "s", sequence_number: number }, outputs: [] });
const given_back = (number, kind = "overloaded", retry = true) => ({ type: "error", sequence_id: "s", sequence_number: number,
  sequence_outcome: false, kind, error: kind, retry, retry_after_ms: 1 });
const numbers = (messages) => messages.map(({ type, parameters }) => parameters?.sequence_number ?? type);

function begun(options = {}) {
  const script = scripted();
  const outcomes = [], states = [];
  const handlers = { outcome: ({ number, error }) => outcomes.push(error ? error.kind : number), state: (state) => states.push(state) };
  const sequence = new Sequence("ws://node/v2/models/m/stream", handlers, { WebSocket: script.Socket, ...options });
  script.sockets[0].say(ready, started);
  const send = (count) => { for (let i = 0; i < count; i += 1) sequence.send([{ name: "x", datatype: "FP32", shape: [1], data: [0] }]); };
  return { ...script, sequence, outcomes, states, send };
}

test("no more than the window is unanswered", async () => {
  const { sockets: [socket], sequence, send } = begun();
  send(5);
  assert.deepEqual(numbers(socket.heard), ["start", 1, 2, 3]);
  let has_room = false;
  const room = sequence.room().then(() => (has_room = true));
  socket.say(output(1), output(2));
  await Promise.resolve();
  assert.deepEqual(numbers(socket.heard), ["start", 1, 2, 3, 4, 5]);
  assert.equal(has_room, false);
  socket.say(output(3));
  await room;
  sequence.close();
});

test("what is given back is sent again in order, and not before all behind it have come back", async () => {
  const { sockets: [socket], sequence, outcomes, send } = begun();
  send(4);
  socket.say(given_back(2), output(1));
  assert.deepEqual(numbers(socket.heard), ["start", 1, 2, 3]);
  await new Promise((go) => setTimeout(go, 20)); // longer than `retry_after_ms`: 3 has still to come back
  assert.deepEqual(numbers(socket.heard), ["start", 1, 2, 3]);
  socket.say(given_back(3, "sequence_out_of_order", false));
  await socket.until(7);
  assert.deepEqual(numbers(socket.heard), ["start", 1, 2, 3, 2, 3, 4]);
  socket.say(output(2), output(3), output(4));
  assert.deepEqual(outcomes, [1, 2, 3, 4]);
  sequence.close();
});

test("an error that is the outcome is delivered as one, and the others go on", async () => {
  const { sockets: [socket], sequence, outcomes, send } = begun();
  send(2);
  socket.say({ ...given_back(1, "model_failed", false), sequence_outcome: true }, output(2));
  assert.deepEqual(outcomes, ["model_failed", 2]);
  const end = sequence.end();
  assert.equal(socket.heard.at(-1).type, "end");
  socket.say({ type: "ended", sequence_id: "s", last: 2 });
  assert.deepEqual(await end, { last: 2, ended: true });
});

test("a broken connection is resumed behind the last outcome, and sends what did not arrive", async () => {
  const { sockets: [socket], next, sequence, outcomes, states, send } = begun();
  send(4);
  socket.say(output(1));
  socket.break();
  const again = await next(2);
  again.say(ready);
  assert.deepEqual(again.heard, [{ type: "resume", sequence_id: "s", sequence_token: "t", last: 1 }]);
  again.say({ type: "resumed", sequence_id: "s", next: 3, sequence_durable: 2 }, output(2));
  assert.deepEqual(numbers(again.heard), ["resume", 3, 4]);
  socket.onmessage({ data: JSON.stringify(output(3)) }); // late, from the connection that is no more
  again.say(output(2), output(3), output(4)); // one of them a second time
  assert.deepEqual(outcomes, [1, 2, 3, 4]);
  assert.deepEqual(states, ["connecting", "connected", "reconnecting", "connected"]);
  sequence.close();
});

test("the end is said again where it may not have arrived", async () => {
  const { sockets: [socket], next, sequence } = begun();
  const end = sequence.end();
  assert.deepEqual(numbers(socket.heard), ["start", "end"]);
  socket.break();
  const again = await next(2);
  again.say(ready, { type: "resumed", sequence_id: "s", next: 1 });
  assert.deepEqual(numbers(again.heard), ["resume", "end"]);
  again.say({ type: "ended", sequence_id: "s", last: 0 });
  assert.deepEqual(await end, { last: 0, ended: true });
});

test("a start that was not answered begins anew", async () => {
  const { Socket, sockets, next } = scripted();
  const sequence = new Sequence("ws://node", {}, { WebSocket: Socket });
  sockets[0].say(ready);
  sockets[0].break();
  const again = await next(2);
  again.say(ready, started);
  assert.deepEqual(again.heard, [{ type: "start" }]);
  sequence.close();
});

test("silence is given up while an answer is due, and only then", async () => {
  const { sockets, next, sequence, send } = begun({ silence_ms: 30 });
  await new Promise((go) => setTimeout(go, 60)); // longer than the patience: nothing is due
  assert.equal(sockets.length, 1);
  send(1);
  await next(2);
  assert.equal(sockets[0].closed, true);
  sequence.close();
});

test("a gap, being fenced and an error for good end it with the reason", async () => {
  for (const [message, why] of [
    [output(2), /outcome 1 is missing/],
    [{ type: "fenced", sequence_id: "s" }, /another connection/],
    [{ type: "error", sequence_id: "s", kind: "sequence_expired", error: "expired", retry: false }, /expired/],
  ]) {
    const { sockets: [socket], sequence, states, send } = begun();
    send(2);
    socket.say(message);
    await assert.rejects(sequence.done, why);
    assert.equal(states.at(-1), "failed");
    assert.equal(socket.closed, true);
  }
});

test("a refusal that stays is not tried again", async () => {
  const { Socket, sockets } = scripted();
  const fetched = globalThis.fetch;
  globalThis.fetch = async (url) => ({ status: 404, json: async () => ({ error: `unknown: ${url}` }) });
  const sequence = new Sequence("ws://node/m", {}, { WebSocket: Socket });
  sockets[0].break();
  await assert.rejects(sequence.done, /unknown: http:\/\/node\/m/);
  assert.equal(sockets.length, 1);
  globalThis.fetch = fetched;
});

test("raw tensors keep their bits, wherever they lie", () => {
  const data = Float32Array.of(0, 1.5, -0, NaN, 3).subarray(1, 4);
  const frame = encode({ inputs: [{ name: "a", data: [1] }, { name: "b", datatype: "FP32", data }], id: "é" });
  const at = 4 + new DataView(frame).getUint32(0, true);
  const json = JSON.parse(new TextDecoder().decode(frame.slice(4, at)));
  assert.deepEqual(json.inputs, [{ name: "a", data: [1] }, { name: "b", datatype: "FP32", parameters: { binary_data_size: 12 } }]);
  const head = new TextEncoder().encode(JSON.stringify({ outputs: [
    { name: "c", datatype: "FP32", parameters: { binary_data_size: 12 } }, { name: "d", datatype: "INT64", data: [2] }] }));
  const answer = new Uint8Array(4 + head.length + 12);
  new DataView(answer.buffer).setUint32(0, head.length, true);
  answer.set(head, 4);
  answer.set(new Uint8Array(frame, at), 4 + head.length);
  assert.deepEqual(decode(answer.buffer).outputs.map((output) => output.data), [data, [2]].map((d) => (d === data ? data.slice() : d)));
});
