// Sound as Silero VAD takes it: one channel at 16 kHz, from -1 to 1, in chunks that overlap a little.

/** Samples a second. */
export const RATE = 16_000;
/** New samples in a chunk. */
export const CHUNK = 512;
/** Samples before them, which are the end of the chunk before; zeros before the first. */
export const CONTEXT = 64;

/** Cuts samples, as they come, into chunks of CONTEXT + CHUNK. */
export class Chunks {
  #chunk = new Float32Array(CONTEXT + CHUNK);
  #filled = CONTEXT;

  *push(samples) {
    for (let at = 0; at < samples.length; ) {
      const taken = samples.subarray(at, at + this.#chunk.length - this.#filled);
      this.#chunk.set(taken, this.#filled);
      this.#filled += taken.length;
      at += taken.length;
      if (this.#filled === this.#chunk.length) yield this.#cut();
    }
  }

  /** The last chunk, made whole with silence, if any samples are left. */
  *flush() {
    if (this.#filled === CONTEXT) return;
    this.#chunk.fill(0, this.#filled);
    yield this.#cut();
  }

  #cut() {
    const whole = this.#chunk.slice();
    this.#chunk.copyWithin(0, CHUNK);
    this.#filled = CONTEXT;
    return whole;
  }
}

/** The samples of a sound file. What is 16 kHz, 16 bit, one channel already is taken as it is. */
export async function samples_of(file) {
  const bytes = await file.arrayBuffer();
  const exact = wave_samples(bytes);
  if (exact) return exact;
  let sound;
  try {
    // Decoding in a context resamples to the rate of the context.
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name} is no sound that this browser can decode`);
  }
  const mixed = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel += 1) {
    sound.getChannelData(channel).forEach((sample, at) => (mixed[at] += sample));
  }
  return mixed.map((sample) => sample / sound.numberOfChannels);
}

/** The samples of a RIFF/WAVE file of 16 kHz, 16 bit, one channel; nothing if it is another file. */
export function wave_samples(bytes) {
  const view = new DataView(bytes);
  const name = (at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  if (bytes.byteLength < 12 || name(0) !== "RIFF" || name(8) !== "WAVE") return;
  let is_plain = false;
  for (let at = 12; at + 8 <= bytes.byteLength; ) {
    const [id, start] = [name(at), at + 8];
    const size = Math.min(view.getUint32(at + 4, true), bytes.byteLength - start);
    if (id === "fmt " && size >= 16) {
      const [coding, channels] = [view.getUint16(start, true), view.getUint16(start + 2, true)];
      const [rate, bits] = [view.getUint32(start + 4, true), view.getUint16(start + 14, true)];
      is_plain = coding === 1 && channels === 1 && rate === RATE && bits === 16;
    } else if (id === "data") {
      if (!is_plain) return;
      return Float32Array.from({ length: size >> 1 }, (_, i) => view.getInt16(start + 2 * i, true) / 32768);
    }
    at = start + size + (size & 1); // parts begin at even bytes
  }
}

/** Opens the microphone: `{ samples, stop }`, with an asynchronous iterable of samples at RATE that ends after `stop()`. */
export async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("browsers give the microphone only to pages of this machine (localhost) or over https");
  }
  // As raw as it can be had: the model was trained on sound with its noise.
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  let context;
  try {
    let source;
    [context, source] = await listen(stream);
    await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    const recorder = new AudioWorkletNode(context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    const resampler = context.sampleRate === RATE ? undefined : new Resampler(context.sampleRate);
    const heard = new Queue();
    recorder.port.onmessage = ({ data }) => heard.put(resampler ? resampler.push(data) : data);
    // It plays nothing, but what leads nowhere need not be run.
    source.connect(recorder).connect(context.destination);
    const stop = () => {
      if (heard.closed) return;
      heard.close();
      for (const track of stream.getTracks()) track.stop();
      context.close();
    };
    for (const track of stream.getTracks()) track.onended = stop; // it was unplugged, or taken back
    return { samples: heard, stop };
  } catch (error) {
    for (const track of stream.getTracks()) track.stop();
    context?.close();
    throw error;
  }
}

/** A context that hears the stream, at RATE where the browser can do that, and else at the rate of the device. */
async function listen(stream) {
  for (const options of [{ sampleRate: RATE }, {}]) {
    // No loudspeaker: it need not exist. Browsers that do not know `sinkId` ignore it.
    const context = new AudioContext({ ...options, sinkId: { type: "none" } });
    try {
      const source = context.createMediaStreamSource(stream);
      await context.resume();
      return [context, source];
    } catch (error) {
      context.close();
      if (!options.sampleRate) throw error; // Firefox wants the rate of the device
    }
  }
}

/** Hands values over to an asynchronous loop. */
class Queue {
  #values = [];
  closed = false;
  #wake = () => {};

  put(value) { this.#values.push(value); this.#wake(); }
  close() { this.closed = true; this.#wake(); }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#values.length) yield this.#values.shift();
      if (this.closed) return;
      await new Promise((wake) => (this.#wake = wake));
    }
  }
}

/**
 * Resamples to RATE as samples come: a sinc under a Hann window, cut off at half of the lower rate. What comes out
 * needs the samples around it, so it is late by LOBES samples of the lower rate: 1 ms at 16 kHz.
 */
export class Resampler {
  static LOBES = 16; // on either side; zero crossings of the sinc
  #step; #cutoff; #reach; #samples = new Float32Array(0);
  #next; // where the next output stands, in samples of `#samples`
  #filters = new Map(); // by the fraction of a sample, of which there are few for the usual rates

  constructor(rate) {
    this.#step = rate / RATE;
    this.#cutoff = Math.min(1, 1 / this.#step);
    this.#reach = Math.ceil(Resampler.LOBES / this.#cutoff);
    this.#samples = new Float32Array(this.#reach); // silence before the first
    this.#next = this.#reach;
  }

  push(samples) {
    const all = new Float32Array(this.#samples.length + samples.length);
    all.set(this.#samples);
    all.set(samples, this.#samples.length);
    const out = [];
    for (; this.#next + this.#reach < all.length; this.#next += this.#step) {
      const whole = Math.floor(this.#next);
      const filter = this.#filter(this.#next - whole);
      let sum = 0;
      for (let i = 0; i < filter.length; i += 1) sum += filter[i] * all[whole - this.#reach + 1 + i];
      out.push(sum);
    }
    const gone = Math.floor(this.#next) - this.#reach;
    this.#samples = all.slice(gone);
    this.#next -= gone;
    return Float32Array.from(out);
  }

  /** Weights of the samples from `reach` - 1 before to `reach` behind a place between two samples. */
  #filter(fraction) {
    const key = Math.round(fraction * 1e6);
    if (!this.#filters.has(key)) {
      const weights = Float32Array.from({ length: 2 * this.#reach }, (_, i) => {
        const away = i - this.#reach + 1 - key / 1e6;
        const turns = Math.PI * away * this.#cutoff;
        const window = Math.abs(away) >= this.#reach ? 0 : 0.5 + 0.5 * Math.cos((Math.PI * away) / this.#reach);
        return this.#cutoff * (turns === 0 ? 1 : Math.sin(turns) / turns) * window;
      });
      this.#filters.set(key, weights);
    }
    return this.#filters.get(key);
  }
}
