# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels compiled ahead of time, without a GPU: what the assembler makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton, an optional requirement, is not installed")
# a GPU is not even used, but its Triton is checked with the rest
pytestmark = [pytest.mark.uses_cuda, pytest.mark.needs(triton="3.4")]

P3 = [1, 256, 100, 168]
NVIDIA = {"sm_80": ["cuda", 80, 32], "sm_90": ["cuda", 90, 32]}
SLOW = pytest.mark.slow
SHARED = 48 * 1024  # what every kernel may have without asking for more
SHARED_OF_DOT = 99 * 1024  # what the smallest GPUs with tensor cores for float32 have


def case(
    dtype="float32", memory_format="contiguous_format", shape=P3, k=5, groups=1, scale=2, down=False, dot=True
) -> dict:
    """A call; ``dot``: tensor cores may serve it."""
    sizes = dict(shape=shape, k=k, groups=groups, scale=scale, down=down)
    return dict(dtype=dtype, memory_format=memory_format, dot=dot) | sizes


def of_downsampling(cases: list[dict]) -> list[dict]:
    return [case | dict(down=True) for case in cases]


LAYOUTS = ("contiguous_format", "channels_last")
UPSAMPLING = [case(dtype, layout) for dtype in ("float32", "float16", "bfloat16") for layout in LAYOUTS]
USUAL = UPSAMPLING + of_downsampling(UPSAMPLING)
FEW = UPSAMPLING[:2] + of_downsampling(UPSAMPLING[:1])
PLAIN = [call | dict(dot=False) for call in UPSAMPLING]
OTHERS = [call for call in USUAL if call not in FEW] + PLAIN
OF_AMPERE = [
    call for call in USUAL + PLAIN if call["dtype"] != "float16" or call["down"]
]  # as wide as bfloat16
UNUSUAL = [
    case(memory_format=layout, down=down, **other)
    for layout in LAYOUTS
    for down in (False, True)
    for other in (
        dict(k=3, scale=3),
        dict(k=7, groups=2),
        dict(scale=4),
        dict(scale=1, shape=[2, 48, 25, 21]),  # strides that are multiples of nothing
    )
] + [case(shape=[2, 1, 1, 1], k=1)]  # sizes and strides of 1 are constants for Triton's compiler


def compiled(tmp_path, target: list, cases: list[dict]) -> list[dict]:
    """Reports of all kernels of some calls, in a process that compiles them instead of interpreting them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).parents[1] / "helpers/compile_triton.py"
    done = subprocess.run(
        [sys.executable, script, json.dumps(target), json.dumps(cases)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(done.stdout)
    assert len(reports) == 3 * len(cases)
    return reports


def assert_within_limits(report: dict) -> None:
    # of programs for tensor cores a few words, for odd sizes or the sake of more threads
    assert report["spills"] <= (32 if "_dot_" in report["kernel"] else 0), report
    assert report["registers"] <= 255, report
    assert report["shared"] <= (SHARED_OF_DOT if "_dot_" in report["kernel"] else SHARED), report


@pytest.mark.parametrize(
    ("target", "cases"),
    [("sm_90", FEW), pytest.param("sm_90", OTHERS, marks=SLOW), pytest.param("sm_80", OF_AMPERE, marks=SLOW)],
    ids=["sm_90", "sm_90_others", "sm_80"],
)
def test_usual_calls_do_not_spill_and_move_vectors(target, cases, tmp_path):
    for report in compiled(tmp_path, NVIDIA[target], cases):
        assert_within_limits(report)
        if "_dot_" in report["kernel"]:
            # rows, or channels of a pixel, on their way to shared memory
            assert max(report["copies"]) >= 8, report
            assert "v4.b32" in report["stores"] or report["kernel"] == "grad_masks_dot_kernel", report
        elif report["case"]["memory_format"] == "channels_last":
            # four floats, or as many halves as fit the lanes of a thread
            assert {"v4.b32", "v2.b32"} & set(report["vectors"]), report
            if report["kernel"] != "grad_masks_kernel":
                assert {"v4.b32", "v2.b32"} & set(report["stores"]), report


@SLOW
def test_unusual_calls_do_not_spill(tmp_path):
    for report in compiled(tmp_path, NVIDIA["sm_80"], UNUSUAL):
        assert_within_limits(report)


@SLOW
def test_tiles_that_autotuning_may_choose_do_not_spill(tmp_path):
    cases = [case(memory_format=layout) | dict(tile=tile) for layout in LAYOUTS for tile in (1, 2, 3)]
    cases += of_downsampling(cases)
    for report in compiled(tmp_path, NVIDIA["sm_90"], cases):
        assert_within_limits(report)


@SLOW
def test_amd_compiles(tmp_path):
    for report in compiled(tmp_path, ["hip", "gfx942", 64], FEW):
        assert report["binary"] > 0
        assert report["spills"] == 0, report
        assert report["shared"] <= 64 * 1024, report
