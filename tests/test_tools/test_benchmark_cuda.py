# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark: its measuring and reporting with a CPU in the GPU's place, and all of it on a GPU."""

import json
import time
from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from benchmark import cuda as benchmark_cuda
from benchmark import gpu as benchmark_gpu
from benchmark import report_cuda as benchmark_report_cuda
from benchmark.peers import Inputs
from commands import tool
from samples import needs_triton

from mmcarafe.errors import InputError
from mmcarafe.ops import cuda, mmcv_backend
from mmcarafe.utils.markdown import markers

BEGIN, END = markers(benchmark_report_cuda.NAME)
SHAPES = {"small": (1, 8, 6, 5)}
ROWS = ("nearest", "bilinear", "deconvolution", "triton")


class Processor(benchmark_gpu.Gpu):
    """Does with a CPU what is done with a GPU, and keeps count."""

    device = "cpu"

    def __init__(self):
        self.started = 0

    def check(self):
        pass

    def machine(self):
        return dict(gpu="none", l2=4000, memory=1, torch=torch.__version__, cuda=None, triton=None)

    def captured(self, calls, keep):
        return lambda: [call() for call in calls]

    def milliseconds(self, calls):
        self.started += 1
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) * 1e3

    def extra_memory(self, call):
        return call().numel()


def options(folder, **other) -> Namespace:
    usual = dict(shapes=["small"], layouts=["contiguous", "channels_last"], dtypes=["float32", "bfloat16"])
    return Namespace(**usual | dict(rounds=2, peers="eager", memory=True, out=str(folder), page=None) | other)


@pytest.fixture
def measured(tmp_path, monkeypatch) -> dict:
    pytest.importorskip("triton")
    monkeypatch.setattr(mmcv_backend, "_extension", lambda: "mmcv was built without CUDA")
    monkeypatch.setattr(benchmark_cuda, "COPY_BYTES", 2**20)
    (tmp_path / "README.md").write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    args = options(tmp_path / "out", page=str(tmp_path / "README.md"))
    benchmark_cuda.main(args, SHAPES, Processor())
    return json.loads((tmp_path / "out/benchmark_cuda.json").read_text())


@needs_triton
def test_every_row_of_every_combination_is_measured(measured):
    found = {(r["layout"], r["dtype"], r["what"], r["row"]) for r in measured["results"]}
    assert found == {
        (layout, dtype, what, row)
        for layout in ("contiguous", "channels_last")
        for dtype in ("float32", "bfloat16")
        for what in ("forward", "forward+backward")
        for row in ROWS
    }
    for r in measured["results"]:
        assert 0 < r["least"] <= r["ms"] <= r["most"]
        assert r["gbs"] > 0 and r["called_ms"] > 0
        assert ("extra" in r) == (r["what"] == "forward")
    assert measured["left_out"]["mmcv, small, float32"] == "mmcv was built without CUDA"
    assert measured["copy"] > 0


def test_readme_section_is_replaced(measured, tmp_path):
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"above\n{BEGIN}\nOne run of") and text.endswith(f"{END}\nbelow\n")
    assert "| small | bfloat16 | channels_last | forward |" in text
    assert "Left out: mmcv: mmcv was built without CUDA." in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1


def test_inputs_in_turn_are_larger_than_twice_the_cache(measured):
    for r in measured["results"]:
        inputs = Inputs.draw(SHAPES["small"], "contiguous", False, dtype=getattr(torch, r["dtype"]))
        assert r["sets"] * benchmark_cuda.moved_bytes("triton", inputs, False) > 2 * 4000


def test_bytes_count_each_tensor_once_in_each_pass():
    i = Inputs.draw((1, 8, 6, 5), "contiguous", False)
    x, m, out = (4 * n for n in (8 * 30, 25 * 120, 8 * 120))
    assert benchmark_cuda.moved_bytes("triton", i, False) == x + m + out
    assert benchmark_cuda.moved_bytes("triton", i, True) == x + m + out + (out + x + m) + (x + m)
    assert benchmark_cuda.moved_bytes("nearest", i, False) == x + out
    assert benchmark_cuda.moved_bytes("nearest", i, True) == 2 * (x + out)


def test_rows_run_in_turn_after_two_rounds_of_warming_up():
    calls = []
    rows = {name: [lambda name=name: calls.append(name)] * 30 for name in "ab"}
    gpu = Processor()
    graphs = {name: gpu.captured(row, keep=True) for name, row in rows.items()}
    times = benchmark_cuda.in_turn(gpu, rows, graphs, rounds=3)
    assert gpu.started == 2 * 2 * (3 + 2)
    assert calls == (["a"] * 120 + ["b"] * 120) * 5  # 30 twice, replayed and called
    assert all(len(kind) == 3 for pair in times.values() for kind in pair)


@pytest.mark.parametrize("name", [pytest.param("triton", marks=needs_triton), "mmcv"])
def test_both_passes_of_a_row_are_served_by_its_implementation(name, monkeypatch):
    served = []

    class Recorder(torch.autograd.Function):
        """An operator that notes which implementation was asked for, in each pass."""

        @staticmethod
        def forward(ctx, features, masks):
            served.append(cuda._named[0])
            return F.interpolate(features, scale_factor=2)

        @staticmethod
        def backward(ctx, grad):
            served.append(cuda._named[0])
            return F.avg_pool2d(grad, 2), None

    monkeypatch.setattr(benchmark_cuda, "carafe", lambda x, m, *args: Recorder.apply(x, m))
    monkeypatch.setattr(mmcv_backend, "_extension", lambda: None)
    rows, _ = benchmark_cuda.steps([Inputs.draw((1, 8, 6, 5), "contiguous", True)], True, False)
    rows[name][0]()
    assert served == [name, name]


@needs_triton
def test_a_row_that_needs_too_much_memory_is_left_out(tmp_path, monkeypatch):
    class Small(Processor):
        def captured(self, calls, keep):
            if calls[0].implementation is None:
                raise torch.OutOfMemoryError
            return super().captured(calls, keep)

    pytest.importorskip("triton")
    monkeypatch.setattr(benchmark_cuda, "COPY_BYTES", 2**20)
    benchmark_cuda.main(options(tmp_path), SHAPES, Small())
    data = json.loads((tmp_path / "benchmark_cuda.json").read_text())
    assert data["left_out"]["nearest, small, float32"] == "out of memory"
    assert {r["row"] for r in data["results"]} == {"triton"}


def test_without_a_gpu_one_sentence_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = tool("benchmark_op.py", "--device", "cuda", cwd=tmp_path, check=False)
    assert result.returncode != 0
    assert result.stderr.strip().endswith("sees no CUDA device")
    with pytest.raises(InputError, match="sees no CUDA device"):
        benchmark_gpu.Gpu().check()


@pytest.mark.needs_cuda
def test_on_the_gpu(tmp_path):
    args = ["--device", "cuda", "--shapes", "P5", "--dtypes", "bfloat16", "--memory", "--rounds", 3]
    tool("benchmark_op.py", *args, "--out", "here", cwd=tmp_path, gpu=True)
    data = json.loads((tmp_path / "here/benchmark_cuda.json").read_text())
    triton = [r for r in data["results"] if r["row"] == "triton"]
    assert {(r["layout"], r["what"]) for r in triton} == {
        (layout, what)
        for layout in ("contiguous", "channels_last")
        for what in ("forward", "forward+backward")
    }
    assert all(0 < r["gbs"] < 1.5 * data["copy"] for r in triton)
    assert all(r["extra"] < 0.2 * r["output"] for r in triton if "extra" in r)
