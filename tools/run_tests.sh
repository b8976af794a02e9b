#!/usr/bin/env bash
# Make the environment where it is missing, then run the tests; options go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh
exec .venv/bin/python -m pytest "$@"
