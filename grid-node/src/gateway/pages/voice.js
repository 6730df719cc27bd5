// The page: takes sound from a microphone or a file, streams it to the model, and draws what comes back.

import { CHUNK, Chunks, RATE, microphone, samples_of } from "./sound.js";
import { Sequence } from "./stream.js";

const MODEL = "silero_vad";
/** What the plot shows, in seconds. */
const SHOWN_S = 30;
/** From how likely on a chunk is called speech. */
const THRESHOLD = 0.5;
/** Of how many outcomes, the last ones, the round trip is the median. */
const ROUND_TRIPS = 100;
/** How often to look whether a model that is not served is served now. */
const LOOK_AGAIN_MS = 2000;

/** What came of the present run, or of the one before: the browser's console and tests/browser read it. */
window.voice = { numbers: [], probabilities: [] };

const page = (id) => document.getElementById(id);
const at_node = (path) => new URL(`../v2/${path}`, location.href);
let run; // { sequence, stop }, while sound is streamed

function show_state(state, text) {
  page("status").dataset.state = state;
  page("status").textContent = text;
}

/** Says whether the node serves the model, and goes on looking until it does. */
async function look() {
  let missing;
  try {
    const response = await fetch(at_node(`models/${MODEL}/ready`), { cache: "no-store" });
    if (response.ok) {
      show_state("idle", `${MODEL} is served here. Use the microphone, or choose a file.`);
      return allow(true);
    }
    const { error } = await response.json();
    const load = at_node(`repository/models/${MODEL}/load`);
    missing = ["missing", `This node does not serve ${MODEL}: ${error}.\n` +
      `Fetch it with “configs/fetch models ${MODEL}”, name its folder, configs/larger, in the node's config (configs/streams.toml ` +
      `does), and start the node again. If it is there and only not loaded: curl -X POST ${load}`];
  } catch {
    missing = ["missing", "The node does not answer. Is it running? This page looks again by itself."];
  }
  if (page("status").textContent !== missing[1]) show_state(...missing); // else it would be read aloud again and again
  setTimeout(look, LOOK_AGAIN_MS);
}

/** Whether something can be begun. */
function allow(can_begin) {
  page("file").disabled = !can_begin;
  page("microphone").disabled = false;
  page("microphone").textContent = can_begin ? "Use microphone" : "Stop";
}

/** Streams the sound that `open` opens, `{ samples, stop }`, to its end. */
async function stream(open) {
  if (page("file").disabled) return;
  allow(false);
  Object.assign(voice, { numbers: [], probabilities: [] });
  plot.clear();
  let sequence, sound, stopped = false, refused;
  const stop = () => {
    sound?.stop();
    // Pressed again, or nobody there to say what is lacking: no waiting.
    if (stopped || page("status").dataset.state !== "connected") sequence?.close();
    stopped = true;
  };
  run = { stop };
  try {
    show_state("opening", "Opening the sound…");
    sound = await open();
    if (stopped) return show_state("idle", "Stopped before it began.");
    const trips = [];
    const show_counts = () => counters.show(sequence, trips);
    sequence = new Sequence(String(at_node(`models/${MODEL}/stream`)).replace(/^http/, "ws"), {
      outcome({ number, outputs, error, round_trip_ms }) {
        refused ??= error?.error;
        const probability = outputs?.[0].data[0] ?? null;
        voice.numbers.push(number);
        voice.probabilities.push(probability);
        trips[number % ROUND_TRIPS] = round_trip_ms;
        plot.add(number * CHUNK / RATE, probability);
        show_counts();
      },
      state(state, text) {
        if (state === "connected") show_state(state, `Connected: sequence ${text}.`);
        else if (state === "reconnecting") show_state(state, `Reconnecting: ${text}. Nothing is lost meanwhile.`);
        else if (state === "connecting") show_state(state, "Connecting…");
      },
    });
    sequence.done.then(sound.stop, sound.stop);
    const rate = new BigInt64Array([BigInt(RATE)]);
    const send = async (chunk) => {
      await sequence.room();
      if (sequence.over) return;
      sequence.send([
        { name: "input", datatype: "FP32", shape: [1, chunk.length], data: chunk },
        { name: "sr", datatype: "INT64", shape: [], data: rate },
      ], [{ name: "output" }]);
      show_counts();
    };
    const chunks = new Chunks();
    for await (const samples of sound.samples) {
      for (const chunk of chunks.push(samples)) {
        if (stopped || sequence.over) break;
        await send(chunk);
      }
      if (sequence.over) break;
    }
    for (const chunk of stopped ? [] : chunks.flush()) await send(chunk);
    const { last, ended } = await sequence.end();
    show_counts();
    show_state("ended", `${ended ? "Done" : "Left"}: ${last} chunks, ${(last * CHUNK / RATE).toFixed(1)} s of sound.`
      + (refused ? ` Without an answer for some: ${refused}` : ""));
  } catch (error) {
    show_state("failed", error.name === "NotAllowedError" ? "The browser was not allowed to use the microphone."
      : error.name === "NotFoundError" ? "There is no microphone." : `That did not work: ${error.message}`);
  } finally {
    sound?.stop();
    run = undefined;
    allow(true);
  }
}

