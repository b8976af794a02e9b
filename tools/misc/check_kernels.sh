#!/usr/bin/env bash
# Compiles the portable variant of the CPU kernels with a C++ compiler alone and compares it with loops.
#
#   bash tools/misc/check_kernels.sh            with the address and undefined-behaviour sanitizers
#   CXX=aarch64-linux-gnu-g++ RUN="qemu-aarch64-static -L /usr/aarch64-linux-gnu" bash tools/misc/check_kernels.sh -O3
#                                               for Arm, on an emulator
#   VARIANT=avx512 bash tools/misc/check_kernels.sh -O3
#
# Arguments are compiler options in place of the default ones; headers are those of the torch that PYTHON has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[ $# -gt 0 ] || set -- -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
variant=${VARIANT:-baseline} csrc=mmcarafe/ops/csrc work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
headers=$("${PYTHON:-python}" -c 'from torch.utils.cpp_extension import include_paths; print(include_paths()[0])')
"${CXX:-g++}" -std=c++17 -fno-math-errno "$@" -DVARIANT="$variant" -DTORCH_TARGET_VERSION=0x020a000000000000 \
    -I"$csrc" -isystem "$headers" tests/helpers/check_kernels.cpp "$csrc/variant_$variant.cpp" -o "$work/check"
# shellcheck disable=SC2086
${RUN:-} "$work/check"
