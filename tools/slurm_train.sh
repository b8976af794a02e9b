#!/usr/bin/env bash
# Train under Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [train.py options]
# GPUS (8) is their number in all, GPUS_PER_NODE (8) on each machine, CPUS_PER_TASK (5) for each; SRUN_ARGS
# goes to srun as it is. Trainings that share a machine need different PORTs (29500).
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [train.py options]" >&2; exit 2; }

export MASTER_PORT="${PORT:-${MASTER_PORT:-29500}}"
# shellcheck disable=SC2086  SRUN_ARGS holds several words
exec srun --partition="$1" --job-name="$2" \
    --gres="gpu:${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" --ntasks-per-node="${GPUS_PER_NODE:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
