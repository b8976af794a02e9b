#!/usr/bin/env bash
# Runs the operator's tests with one wheel beside several versions of torch and Python, with no compiler on PATH;
# those of Triton's kernels, of which the wheel has no compiled part, are left out.
#
#   bash tools/misc/check_wheel.sh WHEEL PYTHON=TORCH ...     for example python3.10=2.10.0 python3.13=2.12.0
#
# Each pair gets an environment of its own, which is removed after it (6 GB where pip finds CUDA builds of torch).
# Prints a row of docs/compatibility.md for each; exits with 1 where one fails, and says where its log is.
set -euo pipefail
fail() { printf 'check_wheel: %s\n' "$*" >&2; exit 2; }
[ $# -ge 2 ] && [ -f "$1" ] || fail "expected WHEEL PYTHON=TORCH ..., got '$*'; a wheel is made by 'pip wheel --no-deps --no-build-isolation -w dist .'"
wheel=$(realpath "$1"); shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work/env"' EXIT
# the tests alone: no checkout from which the package could be imported
mkdir -p "$work/tests"
cp -r tests/conftest.py tests/helpers tests/test_ops "$work/tests"
cp pyproject.toml "$work"

failed=0
echo "| Python | torch | kernels | tests |"
echo "| --- | --- | --- | --- |"
for pair in "$@"; do
    env=$work/env log=$work/$(basename "${pair%%=*}")-torch-${pair##*=}.log
    rm -rf "$env"
    {
        "${pair%%=*}" -m venv "$env" \
            && "$env/bin/python" -m pip install "torch==${pair##*=}" numpy pytest pytest-xdist hypothesis filelock packaging \
            && "$env/bin/python" -m pip install --no-deps "$wheel"
    } >"$log" 2>&1 </dev/null || { echo "check_wheel: no environment for $pair; see $log" >&2; failed=1; continue; }
    version=$("$env/bin/python" -c 'import platform; print(platform.python_version())')
    (  # errexit is off here: the steps are chained
        unset PYTHONPATH CC CXX
        export PATH="$env/bin" OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
        cd "$work" && python -m mmcarafe \
            && python -m pytest -q -n 2 --dist loadfile --ignore-glob='*triton*' tests/test_ops
    ) >>"$log" 2>&1 || { failed=1; echo "check_wheel: $pair failed; see $log" >&2; }
    kernels=$(sed -n 's/^CPU kernels *//p' "$log")
    echo "| $version | ${pair##*=} | $kernels | $(tail -n 1 "$log" | tr -d =) |"
done
[ "$failed" = 1 ] || rm -rf "$work"
exit "$failed"
