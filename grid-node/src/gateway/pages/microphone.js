// Runs in the audio thread of the browser: hands what it hears to the page, a few hundredths of a second at a time.

const SAMPLES = 512;

class Recorder extends AudioWorkletProcessor {
  #heard = new Float32Array(SAMPLES);
  #filled = 0;

  process([input]) {
    const [samples] = input; // none while nothing is connected
    for (const sample of samples ?? []) {
      this.#heard[this.#filled] = sample;
      this.#filled += 1;
      if (this.#filled === SAMPLES) {
        this.port.postMessage(this.#heard); // copies
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
