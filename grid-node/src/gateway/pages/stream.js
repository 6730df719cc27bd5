// A client of `grid.v1` (docs/streaming.md) for sequences, in browsers and in Node, without dependencies.
//
// A `Sequence` outlives its connections: when one breaks, it connects again, resumes, and sends again what did not
// arrive. So every message gets one outcome, in the order of the numbers; no more than the server's window is unanswered.

import { decode, encode } from "./frames.js";

/** Longest pause before connecting or sending again, and the first one; each is twice the one before. */
const LONGEST_PAUSE_MS = 10_000, FIRST_PAUSE_MS = 250;
/** How long to go on connecting, until the server has said how long it remembers a sequence. */
const CONNECT_WITHIN_MS = 60_000;
/** Refusals of a handshake that no later attempt changes. */
const REFUSED_FOR_GOOD = [400, 403, 404];

export class Sequence {
  /** The number of the last outcome that came, of the last message that was sent, and how often it was connected again. */
  last = 0; sent = 0; reconnects = 0;
  /** How many messages may be unanswered; the server says it. */
  window = 1;
  /** Resolves when the sequence is over, to `{ last, ended }`; rejects when it cannot go on. */
  done;
  #url; #handlers; #options; #socket; #identity; #settle;
  #messages = new Map(); // by number: those without an outcome, sent or not
  #cursor = 1; // the number to be sent next on this connection
  #given_back = new Set(); // numbers on this connection that the server gave back unrun
  #live = false; #over = false; #ending = false; #end_sent = false;
  #tries = 0; #broken_at = performance.now(); #resume_within = CONNECT_WITHIN_MS; #patience; #pause; #waiting = [];

  /**
   * Connects to `ws(s)://HOST/v2/models/NAME/stream`. Handlers, each optional: `outcome({ number, outputs, error,
   * round_trip_ms })`, with either outputs or error; `state(state, text)`: connecting, connected, reconnecting, ended or failed.
   * Options: `WebSocket`, the class; `silence_ms`, how long an answer may take before the connection counts as broken.
   */
  constructor(url, handlers = {}, options = {}) {
    this.#url = String(url);
    this.#handlers = handlers;
    this.#options = { WebSocket: globalThis.WebSocket, silence_ms: 10_000, ...options };
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.done.catch(() => {}); // who does not ask hears of it by `state`
    this.#connect();
    handlers.state?.("connecting", "");
  }

