#!/usr/bin/env python3
"""Checks of the page /pages/voice in headless Chromium; tests/browser/run starts it.

Prints `ok NAME` or `FAIL NAME: WHY` for each. The page tells what came of a stream in `window.voice`: the numbers of the outcomes
in the order in which they came, and the probabilities.
"""

import argparse
import array
import base64
import contextlib
import json
import pathlib
import sys
import tempfile
import urllib.request
import wave

from playwright.sync_api import Error, expect, sync_playwright

from stand import CONFIGS, Proxy, node

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))
from checks import Checks, must, must_be_close, must_equal, must_name, wait_until  # noqa: E402

FOLDER = CONFIGS / "larger" / "silero_vad"
SPEECH = FOLDER / "speech.wav"
EXPECTED = json.loads((FOLDER / "speech_expected.json").read_text())
# Bounds of the waiting, in milliseconds; nothing waits when it need not.
STEP, STREAM = 10_000, 60_000
# What the browser itself reports about a connection or a model that is not there. Anything else is an error of the page.
UNAVOIDABLE = ("WebSocket connection to", "Failed to load resource")

ARGUMENTS = [
    "--no-sandbox",  # it often runs as root, in a container
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--use-file-for-fake-audio-capture={SPEECH}",
]


class Visit:
    """A page in the browser, with all that it asked for and complained about."""

    def __init__(self, context, address):
        self.host = f"{address[0]}:{address[1]}"
        self.page = context.new_page()
        self.page.set_default_timeout(STEP)
        self.complaints, self.hosts = [], set()
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("websocket", lambda socket: self.hosts.add(socket.url.split("/")[2]))
        self.page.goto(f"http://{self.host}/pages/voice")
        self.status = self.page.get_by_role("status")

    def state(self, state, within=STEP):
        expect(self.status).to_have_attribute("data-state", state, timeout=within)

    def choose(self, file):
        expect(self.page.get_by_label("sound file")).to_be_enabled()
        self.page.get_by_label("sound file").set_input_files(file)

    def count(self, name):
        return int(self.page.locator("div", has=self.page.get_by_text(name, exact=True)).locator("dd").last.inner_text())

    def voice(self):
        return self.page.evaluate("voice")

    def must_have_heard_speech(self):
        """Each chunk of the recording has one outcome, in order, and the right one."""
        voice, expected = self.voice(), EXPECTED["probability"]
        must_equal(voice["numbers"], list(range(1, len(expected) + 1)), "numbers of the outcomes")
        must_be_close("probability", voice["probabilities"], expected)
        for name in ["Chunks sent", "Outcomes received"]:
            must_equal(self.count(name), len(expected), name)
        must_equal(self.count("In flight"), 0, "In flight")

    def must_be_quiet(self):
        complaints = [text for text in self.complaints if not text.startswith(UNAVOIDABLE)]
        must(not complaints, f"the browser complains: {complaints}")
        must_equal(self.hosts, {self.host}, "hosts that were asked")


@contextlib.contextmanager
def visit(context, address):
    one = Visit(context, address)
    try:
        yield one
        one.must_be_quiet()
    except (Error, AssertionError) as error:
        # What Playwright says names the locator; what the page says is why.
        raise AssertionError(f"{str(error)[:300]}; status: {one.status.text_content()}; {one.complaints}") from error
    finally:
        one.page.close()


def a_file_is_heard_chunk_by_chunk(context, address):
    with visit(context, address) as one:
        one.state("idle")
        one.choose(SPEECH)
        one.state("ended", STREAM)
        one.must_have_heard_speech()
        must_equal(one.count("Connected again"), 0, "Connected again")
        must_name(one.status.inner_text(), ["271 chunks", "8.7 s"])
        # The line is drawn: the plot is not of the colour of its background alone.
        colours = """() => {
            const canvas = document.querySelector("#plot canvas");
            const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
            return new Set(pixels).size;
        }"""
        must(one.page.evaluate(colours) > 10, "the plot is empty")
        # And again on the same page, from a state of zeros.
        one.choose(SPEECH)
        one.state("ended", STREAM)
        one.must_have_heard_speech()


def a_file_may_be_dropped(context, address):
    with visit(context, address) as one:
        one.state("idle")
        drop = """async (bytes) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], "speech.wav"));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
        }"""
        one.page.evaluate(drop, base64.b64encode(SPEECH.read_bytes()).decode())
        one.state("ended", STREAM)
        one.must_have_heard_speech()


