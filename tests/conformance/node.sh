# Sourced by the scripts here that start nodes: their virtual environment, their temporary folder, a node's start and end.
# The caller has set `here` and `binary`; it gets `root`, `python` and `temporary`.
# shellcheck shell=bash

root=$(cd "$here/../.." && pwd)
# How long starting and draining may take, in seconds.
start_limit=30 drain_limit=15

venv=$root/target/conformance-venv
python=$venv/bin/python
digest=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)
if [[ $(cat "$venv/requirements.sha256" 2>/dev/null) != "$digest" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    echo "$digest" >"$venv/requirements.sha256"
fi

temporary=$(mktemp -d)
# Nodes are the only jobs of this shell, so a number among these is a node's and not another's by now.
runs() { jobs -pr | grep -qx "$1"; }

cleanup() {
    local node
    for node in $(jobs -pr); do kill -KILL "$node"; done
    rm -rf "$temporary"
}
trap cleanup EXIT

fail() {
    echo "FAIL $1"
    outputs
    exit 1
}

# The last lines of what the nodes said.
outputs() {
    local output
    for output in "$temporary"/*.output; do
        echo "--- $(basename "$output" .output) node's output"
        tail -n 50 "$output"
    done
}

# Whether the node ends within that many seconds.
ends_within() {
    local deadline=$((SECONDS + $2))
    while runs "$1"; do
        if ((SECONDS >= deadline)); then return 1; fi
        sleep 0.05
    done
}

# start NAME CONFIG [KEY=VALUE...]: starts a node with these environment variables and waits until it is ready. Sets `node`,
# its process id; `address` and `grpc_address`, the latter empty where there is none; `output`, the file with what it says.
start() {
    local config=$2 deadline=$((SECONDS + start_limit))
    output=$temporary/$1.output
    shift 2
    : >"$output"
    env GRID__HTTP__LISTEN=127.0.0.1:0 GRID__GRPC__LISTEN=127.0.0.1:0 "$@" "$binary" run "$config" >"$output" 2>&1 &
    node=$!
    address=
    while [[ -z $address ]]; do
        address=$(listens http)
        runs "$node" || fail "the node ended at its start"
        if ((SECONDS >= deadline)); then fail "no line \`listening on http://\` within $start_limit s"; fi
        sleep 0.05
    done
    until "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' \
        "http://$address/v2/health/ready" 2>/dev/null; do
        runs "$node" || fail "the node ended before it was ready"
        if ((SECONDS >= deadline)); then fail "not ready within $start_limit s"; fi
        sleep 0.1
    done
    # shellcheck disable=SC2034 # for the caller
    grpc_address=$(listens grpc)
}

listens() { sed -n "s|.*listening on $1://\([0-9.]*:[0-9]*\).*|\1|p" "$output" | head -n 1; }

# Waits for the node of `start`, which was told to end, and checks how it did.
must_have_drained() {
    ends_within "$node" "$drain_limit" || fail "not gone $drain_limit s after SIGTERM"
    local code=0
    wait "$node" || code=$?
    if ((code != 0)); then fail "exit status $code after SIGTERM, expected 0"; fi
    grep -qi drain "$output" || fail "no word about draining in the output"
}
