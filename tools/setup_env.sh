#!/usr/bin/env bash
# Makes .venv in the checkout: pinned torch, the OpenMMLab stack with mmcv's compiled operators, and this package.
# Shared by quickstart.sh and run_tests.sh; safe to run again: finished work is kept, an interrupted step is redone.
#
#   PYTHON          interpreter to use (default: the first of python3, python3.11, python3.12, python3.10 that fits)
#   TORCH           another version of torch than the pinned one
#   STACK           openmmlab (default) or onedl, the maintained forks
#   MMCARAFE_CACHE  where the built mmcv wheel is kept (default: ~/.cache/mmcarafe)
#   MIN_DISK_GB     free space asked for (default 8: torch's CUDA build; 4 is enough for a CPU build)
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
[ "$(uname)" = Linux ] || fail "runs on Linux only; elsewhere: pip install -e . --no-build-isolation in an environment with torch"

STACK=${STACK:-openmmlab}
VENV=$PWD/.venv
STAMP=$VENV/.mmcarafe-ready
MADE_FOR=$VENV/.mmcarafe-made-for  # checkout and stack
LOG=$VENV/setup.log
CACHE=${MMCARAFE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmcarafe}
export PIP_DISABLE_PIP_VERSION_CHECK=1
export MAX_JOBS=${MAX_JOBS:-$(nproc)}

find_python() {
    local candidate candidates=(python3 python3.11 python3.12 python3.10)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            # outside of an environment, which may be the one that is emptied
            "$candidate" -c 'import sys; print(sys._base_executable)'; return
        fi
    done
    fail "needs Python 3.10, 3.11 or 3.12, found ${PYTHON:-$(python3 --version 2>&1 || true)}; install one of them and set PYTHON=/path/to/python3"
}

check_machine() {  # <python>: what pip would only report in the middle of a long log
    local free_gb need_gb=${MIN_DISK_GB:-8}
    "$1" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "Python's venv module is missing; install it (Debian: apt-get install python3-venv)"
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
        || fail "Python.h is missing, and mmcv's operators are compiled against it; install it (Debian: apt-get install python3-dev)"
    command -v "${CXX:-g++}" >/dev/null \
        || fail "no C++ compiler ('${CXX:-g++}' not found), and mmcv's operators have to be compiled; install one (Debian: apt-get install g++)"
    free_gb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free_gb" -ge "$need_gb" ] \
        || fail "only $free_gb GB free here, $need_gb GB needed; free some space (MIN_DISK_GB=4 is enough where pip finds a CPU build of torch)"
}

explain() {  # <step>: one sentence for the causes we know, the log for the others
    if grep -qiE 'no space left|disk quota' "$LOG"; then fail "$1 ran out of disk space; free some and run this again"
    elif grep -qiE 'name resolution|NewConnectionError|ConnectTimeout|Network is unreachable|ProxyError|Connection refused' "$LOG"; then
        fail "$1 could not reach the package registry; check the network or pip's index settings (pip config list) and run this again"
    elif grep -qE 'CERTIFICATE_VERIFY_FAILED|SSLError' "$LOG"; then
        fail "$1 could not verify the certificate of the package registry; name your network's in PIP_CERT and run this again"
    elif grep -q 'No matching distribution' "$LOG"; then
        fail "$1: $(grep -m1 'No matching distribution' "$LOG" | sed 's/^ERROR: //'); pip's index lacks it for this Python or platform"
    fi
    tail -n 15 "$LOG" >&2
    fail "$1 failed; the whole output is in $LOG"
}

step() {  # <number> <title> <usual time> <command ...>; errexit is off in the command: it must chain with &&
    local started=$SECONDS title=$2
    printf 'setup [%s/6] %s (usually %s) ... ' "$1" "$title" "$3"
    "${@:4}" >"$LOG" 2>&1 </dev/null || { echo failed; explain "$title"; }
    printf 'done in %d s\n' $((SECONDS - started))
}

version_of() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null; }
prepare_venv() {  # empties one of another Python, stack or checkout, but for the log, which says that it is ours
    local made_for; made_for=$(cat "$MADE_FOR" 2>/dev/null || echo "$STACK $PWD")
    mkdir -p "$VENV" && touch "$LOG"
    if [ "$made_for" != "$STACK $PWD" ] || [ "$(version_of "$VENV/bin/python")" != "$(version_of "$python")" ]; then
        if [ -e "$STAMP" ]; then echo "setup: $VENV is of $made_for or another Python, and is emptied"; fi
        find "$VENV/" -mindepth 1 -maxdepth 1 ! -name "$(basename "$LOG")" -exec rm -rf {} +
    fi
    rm -f "$STAMP"
    echo "$STACK $PWD" >"$MADE_FOR"
}
export PATH="$VENV/bin:$PATH"  # torch's build helper looks for pip's ninja there
pip_install() { "$VENV/bin/python" -m pip install "$@"; }

