"""Connections of `grid.v1`: handshakes, frames, the end; by the client `websockets`. Run by websocket.py."""

import json
import struct
import time

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from checks import Failed, must, must_equal, must_name
from grid_v1 import PATIENCE, Stream, outputs_of
from recordings import fp32

VITALS_OUTPUTS = ["score", "alarm", "mean_out", "variance_out", "count_out"]


class Connections:
    """What a connection is, beside what is said on it."""

    def __init__(self, address, vitals):
        self.address, self.vitals = address, vitals

    def stream(self, *arguments, **options):
        return Stream(self.address, *arguments, **options)

    def refuses(self, path, status, words=(), **options):
        try:
            connect(f"ws://{self.address}{path}", open_timeout=PATIENCE, **options).close()
        except InvalidStatus as refusal:
            response = refusal.response
            must_equal(response.status_code, status, f"status ({response.body[:300]!r})")
            must_name(json.loads(response.body)["error"], words)
        else:
            raise Failed(f"a WebSocket at {path}, expected the status {status}")

    def check_ready_tells_the_limits(self):
        with self.stream() as stream:
            limits = stream.ready["limits"]
            for key in ["message_bytes", "in_flight", "idle_timeout_ms", "ping_interval_ms"]:
                must(isinstance(limits[key], int) and limits[key] > 0, f"{key} of {limits}")

    def check_the_subprotocol_is_chosen_where_it_is_offered(self):
        offers = {None: None, ("grid.v1",): "grid.v1", ("grid.v9", "grid.v1", "chat"): "grid.v1"}
        for offered, chosen in offers.items():
            with self.stream(subprotocols=offered and list(offered)) as stream:
                must_equal(stream.socket.subprotocol, chosen, f"subprotocol of those offered, {offered}")

    def check_other_subprotocols_are_refused(self):
        self.refuses("/v2/models/vitals/stream", 400, ["grid.v1"], subprotocols=["grid.v2", "chat"])

    def check_compression_is_not_negotiated(self):
        with self.stream(compression="deflate") as stream:
            must("Sec-WebSocket-Extensions" not in stream.socket.response.headers, "an extension was taken")
            self.one_request(stream)

    def check_versions_in_the_path(self):
        with self.stream("vitals", "1") as stream:
            must_equal(self.one_request(stream)["model_version"], "1", "version")
        self.refuses("/v2/models/vitals/versions/99/stream", 404, ["vitals", "99"])
        self.refuses("/v2/models/vitals/versions/new/stream", 404)

    def check_an_unknown_model_is_refused(self):
        self.refuses("/v2/models/no_such_model/stream", 404, ["no_such_model"])

    def check_pages_of_another_origin_are_refused(self):
        port = self.address.rpartition(":")[2]
        foreign = ["http://example.org", f"http://127.0.0.1.example.org:{port}", "http://127.0.0.1:1", "null"]
        for origin in foreign:
            self.refuses("/v2/models/vitals/stream", 403, ["allow_origins"], origin=origin)
        with self.stream(origin=f"http://{self.address}") as stream:
            self.one_request(stream)

    def check_pings_are_answered(self):
        with self.stream() as stream:
            for payload in [b"", b"x", bytes(range(125))]:
                must(stream.socket.ping(payload).wait(PATIENCE), f"no pong for {payload!r}")
            for _ in range(20):
                stream.socket.pong(b"nobody asked")
            self.one_request(stream)

    def check_a_close_is_answered_with_its_code(self):
        for code in [1000, 1001, 4321]:
            stream, begin = self.stream(), time.monotonic()
            # Returns when the server, whose part that is, has closed the TCP connection too.
            stream.socket.close(code, "done")
            must(stream.socket.protocol.close_rcvd is not None, "no answer to a close")
            must_equal(stream.socket.protocol.close_rcvd.code, code, "the code of the answer")
            took = time.monotonic() - begin
            must(took < 1, f"the server kept the connection open for {took:.1f} s behind its answer to a close")

    def check_fragmented_messages_are_read(self):
        text = json.dumps(self.request("fragments"))
        header, raw = self.binary_request("raw fragments")
        message = struct.pack("<I", len(header)) + header + raw
        with self.stream() as stream:
            for pieces in [1, 7, 10_000]:
                stream.socket.send([text[at : at + pieces] for at in range(0, len(text), pieces)])
                self.must_be_right(stream.hear(), "fragments")
                stream.socket.send([message[at : at + pieces] for at in range(0, len(message), pieces)])
                self.must_be_right(stream.hear(), "raw fragments")

            def with_pings():
                for at in range(0, len(text), 40):
                    stream.socket.ping()
                    yield text[at : at + 40]

            stream.socket.send(with_pings())
            self.must_be_right(stream.hear(), "fragments")

    def check_the_server_sends_one_frame_a_message(self):
        with self.stream() as stream:
            stream.say(self.request("one"))
            must_equal(len(list(stream.socket.recv_streaming())), 1, "frames")

    def request(self, request_id, step=1):
        return {"id": request_id, "inputs": self.vitals.inputs(step)}

    def binary_request(self, request_id, step=1):
        (sample,) = self.vitals.inputs(step)
        raw = struct.pack("<3f", *sample.pop("data"))
        sample["parameters"] = {"binary_data_size": len(raw)}
        return json.dumps({"id": request_id, "inputs": [sample]}).encode(), raw

    def must_be_right(self, answer, request_id, step=1):
        must_equal((answer["type"], answer.get("id")), ("output", request_id), f"type and id of {str(answer)[:300]}")
        outputs = outputs_of(answer)
        must_equal(list(outputs), VITALS_OUTPUTS, "outputs")
        sample = [fp32(value) for value in self.vitals.steps[step - 1]["sample"]]
        must_equal([fp32(value) for value in outputs["mean_out"][2]], sample, "mean_out")

    def one_request(self, stream):
        answer = stream.ask(self.request("once"))
        self.must_be_right(answer, "once")
        return answer
