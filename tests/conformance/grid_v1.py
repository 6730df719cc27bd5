"""A client of `grid.v1` (docs/streaming.md) on the PyPI package `websockets`, and REST beside it, for the scripts that check streams."""

import contextlib
import http.client
import json
import logging
import socket
import struct
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from checks import Failed, flat, must, must_equal

# A connection that is cut below the client's feet is logged by it as an error of its own.
logging.getLogger("websockets.client").setLevel(logging.CRITICAL + 1)

# Nothing that a check waits for takes longer.
PATIENCE = 10.0
FORMATS = {"FP32": "f", "INT64": "q"}


class Stream:
    """One connection."""

    def __init__(self, address, model="vitals", version=None, **options):
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/stream"
        # Without a bound on what waits for the script: it may send thousands of requests before it reads.
        options = {"max_size": None, "max_queue": None, "ping_interval": None, "compression": None, **options}
        self.socket = connect(f"ws://{address}{path}", open_timeout=PATIENCE, close_timeout=PATIENCE, **options)
        self.ready = self.hear()
        must_equal(self.ready["type"], "ready", "type of the first message")
        must_equal(self.ready["protocol"], "grid.v1", "protocol")
        must_equal(self.ready["model_name"], model, "model_name")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def say(self, message, raw=None):
        """A text message, or a binary one where there are raw tensors."""
        text = json.dumps(message)
        if raw is None:
            return self.socket.send(text)
        text = text.encode()
        self.socket.send(struct.pack("<I", len(text)) + text + raw)

    def hear(self, seconds=PATIENCE):
        """The next message. `binary` says whether it was a binary one; raw tensors are in their `data` then."""
        try:
            message = self.socket.recv(timeout=seconds)
        except TimeoutError:
            raise Failed(f"no message within {seconds:g} s") from None
        except ConnectionClosed as closed:
            raise Failed(f"the connection was closed: {closed}") from None
        return decoded(message)

    def ask(self, message, raw=None):
        self.say(message, raw)
        return self.hear()

    def is_silent(self):
        """Nothing is on its way: the answer to a ping would come behind it."""
        must(self.socket.ping().wait(PATIENCE), "a ping was not answered")
        try:
            message = self.socket.recv(timeout=0)
        except TimeoutError:
            return
        raise Failed(f"a message that nobody asked for: {message[:300]!r}")

    def abort(self):
        """Ends the connection by a reset, with whatever is on its way."""
        self.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close_socket()

    def start(self, sequence=None):
        """The answer to a start; fails where that is an error."""
        message = {"type": "start"}
        if sequence is not None:
            message["sequence_id"] = sequence
        started = self.ask(message)
        must_equal(started["type"], "started", f"type of the answer {started}")
        if sequence is not None:
            must_equal(started["sequence_id"], str(sequence), "sequence_id")
        must(len(started["sequence_token"]) == 32, f"no token: {started}")
        return started

    def resume(self, started, last):
        self.say(resume_of(started, last))
        resumed = self.hear()
        must_equal(resumed["type"], "resumed", f"type of the answer {resumed}")
        must_equal(resumed["sequence_id"], started["sequence_id"], "sequence_id")
        must(last <= resumed["sequence_durable"] < resumed["next"], f"durable and next do not fit: {resumed}")
        return resumed

    def refused(self, message, *kinds, raw=None, **members):
        """The message is answered by an error of one of these kinds, with these members, and the connection stays."""
        error = self.ask(message, raw)
        must_be_error(error, *kinds, **members)
        return error


def resume_of(started, last):
    token = {key: started[key] for key in ("sequence_id", "sequence_token")}
    return {"type": "resume", **token, "last": last}


def must_be_error(error, *kinds, **members):
    must_equal(error["type"], "error", f"type of the answer {error}")
    must(error["kind"] in kinds, f"kind {error['kind']!r} is none of {kinds}: {error}")
    must(isinstance(error["error"], str) and 0 < len(error["error"]) < 4096, f"no message: {error}")
    must_equal(type(error["retry"]), bool, "type of retry")
    for key, value in members.items():
        must_equal(error.get(key), value, f"{key} of {error}")


def decoded(message):
    if isinstance(message, str):
        return {**json.loads(message), "binary": False}
    (length,) = struct.unpack_from("<I", message)
    must(4 + length <= len(message), f"a JSON of {length} bytes in a message of {len(message)}")
    answer, at = json.loads(message[4 : 4 + length]), 4 + length
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            must("data" not in output, f"{output['name']} is raw and has `data`")
            output["data"] = elements(output["datatype"], message[at : at + size])
            at += size
    must_equal(at, len(message), "bytes of the message that belong to something")
    return {**answer, "binary": True}


def elements(datatype, raw):
    if datatype != "BYTES":
        return [value for (value,) in struct.iter_unpack(f"<{FORMATS[datatype]}", raw)]
    texts, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    must_equal(at, len(raw), "bytes of texts")
    return texts


def outputs_of(answer):
    """From names to (datatype, shape, flat values); fails where the answer has none."""
    must("outputs" in answer, f"no outputs in {str(answer)[:400]}")
    return {o["name"]: (o["datatype"], o["shape"], flat(o["data"])) for o in answer["outputs"]}


def step_of(recording, sequence, number=None, **parameters):
    """The message of this number of a sequence; unnumbered where `parameters` has `numbered=False`."""
    numbered = parameters.pop("numbered", True)
    parameters = {"sequence_id": sequence, **({"sequence_number": number} if numbered else {}), **parameters}
    return {"inputs": recording.inputs(number), "parameters": parameters}


def must_be_outcome(recording, answer, sequence, number, ends=False):
    """The output that this message of a sequence must have."""
    must_equal(answer["type"], "output", f"type of {str(answer)[:400]}")
    must_equal((answer["number"], answer["final"]), (1, True), "number and final")
    place = answer["parameters"]
    must_equal(place["sequence_id"], str(sequence), "sequence_id")
    must_equal(place["sequence_number"], number, "sequence_number")
    must_equal(place["sequence_end"], ends, f"sequence_end of {number}")
    must(place["sequence_durable"] >= number, f"not durable: {place}")
    recording.must_match(number, outputs_of(answer))


class Rest:
    """The node's HTTP interface."""

    def __init__(self, address):
        self.address = address

    def text(self, method, path, body=None):
        """Status and body, on a connection of its own: one that was idle for long may be closed."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

    def ask(self, method, path, body=None):
        """Status and JSON."""
        status, text = self.text(method, path, None if body is None else json.dumps(body))
        return status, json.loads(text) if text else None

    def infer(self, model, request):
        return self.ask("POST", f"/v2/models/{model}/infer", request)

    def load(self, model):
        status, answer = self.ask("POST", f"/v2/repository/models/{model}/load", {})
        must_equal(status, 200, f"status of loading {model} ({answer})")


def run_all(works):
    """Runs each on a thread of its own, to their ends."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * PATIENCE)
        must(not thread.is_alive(), "it takes too long")
