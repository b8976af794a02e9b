#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated CARAFE detector: environment, data set, training, evaluation,
# picture. Run it again at any time: finished steps are skipped, an interrupted training goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CONFIG=${1:-configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py}
WORK=work_dirs/quickstart/$(basename "$CONFIG" .py)
DATA=data/shapes

fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
say() { printf '\nquickstart: %s\n' "$*"; }

run_logged() {  # <log> <sed script for the screen> <command ...>: all output to the log, the gist to the screen
    if ! "${@:3}" 2>&1 | tee "$1" | sed -unE "$2"; then
        tail -n 5 "$1" >&2
        fail "'${*:3}' failed; its whole output is in $1"
    fi
}

SECONDS=0
say "started at $(date +%H:%M): environment (3 to 6 min, once), data set, training (5 min), evaluation, picture"
[ -f "$CONFIG" ] || fail "config $CONFIG does not exist; the embedded ones are configs/carafe/*_shapes.py"
bash tools/setup_env.sh
# shellcheck source=/dev/null
source .venv/bin/activate
# glibc: keep freed blocks instead of asking the system for zeroed pages in every training step
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000
if nvidia-smi -L >/dev/null 2>&1 && ! python -c 'import mmcv._ext, sys
sys.exit(mmcv._ext.get_compiling_cuda_version() == "not available")' 2>/dev/null; then
    export CUDA_VISIBLE_DEVICES=  # mmcv was built without CUDA
fi
export PYTHONWARNINGS="ignore:pkg_resources is deprecated:UserWarning"  # mmengine's, and printed by each process

say "data set (about 10 s); then training and evaluation, about 6 min on 2 cores"
python tools/dataset_tools/make_shapes_dataset.py "$DATA"

mkdir -p "$WORK"
stamp=$(cat "$CONFIG" configs/_base_/*.py configs/carafe/*_shapes.py "$DATA"/annotations/*.json | cksum)
if [ "$(cat "$WORK/.stamp" 2>/dev/null)" != "$stamp" ]; then
    if [ -f "$WORK/.stamp" ]; then
        old=$WORK.$(date +%Y%m%d-%H%M%S)
        mv "$WORK" "$old"
        say "configs or data have changed since the last training, which is in $old now: starting over"
    fi
    mkdir -p "$WORK"
    echo "$stamp" >"$WORK/.stamp"
fi

if [ -f "$WORK/.trained" ]; then
    say "training: already done"
else
    say "training $CONFIG (about 5 min on 2 cores); then evaluation"
    run_logged "$WORK/train.log" \
        's/.*(Epoch\(train\)) *(\[[0-9]+\]\[ *[0-9/]+\]).*(eta: [0-9:]+).*( loss: [0-9.]+).*/  \1 \2  \3 \4/p' \
        python tools/train.py "$CONFIG" --work-dir "$WORK" --resume \
        --cfg-options train_cfg.val_interval=1000  # evaluated below
    touch "$WORK/.trained"
fi
checkpoint=$WORK/$(basename "$(cat "$WORK/last_checkpoint")")

if [ -f "$WORK/.evaluated" ]; then
    say "evaluation: already done"
else
    say "evaluation with COCO metrics (about 20 s)"
    run_logged "$WORK/test.log" 's/^ (Average (Precision|Recall).*)/  \1/p' \
        python tools/test.py "$CONFIG" "$checkpoint" --work-dir "$WORK/eval"
    touch "$WORK/.evaluated"
fi

python tools/analysis_tools/report.py "$CONFIG" "$WORK"
say "done in $((SECONDS / 60)) min $((SECONDS % 60)) s; for your own commands: source .venv/bin/activate"
