# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the CARAFE operator on a GPU, for benchmark_op.py --device cuda.

Every row runs over several sets of inputs, together larger than twice the GPU's L2 cache, and is timed with
CUDA events in two ways: replayed from a CUDA graph, which is the GPU's own time, and called from Python,
which is what a network that is not captured waits for. Rows run in turn, round after round; medians are
reported.
"""

import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from benchmark_peers import Inputs, shift_and_add
from benchmark_report_cuda import NAME, show, write_readme
from common import InputError
from readme import split_section
from torch import Tensor, nn

from mmcarafe.ops import carafe, cuda, use_cuda_implementation

OURS = ("triton", "mmcv")
COPY_BYTES = 2**30
CALLS = 20  # called from Python between two events


class Gpu:
    """What is asked of the device: graphs, events, memory."""

    device = "cuda"

    def check(self) -> None:
        """Raise InputError unless there is a GPU."""
        if not torch.cuda.is_available():
            raise InputError(f"--device cuda: torch {torch.__version__} sees no CUDA device")

    def machine(self) -> dict:
        """What the figures depend on."""
        properties = torch.cuda.get_device_properties(0)
        try:
            import triton
        except ImportError:
            triton = None
        return dict(
            gpu=properties.name,
            l2=properties.L2_cache_size,
            memory=properties.total_memory,
            torch=torch.__version__,
            cuda=torch.version.cuda or torch.version.hip,
            triton=triton and triton.__version__,
        )

    def captured(self, calls: list[Callable]) -> Callable[[], None]:
        """The calls, once each with outputs of their own, as one CUDA graph to replay."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compile and choose algorithms before capturing
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = [call() for call in calls]

        def replay(outputs=outputs) -> None:  # which live as long as the graph
            graph.replay()

        return replay

    def milliseconds(self, function: Callable[[], None]) -> float:
        """Time on the GPU between an event before the call and one after it."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def extra_memory(self, call: Callable[[], Tensor]) -> int:
        """Peak bytes of a call beyond its output."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()


def row_calls(inputs: list[Inputs], compiled: bool) -> dict[str, list[Callable[[], Tensor]] | str]:
    """Each row's calls, one for each set of inputs, or why it is left out."""
    first = inputs[0]
    s, k, channels = first.scale, first.k, first.features.shape[1]
    deconv = nn.ConvTranspose2d(channels, channels, s, s).to(first.features)
    deconv = deconv.requires_grad_(first.features.requires_grad)

    def ours(i: Inputs, name: str) -> Tensor:
        with use_cuda_implementation(name):
            return carafe(i.features, i.masks, k, 1, s)

    functions = {
        "nearest": lambda i: F.interpolate(i.features, scale_factor=s, mode="nearest"),
        "bilinear": lambda i: F.interpolate(i.features, scale_factor=s, mode="bilinear"),
        "deconvolution": lambda i: deconv(i.features),
    }
    rows: dict = {}
    for name in OURS:
        tensors = (first.features, first.masks)
        for op, given in (("carafe", tensors), ("carafe_backward", (first.output_grad(), *tensors))):
            if reason := cuda.IMPLEMENTATIONS[name].why_not(op, given, k, 1, s):
                rows[name] = reason
        if name not in rows:
            functions[name] = partial(ours, name=name)
    if compiled:
        form = torch.compile(shift_and_add, dynamic=False)
        functions["shift and add, compiled"] = lambda i: form(i.features, i.masks, k, s)
    return {name: [partial(f, i) for i in inputs] for name, f in functions.items()} | rows


def moved_bytes(name: str, i: Inputs, backward: bool) -> int:
    """Bytes that a row has to read and write at least: each tensor once in each pass."""
    x, m = (t.numel() * t.element_size() for t in (i.features, i.masks))
    out = i.output_bytes
    if name in ("nearest", "bilinear", "deconvolution"):
        return (x + out) * (2 if backward else 1)
    return x + m + out + (out + 2 * (x + m) if backward else 0)


def with_backward(call: Callable[[], Tensor], i: Inputs, grad: Tensor) -> tuple:
    """One call and the gradients of features and masks."""
    return torch.autograd.grad(call(), (i.features, i.masks), grad, allow_unused=True)


