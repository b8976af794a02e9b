#!/usr/bin/env bash
# Everything that is tested on a GPU; options go to pytest.
#
#   PYTHON  interpreter with torch, Triton, numpy, pytest and hypothesis in place of .venv's; without mmdet only the
#           operator is tested, from the checkout and without installing it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    bash tools/setup_env.sh
    PYTHON=.venv/bin/python
fi
"$PYTHON" -c 'import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"run_gpu_tests: torch {torch.__version__} sees no CUDA device")
print("run_gpu_tests:", torch.cuda.get_device_name(), "torch", torch.__version__)'
tests=tests
if ! "$PYTHON" -c 'import mmdet' 2>/dev/null; then
    echo "run_gpu_tests: $PYTHON has no mmdet, so the operator alone is tested"
    tests=tests/test_ops
fi
workers=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    workers=(-n auto --maxprocesses 16 --dist worksteal)  # most of the time goes into compiling kernels, on the CPU
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m pytest -m "needs_cuda or uses_cuda" "${workers[@]}" "$tests" "$@"
