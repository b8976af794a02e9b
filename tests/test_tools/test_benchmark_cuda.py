# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark: its measuring and reporting with a CPU in the GPU's place, and all of it on a GPU."""

import json
import time
from contextlib import nullcontext

import benchmark_op
import pytest
import torch
import torch.nn.functional as F
from benchmark import gpu, page, rows
from benchmark.forms import Inputs
from benchmark.measure import Call, calls_of, in_turn
from commands import refused, tool
from samples import needs_triton

from mmcarafe.ops import cuda, mmcv_backend
from mmcarafe.utils.markdown import markers

BEGIN, END = markers(page.NAMES["cuda"])
SMALL = (1, 8, 6, 5)
ROWS = ("nearest", "bilinear", "deconvolution", "mmcarafe triton")


class Processor(gpu.Gpu):
    """Does with a CPU what is done with a GPU, and keeps count."""

    type = "cpu"
    started = 0

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
        return gpu.run(call).numel()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for shape in list(rows.SHAPES):
        monkeypatch.delitem(rows.SHAPES, shape)
    monkeypatch.setitem(rows.SHAPES, "small", SMALL)
    monkeypatch.setattr(gpu, "COPY_BYTES", 2**20)
    monkeypatch.setattr(mmcv_backend, "_extension", lambda: "mmcv was built without CUDA")


def measured(folder, monkeypatch, processor=Processor, *options) -> dict:
    monkeypatch.setattr(benchmark_op, "Gpu", processor)
    usual = ["--device", "cuda", "--shapes", "small", "--dtypes", "float32", "bfloat16", "--rounds", "2"]
    benchmark_op.main([*usual, "--memory", "--out", str(folder), *options])
    return json.loads((folder / "benchmark.json").read_text())["cuda"]


@pytest.fixture
def data(tmp_path, monkeypatch) -> dict:
    return measured(tmp_path, monkeypatch)


@needs_triton
def test_every_row_of_every_combination_is_measured(data):
    found = {(r["layout"], r["dtype"], r["what"], r["row"]) for r in data["results"]}
    assert found == {
        (layout, dtype, what, row)
        for layout in ("contiguous", "channels_last")
        for dtype in ("float32", "bfloat16")
        for what in ("forward", "forward+backward")
        for row in ROWS
    }
    for r in data["results"]:
        assert 0 < r["least"] <= r["ms"] <= r["most"]
        assert r["gbs"] > 0 and r["called_ms"] > 0
        assert ("extra" in r) == (r["what"] == "forward")
    case = dict(shape="small", layout="contiguous", dtype="float32", what="forward")
    assert case | dict(row="mmcarafe mmcv", why="mmcv was built without CUDA") in data["left_out"]
    assert data["machine"]["copy"] > 0


@needs_triton
def test_the_section_of_the_page_is_replaced(data, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    page.write_page(path, "cuda", data)
    text = path.read_text()
    assert text.startswith(f"above\n{BEGIN}\nOne run of") and text.endswith(f"{END}\nbelow\n")
    assert "| small | bfloat16 | channels_last | forward |" in text
    assert "Left out: mmcarafe mmcv: mmcv was built without CUDA." in text
    columns = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(columns)) == 1
    assert page.read(tmp_path / "page.json") == dict(cuda=data)


@needs_triton
def test_inputs_in_turn_are_larger_than_twice_the_cache(data):
    for r in data["results"]:
        inputs = Inputs.draw(SMALL, "contiguous", False, dtype=getattr(torch, r["dtype"]))
        call = Call(None, rows.ROWS["shift and add"], inputs)
        assert r["sets"] * gpu.moved_bytes(call) > 2 * 4000


@pytest.mark.parametrize(("ms", "count"), [(0.1, 14), (9.0, 3), (500.0, 1)])
def test_slow_calls_are_repeated_less(ms, count, monkeypatch):
    between = []
    monkeypatch.setattr(Processor, "milliseconds", lambda self, calls: between.append(len(calls)) or ms)
    device = Processor()
    inputs = Inputs.draw(SMALL, "contiguous", False)
    calls = [Call(rows.ROWS["nearest"].make(inputs), rows.ROWS["nearest"], inputs)] * 3
    replayed, called = device.clocks(calls)
    between.clear()
    assert replayed() == called() == pytest.approx(ms / (3 * count))
    assert between == [count, 3 * count]  # graphs of three calls, and calls


