# SPDX-License-Identifier: Apache-2.0
"""What each part of the package needs, and that it installs where its kernels cannot be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("imports", "blocked"),
    [
        ("mmcarafe", ["mmengine", "mmcv", "mmdet"]),
        ("mmcarafe.ops", ["mmengine", "mmcv", "mmdet", "numpy"]),
        ("mmcarafe.layers", ["mmcv", "mmdet"]),
    ],
)
def test_a_part_imports_without_the_stack_above_it(imports, blocked):
    result = python(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {imports}")
    assert result.returncode == 0, result.stderr


def test_the_layer_runs_without_mmcv():
    code = "import torch, sys; sys.modules['mmcv'] = None; from mmcarafe.layers import CARAFE; "
    result = python(code + "print(CARAFE(8)(torch.rand(1, 8, 5, 7)).shape)")
    assert "[1, 8, 10, 14]" in result.stdout, result.stderr


def test_a_build_without_a_compiler_installs_without_the_kernels(tmp_path):
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path],
        cwd=ROOT,
        env={**os.environ, "CXX": str(compiler), "CC": str(compiler)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert not list(tmp_path.rglob("*.so"))
    assert "mmcarafe._C" in result.stderr + result.stdout