def other_sound_is_resampled(context, address):
    """The recording at 48 kHz, in two channels of which one is silent: half as loud, and still the same two sentences."""
    with tempfile.TemporaryDirectory() as folder, visit(context, address) as one:
        other = pathlib.Path(folder) / "other.wav"
        with wave.open(str(SPEECH)) as file:
            sound = array.array("h", file.readframes(file.getnframes()))
        with wave.open(str(other), "wb") as file:
            file.setparams((2, 2, 48_000, 0, "NONE", ""))
            file.writeframes(array.array("h", [part for sample in sound for part in (sample, 0) * 3]).tobytes())
        one.choose(other)
        one.state("ended", STREAM)
        found, expected = one.voice()["probabilities"], EXPECTED["probability"]
        must_equal(len(found), len(expected), "chunks")
        alike = sum((a > 0.5) == (b > 0.5) for a, b in zip(found, expected)) / len(found)
        must(alike > 0.95, f"only {alike:.0%} of the chunks are called what they are")


def what_is_no_sound_is_said_to_be_none(context, address):
    with visit(context, address) as one:
        one.choose(CONFIGS / "streams.toml")
        one.state("failed")
        must_name(one.status.inner_text(), ["streams.toml", "no sound"])
        expect(one.page.get_by_role("button", name="Use microphone")).to_be_enabled()


def the_microphone_is_heard(context, address):
    with visit(context, address) as one:
        # By the keyboard: the button is the first thing that can be reached.
        expect(one.page.get_by_role("button", name="Use microphone")).to_be_enabled()
        one.state("idle")
        one.page.keyboard.press("Tab")
        one.page.keyboard.press("Enter")
        heard = "voice.probabilities.some((p) => p > 0.9) && voice.probabilities.filter((p) => p < 0.1).length > 20"
        wait_until(lambda: one.page.evaluate(heard), "speech and silence are heard", STREAM / 1000)
        must(one.count("Chunks sent") > 20, "few chunks are counted")
        expect(one.page.get_by_text("Round trip").locator("xpath=..")).to_contain_text(" ms")
        one.page.get_by_role("button", name="Stop").click()
        one.state("ended")
        numbers = one.voice()["numbers"]
        must_equal(numbers, list(range(1, len(numbers) + 1)), "numbers of the outcomes")
        for name in ["Chunks sent", "Outcomes received"]:
            must_equal(one.count(name), len(numbers), name)


def a_rate_that_the_browser_does_not_take_is_resampled(context, address):
    """What Firefox needs: tones of 48 and 44.1 kHz, of which one can be had at 16 kHz and the other cannot."""
    tones = """async () => {
        const { Resampler } = await import("/pages/sound.js");
        const loudness = (rate, hertz) => {
            const resampler = new Resampler(rate);
            const out = [];
            for (let at = 0; at < rate; at += 512) {
                out.push(...resampler.push(Float32Array.from({ length: 512 }, (_, i) => Math.sin(2 * Math.PI * hertz * (at + i) / rate))));
            }
            const settled = out.slice(1000);
            return [out.length, Math.sqrt(2 * settled.reduce((sum, x) => sum + x * x, 0) / settled.length)];
        };
        return [48000, 44100].map((rate) => [loudness(rate, 1000), loudness(rate, 10000)]);
    }"""
    with visit(context, address) as one:
        for (samples, low), (_, high) in one.page.evaluate(tones):
            must(abs(samples - 16_000) < 200, f"{samples} samples of a second")
            must(abs(low - 1) < 0.02, f"1 kHz comes out at {low}")
            must(high < 0.02, f"10 kHz comes out at {high}")


def broken_connections_leave_no_gap_and_no_repeat(context, address):
    with Proxy(address) as proxy:
        # Among outcomes; twice nobody there; among messages; and as soon as it is resumed.
        proxy.faults = [("cut", "down", 9_001), "refuse", "refuse", ("cut", "up", 200_003), ("cut", "down", 1_500)]
        with visit(context, proxy.address) as one:
            one.choose(SPEECH)
            one.state("reconnecting", STREAM)
            one.state("ended", STREAM)
            one.must_have_heard_speech()
            must(not proxy.faults, f"not all faults happened: {proxy.faults} are left")
            must_equal(proxy.streams, 6, "connections")
            must_equal(one.count("Connected again"), 3, "Connected again")


