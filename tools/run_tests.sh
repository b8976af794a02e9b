#!/usr/bin/env bash
# Make the environment where it is missing, then run the tests; options go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh
export CUDA_VISIBLE_DEVICES=  # with a GPU there is run_gpu_tests.sh
# a test uses one thread; a file's tests stay together, so that what they share is prepared once
workers=$(nproc)
exec .venv/bin/python -m pytest -n "$((workers < 4 ? workers : 4))" --dist loadfile "$@"