  get in_flight() { return this.#cursor - 1 - this.last; }
  get over() { return this.#over; }

  /** Sends a message, or keeps it until it can be sent; its number. The arrays must not be changed until its outcome. */
  send(inputs, outputs) {
    if (this.#over || this.#ending) throw new Error("the sequence takes no more messages");
    const number = this.last + this.#messages.size + 1;
    this.#messages.set(number, { inputs, outputs });
    this.#pump();
    return number;
  }

  /** Waits until another message can be sent at once, or never. */
  async room() { while (!this.#over && this.#messages.size >= this.window) await new Promise((go) => this.#waiting.push(go)); }

  /** Ends the sequence behind its last message; when all outcomes are there, `done` resolves. */
  end() { this.#ending = true; this.#pump(); return this.done; }

  /** Leaves at once. The server forgets the sequence in its own time. */
  close() { this.#finish("ended", "closed", () => this.#settle.resolve({ last: this.last, ended: false })); }

  #connect() {
    const socket = new this.#options.WebSocket(this.#url, ["grid.v1"]);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#receive(decode(data)); };
    socket.onclose = ({ code, reason }) => { if (socket === this.#socket) this.#lost(reason || `the connection broke (${code})`); };
    this.#socket = socket;
    this.#expect();
  }

  #receive(message) {
    clearTimeout(this.#patience);
    this.#patience = undefined;
    if (message.type === "ready") {
      const resume = this.#identity && { type: "resume", ...this.#identity, last: this.last };
      this.#socket.send(JSON.stringify(resume ?? { type: "start" }));
    } else if (message.type === "started") {
      this.#identity = { sequence_id: message.sequence_id, sequence_token: message.sequence_token };
      [this.window, this.#resume_within] = [message.window.messages, message.resume_within_ms];
      this.#go_on(1);
    } else if (message.type === "resumed") {
      this.reconnects += 1;
      this.#go_on(message.next);
    } else if (message.type === "output") {
      const { sequence_number: number } = message.parameters;
      if (number > this.last + 1) return this.#fail(`outcome ${this.last + 1} is missing: ${number} came`);
      if (number === this.last + 1) this.#deliver(number, { outputs: message.outputs }, message.final);
    } else if (message.type === "error") this.#refused(message);
    else if (message.type === "fenced") this.#fail("another connection has taken the sequence over");
    else if (message.type === "ended") {
      this.#finish("ended", "", () => this.#settle.resolve({ last: message.last, ended: true }));
    }
    this.#pump();
    this.#expect();
  }

  #go_on(next) {
    [this.#live, this.#cursor] = [true, next];
    this.#handlers.state?.("connected", this.#identity.sequence_id);
  }

  #deliver(number, outcome, final) {
    const round_trip_ms = performance.now() - this.#messages.get(number).sent_at;
    if (final && this.#messages.delete(number)) [this.last, this.#tries] = [number, 0];
    this.#handlers.outcome?.({ number, ...outcome, round_trip_ms });
  }

  #refused(error) {
    const { sequence_number: number, sequence_outcome: is_outcome } = error;
    if (is_outcome) {
      if (number === this.last + 1) this.#deliver(number, { error }, true);
    } else if (!error.retry && !(number && this.#given_back.size)) this.#fail(error.error);
    else if (!number) this.#lost(error.error);
    else {
      // Nothing is sent until each message on its way has come back or been answered: see `#pump`.
      this.#given_back.add(number);
      this.#pause ??= setTimeout(() => { this.#pause = undefined; this.#pump(); }, error.retry_after_ms ?? this.#back_off());
    }
  }

  #pump() {
    if (!this.#live || this.#over) return;
    if (this.#given_back.size) {
      if (this.#pause || [...this.#messages.keys()].some((n) => n < this.#cursor && !this.#given_back.has(n))) return;
      this.#given_back.clear();
      this.#cursor = this.last + 1;
    }
    for (; this.in_flight < this.window && this.#messages.has(this.#cursor); this.#cursor += 1) {
      const message = this.#messages.get(this.#cursor);
      message.sent_at ??= performance.now();
      const parameters = { sequence_id: this.#identity.sequence_id, sequence_number: this.#cursor };
      this.#socket.send(encode({ inputs: message.inputs, outputs: message.outputs, parameters }));
      this.sent = Math.max(this.sent, this.#cursor);
    }
    // Behind all outcomes, not only all messages: these might yet be given back.
    if (this.#ending && !this.#end_sent && !this.#messages.size) {
      this.#end_sent = true;
      this.#socket.send(JSON.stringify({ type: "end", sequence_id: this.#identity.sequence_id }));
    }
    this.#expect();
    for (const go of this.#waiting.splice(0)) go();
  }

  /** Something is to be heard within `silence_ms`, if anything is unanswered: a dead connection need not be closed. */
  #expect() {
    const nothing_due = !this.#socket || (this.#live && !this.in_flight && !this.#end_sent);
    if (this.#patience !== undefined || nothing_due) return;
    this.#patience = setTimeout(() => this.#lost("nothing was heard any more"), this.#options.silence_ms);
  }

  #back_off() {
    return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#tries++) * (0.5 + Math.random() / 2);
  }

  #lost(why) {
    if (this.#live) this.#broken_at = performance.now();
    this.#drop();
    if (performance.now() - this.#broken_at > this.#resume_within) return this.#fail(`${why}; the server remembers no longer`);
    const pause = this.#back_off();
    this.#handlers.state?.("reconnecting", `${why}; trying again in ${(pause / 1000).toFixed(1)} s`);
    this.#pause = setTimeout(async () => {
      const refusal = await this.#refusal();
      this.#pause = undefined;
      if (refusal) this.#fail(refusal);
      else if (!this.#over) this.#connect();
    }, pause);
  }

  /** Why the server refuses for good. A browser keeps the response to a refused handshake to itself: ask without one. */
  async #refusal() {
    try {
      const response = await fetch(this.#url.replace(/^ws/, "http"), { signal: AbortSignal.timeout(5000) });
      if (REFUSED_FOR_GOOD.includes(response.status)) return (await response.json()).error;
    } catch { /* It cannot be reached, or does not let this page ask: try again. */ }
  }

  #drop() {
    for (const timer of [this.#patience, this.#pause]) clearTimeout(timer);
    const socket = this.#socket;
    this.#socket = this.#patience = this.#pause = undefined;
    this.#live = this.#end_sent = false;
    this.#given_back.clear();
    socket?.close();
  }

  #fail(why) { this.#finish("failed", why, () => this.#settle.reject(new Error(why))); }

  #finish(state, text, settle) {
    if (this.#over) return;
    this.#over = true;
    this.#drop();
    this.#handlers.state?.(state, text);
    settle();
    for (const go of this.#waiting.splice(0)) go();
  }
}
