"""`grid.v1` (docs/streaming.md), by the unmodified PyPI client `websockets`, against a running node that serves configs/streams.toml.

    python tests/conformance/websocket.py --url 127.0.0.1:8000 [--short 127.0.0.1:8100]

The node gets `digits` loaded. `--short` names a second node for what needs one: see tests/conformance/run_streams.
"""

import argparse
import sys

from checks import Checks
from recordings import Vitals
from websocket_bounds import Short
from websocket_connections import Connections
from websocket_requests import Requests
from websocket_sequences import Sequences


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the node")
    parser.add_argument("--short", help="host and port of a node with one instance of each model, short lives and low bounds")
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    arguments = parser.parse_args()
    vitals, checks = Vitals(), Checks()
    groups = [group(arguments.url, vitals) for group in (Connections, Requests, Sequences)]
    if arguments.short:
        groups.append(Short(arguments.short, vitals))
    for group in groups:
        for attribute in vars(type(group)):
            if attribute.startswith("check_") and arguments.only in attribute:
                checks.run(attribute.removeprefix("check_"), getattr(group, attribute))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
