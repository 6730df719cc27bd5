"""What the browser's checks stand on: nodes as processes, and a proxy between page and node whose connections break."""

import contextlib
import os
import pathlib
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
START_LIMIT, DRAIN_LIMIT = 30, 15  # seconds


@contextlib.contextmanager
def node(binary, models):
    """A node with a copy of configs/streams.toml and of those models; its address, host and port."""
    with tempfile.TemporaryDirectory() as folder:
        configs = pathlib.Path(folder) / "configs"
        configs.mkdir()
        shutil.copy(CONFIGS / "streams.toml", configs)
        for kind in ["models", "larger"]:
            (configs / kind).mkdir()
        for model in models:
            source = next(path for kind in ["models", "larger"] if (path := CONFIGS / kind / model).is_dir())
            shutil.copytree(source, configs / source.parent.name / model)
        environment = os.environ | {"GRID__HTTP__LISTEN": "127.0.0.1:0", "GRID__GRPC__LISTEN": "127.0.0.1:0"}
        process = subprocess.Popen(
            [binary, "run", configs / "streams.toml"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        # Read to its end: a full pipe would stop the node.
        lines, kept = queue.Queue(), []

        def read():
            for line in process.stdout:
                kept.append(line)
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            yield address_in(lines)
        except BaseException:
            print("--- the node's output", *kept[-50:], sep="\n", flush=True)
            raise
        finally:
            process.terminate()
            try:
                process.wait(DRAIN_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def address_in(lines):
    deadline = time.monotonic() + START_LIMIT
    with contextlib.suppress(queue.Empty):
        while (line := lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            if found := re.search(r"listening on http://([0-9.]+):([0-9]+)", line):
                return found[1], int(found[2])
    raise RuntimeError(f"the node ended, or did not say `listening on http://` within {START_LIMIT} s")


class Proxy:
    """Hands bytes on between page and node. `faults` holds what is to happen to the streams (WebSocket connections), one
    each, in the order in which they come: "refuse"; ("cut", direction, bytes): end after so many bytes "up" to the node or
    "down" to the page, wherever in a frame that is; ("stall", direction, bytes): fall silent, and stay open."""

    def __init__(self, target):
        self.target = target
        self.faults = []
        self.streams = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                page, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=[page], daemon=True).start()

    def serve(self, page):
        with page, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := page.recv(65536)):
                    return
                head += data
            fault = None
            if b"\r\nupgrade: websocket\r\n" in head.lower():
                self.streams += 1
                fault = self.faults.pop(0) if self.faults else None
            if fault == "refuse":
                return
            with socket.create_connection(self.target) as node_side:
                node_side.sendall(head)
                up = threading.Thread(target=self.pass_on, args=[page, node_side, "up", fault], daemon=True)
                up.start()
                self.pass_on(node_side, page, "down", fault)
                up.join()

    def pass_on(self, source, target, direction, fault):
        what, _, left = fault if fault and fault[1] == direction else (None, None, float("inf"))
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if left:
                    target.sendall(data[: min(left, len(data))])
                    left = max(0, left - len(data))
                if what == "cut" and not left:
                    source.shutdown(socket.SHUT_RDWR)
                    break
            target.shutdown(socket.SHUT_RDWR if what == "cut" else socket.SHUT_WR)
