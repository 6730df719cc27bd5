#!/usr/bin/env python3
"""Streams a patient's vital signs to a stateful model, and goes on where it was when the connection breaks.

    pip install websockets
    python docs/examples/stream.py [ws://127.0.0.1:8000]

The protocol is docs/streaming.md.
"""

import asyncio
import json
import sys
from pathlib import Path

import websockets

SERVER = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000"
RECORDING = json.loads((Path(__file__).parents[2] / "configs/models/vitals/stream.json").read_text())
SAMPLES = [step["sample"] for step in RECORDING["steps"]]


def message(number):
    """Message `number` of the sequence: one sample. The model's state is the server's business."""
    sample = {"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": SAMPLES[number - 1]}
    parameters = {"sequence_id": "bed-7", "sequence_number": number, "sequence_end": number == len(SAMPLES)}
    return json.dumps({"inputs": [sample], "parameters": parameters})


async def main():
    token, received = None, 0
    while received < len(SAMPLES):
        try:
            async with websockets.connect(f"{SERVER}/v2/models/vitals/stream", subprotocols=["grid.v1"]) as socket:
                await socket.recv()  # "ready": what the server allows
                if token is None:
                    await socket.send(json.dumps({"type": "start", "sequence_id": "bed-7"}))
                else:
                    resume = {"type": "resume", "sequence_id": "bed-7", "sequence_token": token, "last": received}
                    await socket.send(json.dumps(resume))
                answer = json.loads(await socket.recv())
                if answer["type"] == "error":
                    sys.exit(answer["error"])
                token = answer.get("sequence_token", token)
                sent = answer.get("next", 1) - 1
                while received < len(SAMPLES):
                    # A few messages ahead of the answers; the server says how many it keeps answers for (`window`).
                    while sent < min(received + 8, len(SAMPLES)):
                        sent += 1
                        await socket.send(message(sent))
                    answer = json.loads(await socket.recv())
                    if answer["type"] == "error":
                        sys.exit(answer["error"])
                    received = answer["parameters"]["sequence_number"]
                    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
                    if outputs["alarm"][0]:
                        heart, oxygen, breath = SAMPLES[received - 1]
                        print(f"second {received}: ALARM, heart {heart}, oxygen {oxygen} %, breath {breath}")
        except (OSError, websockets.ConnectionClosed) as error:
            if token is None:
                sys.exit(f"no connection: {error}")
            print(f"the connection broke after {received}: {error}; going on")
            await asyncio.sleep(0.5)
    print(f"{received} samples, each answered once")


asyncio.run(main())
