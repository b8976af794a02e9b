#!/usr/bin/env bash
# Train on several GPUs or processes: dist_train.sh CONFIG PROCESSES [train.py options]
# Several machines: the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG PROCESSES [train.py options]" >&2; exit 2; }

exec python "$(dirname "$0")/misc/launch.py" \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