const from_file = async (file) => ({ samples: [await samples_of(file)], stop() {} });

const counters = {
  show(sequence, trips) {
    const newest = voice.probabilities.at(-1);
    const known = trips.filter((trip) => trip !== undefined).sort((a, b) => a - b);
    const texts = {
      now: newest == null ? "–" : `${newest.toFixed(2)} ${newest > THRESHOLD ? "speech" : "no speech"}`,
      sent: sequence.sent,
      received: sequence.last,
      "in-flight": sequence.in_flight,
      "round-trip": known.length ? `${known[known.length >> 1].toFixed(1)} ms` : "–",
      reconnects: sequence.reconnects,
    };
    for (const [id, text] of Object.entries(texts)) page(id).textContent = text;
  },
};

class Plot {
  #times = []; #values = []; #drawn = true; #plot;

  constructor(place) {
    const color = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
    const axis = { stroke: color("text"), grid: { stroke: color("line"), width: 1 }, ticks: { stroke: color("line") } };
    const size = () => ({ width: Math.max(280, place.clientWidth), height: 300 });
    this.#plot = new uPlot({
      ...size(),
      scales: { x: { time: false, range: (_, __, newest) => this.#shown(newest) }, y: { range: [0, 1] } },
      axes: [{ ...axis, label: "seconds" }, { ...axis, label: "probability of speech" }],
      series: [
        {},
        { label: "speech", stroke: color("accent"), width: 2, points: { show: false } },
        { label: String(THRESHOLD), stroke: color("threshold"), width: 1, dash: [6, 4], points: { show: false } },
      ],
      cursor: { show: false },
      legend: { show: false },
    }, this.#data(), place);
    new ResizeObserver(() => this.#plot.setSize(size())).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw());
  }

  clear() {
    this.#times = [];
    this.#values = [];
    this.#draw();
  }

  add(time, value) {
    this.#times.push(time);
    this.#values.push(value);
    while (this.#times[0] < time - SHOWN_S) {
      this.#times.shift();
      this.#values.shift();
    }
    this.#draw();
  }

  #shown(newest) {
    const end = Math.max(SHOWN_S, newest ?? 0);
    return [end - SHOWN_S, end];
  }

  /** The threshold is a line from edge to edge, so its ends are points in time at which nothing was heard. */
  #data() {
    const [start, end] = this.#shown(this.#times.at(-1));
    const times = [start, ...this.#times, end];
    return [times, [null, ...this.#values, null], times.map(() => THRESHOLD)];
  }

  /** Once for each picture that the screen shows, however fast outcomes come. */
  #draw() {
    if (!this.#drawn) return;
    this.#drawn = false;
    requestAnimationFrame(() => {
      this.#drawn = true;
      this.#plot.setData(this.#data());
    });
  }
}

const plot = new Plot(page("plot"));

page("microphone").addEventListener("click", () => (run ? run.stop() : stream(microphone)));
page("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) stream(() => from_file(file));
  target.value = ""; // so that the same file can be chosen again
});
for (const type of ["dragover", "drop", "dragleave"]) {
  // Anywhere on the page: a file that misses the zone would otherwise replace the page.
  document.addEventListener(type, (event) => {
    event.preventDefault();
    page("drop").classList.toggle("over", type === "dragover" && !page("file").disabled);
    const file = type === "drop" && event.dataTransfer.files[0];
    if (file) stream(() => from_file(file));
  });
}

look();
