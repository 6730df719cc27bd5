"""Reads the index that the Autobahn suite wrote, and compares it with the list of known exceptions."""

import json
import pathlib
import re
import sys

FINE = "OK"
index_path, expected_path = map(pathlib.Path, sys.argv[1:])
(cases,) = json.loads(index_path.read_text()).values()
row = re.compile(r"^\| *([0-9.]+) *\| *([A-Z -]+?) *\|", re.MULTILINE)
expected = dict(row.findall(expected_path.read_text()))


def behavior(case):
    """The worse of how the messages went and how the connection was closed."""
    found = {case["behavior"], case["behaviorClose"]}
    return next((one for one in sorted(found) if one not in (FINE, "INFORMATIONAL")), None) or (
        FINE if found == {FINE} else "INFORMATIONAL"
    )


found = {name: behavior(case) for name, case in cases.items()}
order = sorted(found, key=lambda name: [int(part) for part in name.split(".")])
failures = []
for name in order:
    if found[name] != FINE:
        print(f"     {name}: {found[name]}")
    if found[name] != expected.get(name, FINE):
        failures.append(f"{name}: expected {expected.get(name, FINE)}, found {found[name]}")
failures += [f"{name}: expected by {expected_path.name}, but was not run" for name in expected.keys() - found.keys()]

fine = sum(one == FINE for one in found.values())
lenient = sum(one in ("NON-STRICT", "INFORMATIONAL") for one in found.values())
took = sum(case["duration"] for case in cases.values()) / 1000
if not found:
    failures.append("no case was run")
for failure in failures:
    print(f"FAIL autobahn {failure}")
if failures:
    sys.exit(1)
print(f"ok   autobahn: {fine} cases OK, {lenient} NON-STRICT or INFORMATIONAL, in {took:.0f} s")