precompile_torch_header() {  # <folder>: every mmcv file includes torch/types.h; parse it once instead of 77 times
    mkdir -p "$1/torch"
    printf '#pragma once\n#include_next <torch/types.h>\n' >"$1/torch/types.h"
    local includes
    includes=$("$VENV/bin/python" -c "
import sysconfig
from torch.utils.cpp_extension import include_paths
print(' '.join(f'-I{p}' for p in [*include_paths(), sysconfig.get_path('include')]))")
    # The flags must be those of the build below, or the compiler silently ignores the header; the folder
    # itself stays off the include path, or include_next finds this file again instead of torch's.
    # shellcheck disable=SC2086
    g++ -x c++-header $MMCV_CFLAGS -fPIC $includes -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H \
        -DTORCH_EXTENSION_NAME=_ext "$1/torch/types.h" -o "$1/torch/types.h.gch"
}

mmcv_wheel() {  # <folder for the wheel>
    "$VENV/bin/python" -m pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir "$1" "$MMCV_PIN"
}

# CFLAGS replaces Python's own flags, so the optimisation level must be named.
MMCV_CFLAGS="-O3 -DNDEBUG -fwrapv -g0 -w"

build_mmcv() {  # <folder for the wheel>
    local headers status=0; headers=$(mktemp -d)
    export MMCV_WITH_OPS=1
    if [ "$2" = cuda ]; then
        FORCE_CUDA=1 mmcv_wheel "$1" || status=1
    else
        # without nvcc the CUDA sources cannot be built: hide the GPU from mmcv's setup.py
        export CUDA_VISIBLE_DEVICES=
        if ! { precompile_torch_header "$headers" \
            && CFLAGS="$MMCV_CFLAGS -I$headers -include torch/types.h" mmcv_wheel "$1"; }; then
            echo "the build with a precompiled header failed; trying the plain one"
            mmcv_wheel "$1" || status=1
        fi
    fi
    rm -rf "$headers"
    return $status
}

device_kind() {  # cuda where a GPU, a CUDA build of torch and its nvcc are all there
    local cuda
    cuda=$("$VENV/bin/python" -c 'import torch; print(torch.version.cuda or "")')
    if [ -n "$cuda" ] && nvidia-smi -L >/dev/null 2>&1; then
        if nvcc --version 2>/dev/null | grep -q "release ${cuda%%.*}\."; then echo cuda; return; fi
        echo "a GPU, but no nvcc of CUDA ${cuda%%.*}: mmcv's operators are built for the CPU only" >&2
    fi
    echo cpu
}

install_mmcv() {
    local wheels
    # A wheel fits one mmcv, torch build, Python, platform and device kind, so those name its folder.
    wheels=$CACHE/wheels/$("$VENV/bin/python" -c "
import sys, sysconfig, torch
print('$MMCV_PIN-torch{}-cp{}{}-{}-$kind'.format(torch.__version__, *sys.version_info[:2], sysconfig.get_platform()))")
    if ! compgen -G "$wheels/*.whl" >/dev/null; then
        local building
        mkdir -p "$wheels" && building=$(mktemp -d -p "$wheels") || return
        build_mmcv "$building" "$kind" && mv "$building"/*.whl "$wheels/" || return
        rm -rf "$building"
    fi
    pip_install --no-deps --force-reinstall "$wheels"/*.whl
}

install_torch() {
    pip_install -r <(sed "s/^torch==.*/torch==${TORCH:-$TORCH_PIN}/" requirements/torch.txt) || return
    if [ -n "${TORCH:-}" ]; then return; fi  # torchvision's pin goes with torch's
    # torchvision fetches ImageNet weights for COCO training; its wheels fit the registry's own torch
    # builds only, which on x86-64 are the CUDA ones.
    if "$VENV/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
        pip_install -r requirements/torchvision.txt
    fi
}

install_package() {
    pip_install --no-deps -r <(grep -v "^$MMCV_PIN" "$STACK_PINS") \
        && pip_install --no-deps --no-build-isolation -e . \
        && (cd / && "$VENV/bin/python" -c "import mmcv.ops, mmdet, mmcarafe.models")
}

install_test_tools() {  # another torch has brought the Triton it goes with
    pip_install -r <(grep -v "^${TORCH:+triton}==" requirements/tests.txt)
}

STACK_PINS=requirements/$STACK.txt
[ -f "$STACK_PINS" ] || fail "STACK=$STACK is none of openmmlab, onedl"
TORCH_PIN=$(sed -n 's/^torch==//p' requirements/torch.txt)
MMCV_PIN=$(grep -E '^(onedl-)?mmcv==' "$STACK_PINS")
fingerprint=$({ cat requirements/{torch,torchvision,runtime,tests}.txt "$STACK_PINS" setup.py pyproject.toml mmcarafe/ops/csrc/* \
    tools/setup_env.sh; echo "${TORCH:-}"; } | cksum | tr -d ' ')-$PWD
ready() {  # with the Python that is asked for, if one is
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$fingerprint" ] \
        && { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$VENV/bin/python")" ]; }
}
if ready; then exit 0; fi

exec 9>.setup.lock
flock -n 9 || { echo "setup: another run is setting up this checkout; waiting for it"; flock 9; }
if ready; then exit 0; fi
if [ ! -f "$LOG" ] && [ -n "$(ls -A "$VENV" 2>/dev/null)" ]; then
    fail "$VENV is not of this script, which makes its own of that name; move it away, or use another clone"
fi

python=$(find_python)
check_machine "$python"

echo "setup: making $VENV with $("$python" --version), $(nproc) cores; 3 to 6 minutes on 2 cores, most of it compiling mmcv"
prepare_venv
step 1 "Python environment" "5 s" "$python" -m venv "$VENV"
step 2 "torch" "30 s, more where it must be downloaded" install_torch
step 3 "numpy, OpenCV, pycocotools and the like" "30 s" pip_install -r requirements/runtime.txt
kind=$(device_kind)  # outside of a step, so that what it says is seen
step 4 "mmcv with its compiled operators" "3 min on 2 cores; 15 s once built" install_mmcv
step 5 "mmengine, mmdet and mmcarafe with its CPU kernels" "2 min" install_package
step 6 "test tools, Triton among them" "15 s" install_test_tools
echo "$fingerprint" >"$STAMP"
echo "setup: ready in $((SECONDS / 60)) min $((SECONDS % 60)) s"