def a_connection_that_falls_silent_is_given_up(context, address):
    count = """async (patience) => {
        const { Sequence } = await import("/pages/stream.js");
        const numbers = [];
        const url = `ws://${location.host}/v2/models/silero_vad/stream`;
        const sequence = new Sequence(url, { outcome: ({ number }) => numbers.push(number) }, { silence_ms: patience });
        for (let chunk = 0; chunk < 100; chunk += 1) {
            await sequence.room();
            sequence.send([{ name: "input", datatype: "FP32", shape: [1, 576], data: new Float32Array(576) },
                           { name: "sr", datatype: "INT64", shape: [], data: [16000] }],
                          [{ name: "output", parameters: { binary_data: true } }]);
        }
        return [await sequence.end(), numbers, sequence.reconnects];
    }"""
    with Proxy(address) as proxy:
        proxy.faults = [("stall", "down", 5_000)]
        with visit(context, proxy.address) as one:
            ended, numbers, reconnects = one.page.evaluate(count, 2000)
            must_equal(ended, {"last": 100, "ended": True}, "the end")
            must_equal(numbers, list(range(1, 101)), "numbers of the outcomes")
            must(reconnects >= 1, "it was not connected again")


def stopping_while_nobody_answers_leaves_at_once(context, address):
    with Proxy(address) as proxy:
        proxy.faults = [("cut", "down", 9_001), *["refuse"] * 1000]
        with visit(context, proxy.address) as one:
            one.choose(SPEECH)
            one.state("reconnecting", STREAM)
            one.page.get_by_role("button", name="Stop").click()
            one.state("ended")
            must_name(one.status.inner_text(), ["left"])


def a_sequence_that_is_forgotten_is_said_to_be(context, address):
    """Somebody else ends it, as far as the page can tell: it resumes at a node that does not know it."""
    with Proxy(address) as proxy:
        with visit(context, proxy.address) as one:
            one.page.evaluate(
                """() => {
                    const send = WebSocket.prototype.send;
                    WebSocket.prototype.send = function (data) {
                        const known = typeof data === "string" && data.includes('"resume"');
                        send.call(this, known ? data.replace(/"sequence_id":"[^"]*"/, '"sequence_id":"forgotten"') : data);
                    };
                }"""
            )
            proxy.faults = [("cut", "down", 9_001)]
            one.choose(SPEECH)
            one.state("failed", STREAM)
            must_name(one.status.inner_text(), ["forgotten"])
            expect(one.page.get_by_role("button", name="Use microphone")).to_be_enabled()


def the_headers_keep_others_out(_, address):
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/pages/voice", timeout=10) as response:
        headers = response.headers
    must_name(headers["Content-Security-Policy"], ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"])
    must("unsafe" not in headers["Content-Security-Policy"], "the policy allows what is unsafe")
    must_equal(headers["X-Content-Type-Options"], "nosniff", "X-Content-Type-Options")
    must_equal(headers["Content-Type"], "text/html; charset=utf-8", "Content-Type")


def a_node_without_the_model_says_what_to_do(context, address):
    with visit(context, address) as one:
        one.state("missing")
        must_name(one.status.inner_text(), ["silero_vad", "configs/fetch models silero_vad", "configs/larger"])
        expect(one.page.get_by_label("sound file")).to_be_disabled()
        expect(one.page.get_by_role("button", name="Use microphone")).to_be_disabled()


def it_is_ready_as_soon_as_the_model_is_loaded(context, address):
    manage = f"http://{address[0]}:{address[1]}/v2/repository/models/silero_vad"

    def post(what):
        urllib.request.urlopen(urllib.request.Request(f"{manage}/{what}", method="POST", data=b"{}"), timeout=30).close()

    post("unload")
    with visit(context, address) as one:
        one.state("missing")
        must_name(one.status.inner_text(), ["not loaded", f"curl -X POST {manage}/load"])
        post("load")
        one.state("idle")
        one.choose(SPEECH)
        one.state("ended", STREAM)
        one.must_have_heard_speech()


# By the models that the node has.
CHECKS = [
    (
        ["vitals", "silero_vad"],
        [
            the_headers_keep_others_out,
            a_file_is_heard_chunk_by_chunk,
            a_file_may_be_dropped,
            other_sound_is_resampled,
            what_is_no_sound_is_said_to_be_none,
            the_microphone_is_heard,
            a_rate_that_the_browser_does_not_take_is_resampled,
            broken_connections_leave_no_gap_and_no_repeat,
            a_connection_that_falls_silent_is_given_up,
            stopping_while_nobody_answers_leaves_at_once,
            a_sequence_that_is_forgotten_is_said_to_be,
            it_is_ready_as_soon_as_the_model_is_loaded,
        ],
    ),
    (["vitals"], [a_node_without_the_model_says_what_to_do]),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="grid-node, or one that takes the same arguments")
    parser.add_argument("--chromium", required=True)
    options = parser.parse_args()
    checks = Checks()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        context = browser.new_context()
        for models, wanted in CHECKS:
            try:
                with node(options.binary, models) as address:
                    for check in wanted:
                        checks.run(check.__name__, check, context, address)
            except RuntimeError as error:
                checks.fail(f"a_node_with_{'_and_'.join(models)}_starts", error)
        browser.close()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
