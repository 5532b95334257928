#!/usr/bin/env bash
# One node of a Ray cluster with a token, in the foreground until it is told to end (SIGTERM) or the cluster is gone.
#
#   ray-node.sh head [OPTION ...]          the head
#   ray-node.sh worker HEAD [OPTION ...]   a node more, for the head at the host HEAD
#   ray-node.sh wait HEAD N                return when N nodes are alive
#
# OPTIONs go to `ray start` as they are. compose/, slurm/ and skypilot/ start their nodes with this script.
# Settings, by environment:
#   RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN   the token, the same on all nodes; without one nothing starts
#   RAYSTUDY_RAY_PORT        the head's port (6379)
#   RAYSTUDY_DASHBOARD_HOST  where the job server listens (127.0.0.1, which only the head's machine reaches)
#   RAYSTUDY_CPUS            CPUs that runs may take on this node (all)
#   RAYSTUDY_TEMP            a short path of this node alone for Ray's files: made for this user only, removed at the end
#   RAYSTUDY_MARKET_TYPE     `spot` or `on-demand`: the node's label ray.io/market-type
#   RAYSTUDY_WAIT_SECONDS    how long the head, or N nodes, are waited for (600)
set -euo pipefail

port=${RAYSTUDY_RAY_PORT:-6379}
patience=${RAYSTUDY_WAIT_SECONDS:-600}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

fail() {
    echo "ray-node.sh: $1" >&2
    exit 2
}

need_token() {
    if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s ${RAY_AUTH_TOKEN_PATH:-} ]]; then
        fail "a token must be in the file RAY_AUTH_TOKEN_PATH or in RAY_AUTH_TOKEN, but neither holds one. Make one: \
(umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > FILE)"
    fi
}

need_head() {
    local end=$((SECONDS + patience))
    until (exec 3<>"/dev/tcp/$1/$port") 2>/dev/null; do
        ((SECONDS < end)) || fail "the head must answer at $1:$port within $patience s, but does not. See its log"
        sleep 0.2
    done
}

start() { # options of `ray start`; never returns
    need_token
    options=("$@" --disable-usage-stats --block)
    if [[ -n ${RAYSTUDY_CPUS:-} ]]; then options+=(--num-cpus "$RAYSTUDY_CPUS"); fi
    if [[ -n ${RAYSTUDY_MARKET_TYPE:-} ]]; then options+=(--labels "ray.io/market-type=$RAYSTUDY_MARKET_TYPE"); fi
    made=
    if [[ -n ${RAYSTUDY_TEMP:-} ]]; then
        if mkdir -m 700 "$RAYSTUDY_TEMP" 2>/dev/null; then made=$RAYSTUDY_TEMP; fi
        [[ -d $RAYSTUDY_TEMP && -O $RAYSTUDY_TEMP && ! -L $RAYSTUDY_TEMP ]] ||
            fail "RAYSTUDY_TEMP must be a folder of this user alone, but $RAYSTUDY_TEMP is not. Name another"
        options+=(--temp-dir "$RAYSTUDY_TEMP")
    fi
    ray start "${options[@]}" &
    node=$!
    trap 'kill -TERM "$node" 2>/dev/null || true' TERM INT
    status=0
    wait "$node" || status=$?
    while kill -0 "$node" 2>/dev/null; do # a trap cut the wait short
        status=0
        wait "$node" || status=$?
    done
    if [[ -n $made ]]; then rm -rf "$made"; fi
    exit "$status"
}

wait_for_nodes() { # HEAD N
    need_token
    need_head "$1"
    python - "$1:$port" "$2" "$patience" <<'PYTHON'
import sys
import time

import ray

address, wanted, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
end = time.monotonic() + patience
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > end:
        sys.exit(f"ray-node.sh: {wanted} nodes must be alive, but {alive} are after {patience:g} s. See their logs")
    time.sleep(0.5)
print(f"{alive} nodes are alive", flush=True)
PYTHON
}

case "${1:-}" in
head)
    shift
    start --head --port "$port" --dashboard-host "${RAYSTUDY_DASHBOARD_HOST:-127.0.0.1}" "$@"
    ;;
worker)
    head=${2:?ray-node.sh worker HEAD}
    shift 2
    need_token
    need_head "$head"
    start --address "$head:$port" "$@"
    ;;
wait)
    wait_for_nodes "${2:?ray-node.sh wait HEAD N}" "${3:?ray-node.sh wait HEAD N}"
    ;;
*) fail "the first word must be head, worker or wait, but is '${1:-}'" ;;
esac