def test_bytes_count_each_tensor_once_in_each_pass():
    i = Inputs.draw((1, 8, 6, 5), "contiguous", False)
    x, m, out = (4 * n for n in (8 * 30, 25 * 120, 8 * 120))

    def moved(name, grad=None):
        return gpu.moved_bytes(Call(None, rows.ROWS[name], i, grad))

    assert moved("shift and add, compiled") == x + m + out
    assert moved("shift and add, compiled", i.output_grad()) == x + m + out + (out + x + m) + (x + m)
    assert moved("nearest") == x + out
    assert moved("nearest", i.output_grad()) == 2 * (x + out)


def test_rows_run_in_turn_after_two_rounds_of_warming_up():
    called, inputs = [], Inputs.draw(SMALL, "contiguous", False)
    row, processor = rows.ROWS["nearest"], Processor()
    calls = {name: [Call(lambda _, name=name: called.append(name), row, inputs)] * 30 for name in "ab"}
    processor.started = 0
    times = in_turn(processor, calls, 3)
    assert processor.started == 2 + 2 * 2 * (3 + 2)
    assert called[:60] == ["a"] * 30 + ["b"] * 30  # to find out how long they take
    assert called[60:] == (["a"] * 120 + ["b"] * 120) * 5  # 30 twice, replayed and called
    assert times.keys() == {"a", "b"}


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

    monkeypatch.setattr(rows, "carafe", lambda x, m, *args: Recorder.apply(x, m))
    monkeypatch.setattr(mmcv_backend, "_extension", lambda: None)
    calls, _ = calls_of(Processor(), "eager", "small", "contiguous", "float32", "forward+backward")
    gpu.run(calls[f"mmcarafe {name}"][0])
    assert served == [name, name]


@needs_triton
def test_a_row_that_needs_too_much_memory_is_left_out(tmp_path, monkeypatch):
    class Little(Processor):
        def captured(self, calls, keep):
            if not calls[0].args[0].row.implementation:
                raise torch.OutOfMemoryError
            return super().captured(calls, keep)

    data = measured(tmp_path, monkeypatch, Little)
    assert {r["row"] for r in data["left_out"] if r["why"] == "out of memory"} == set(ROWS[:3])
    assert {r["row"] for r in data["results"]} == {"mmcarafe triton"}


def test_without_a_gpu_one_sentence_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused("benchmark_op.py", "--device", "cuda", cwd=tmp_path, match="sees no CUDA device")


@pytest.mark.needs_cuda
def test_on_the_gpu(tmp_path):
    args = ["--device", "cuda", "--shapes", "P5", "--dtypes", "bfloat16", "--memory", "--rounds", 3]
    tool("benchmark_op.py", *args, "--out", "here", cwd=tmp_path, gpu=True)
    data = json.loads((tmp_path / "here/benchmark.json").read_text())["cuda"]
    triton = [r for r in data["results"] if r["row"] == "mmcarafe triton"]
    assert {(r["layout"], r["what"]) for r in triton} == {
        (layout, what)
        for layout in ("contiguous", "channels_last")
        for what in ("forward", "forward+backward")
    }
    assert all(0 < r["of_copy"] < 1.5 for r in triton)
    assert all(r["extra"] < 0.2 for r in triton if "extra" in r)


@pytest.mark.parametrize(("name", "count"), [("deconvolution", 2), ("nearest", 0), ("mmcarafe", 0)])
def test_a_backward_pass_has_the_gradients_of_all_that_a_row_learns(name, count, monkeypatch):
    """As on a CPU, where ``backward`` makes them."""
    monkeypatch.setattr(gpu.Call, "chosen", lambda *_: nullcontext())
    inputs = Inputs.draw(SMALL, "contiguous", True)
    row = rows.ROWS.get(name, rows.form(rows.operator))
    gradients = gpu.run(gpu.Call(row.make(inputs), row, inputs, inputs.output_grad()))
    assert len(gradients) == 2 + count
    assert all(gradient is not None for gradient in gradients[2:])