def measure(gpu: Gpu, shape: tuple, layout: str, dtype: str, args: Namespace) -> tuple[list[dict], dict]:
    """Results of every row of one shape, and the reasons for those left out."""
    results = []
    for what in ("forward", "forward+backward"):
        backward = what != "forward"
        draw = partial(Inputs.draw, shape, layout, backward, gpu.device, getattr(torch, dtype))
        inputs = [draw()]
        sets = ceil(2 * args.l2 / moved_bytes("triton", inputs[0], False)) + 1
        inputs += [draw() for _ in range(sets - 1)]
        rows = row_calls(inputs, args.peers == "compiled")
        left_out = {name: row for name, row in rows.items() if isinstance(row, str)}
        rows = {name: row for name, row in rows.items() if name not in left_out}
        memory = {name: gpu.extra_memory(row[0]) for name, row in rows.items()} if args.memory else {}
        if backward:
            grad = inputs[0].output_grad()
            rows = {
                name: [partial(with_backward, call, i, grad) for call, i in zip(row, inputs, strict=True)]
                for name, row in rows.items()
            }
        times = in_turn(gpu, rows, args.rounds)
        for name, (replayed, called) in times.items():
            ms = median(replayed)
            result = dict(layout=layout, dtype=dtype, what=what, row=name, ms=ms, called_ms=median(called))
            result |= dict(least=min(replayed), most=max(replayed), sets=sets)
            result["gbs"] = moved_bytes(name, inputs[0], backward) / ms / 1e6
            if name in memory and not backward:
                result |= dict(extra=memory[name], output=inputs[0].output_bytes)
            results.append(result)
    return results, left_out


def in_turn(gpu: Gpu, rows: dict[str, list[Callable]], rounds: int) -> dict[str, tuple[list, list]]:
    """Milliseconds of one call of each row, replayed and called from Python, round after round."""
    graphs = {name: gpu.captured(calls) for name, calls in rows.items()}
    times: dict[str, tuple[list, list]] = {name: ([], []) for name in rows}
    for i in range(rounds + 2):  # two to warm up
        for name, calls in rows.items():
            repeated = (calls * ceil(CALLS / len(calls)))[: max(CALLS, len(calls))]
            replayed = gpu.milliseconds(graphs[name]) / len(calls)
            called = gpu.milliseconds(lambda repeated=repeated: [call() for call in repeated]) / len(repeated)
            if i >= 2:
                times[name][0].append(replayed)
                times[name][1].append(called)
    return times


def copy_rate(gpu: Gpu, rounds: int) -> float:
    """GB/s of a device-to-device copy, read and written bytes counted: the most that any row can reach."""
    source, target = (torch.ones(COPY_BYTES, dtype=torch.uint8, device=gpu.device) for _ in range(2))
    times = [gpu.milliseconds(lambda: target.copy_(source)) for _ in range(rounds + 2)][2:]
    return 2 * COPY_BYTES / median(times) / 1e6


def main(args: Namespace, shapes: dict[str, tuple], gpu: Gpu | None = None) -> None:
    """Measure, print, and write the files."""
    gpu = gpu or Gpu()
    gpu.check()
    if args.readme:
        split_section(Path(args.readme), NAME)
    machine = gpu.machine()
    args.l2 = machine["l2"]
    data = dict(machine=machine, rounds=args.rounds, copy=copy_rate(gpu, args.rounds), results=[])
    data["left_out"] = {}
    for shape in args.shapes:
        for layout in args.layouts:
            for dtype in args.dtypes:
                print(f"measuring {shape}, {layout}, {dtype}", flush=True)
                results, left_out = measure(gpu, shapes[shape], layout, dtype, args)
                data["results"] += [dict(shape=shape) | result for result in results]
                data["left_out"] |= {f"{name}, {shape}, {dtype}": why for name, why in left_out.items()}
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark_cuda.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    show(data)
    print(f"written: {path}")
    if args.readme:
        write_readme(data, Path(args.readme))
        print(f"rewritten: the GPU section of {args.readme}")
