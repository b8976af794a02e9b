# SPDX-License-Identifier: Apache-2.0
"""Measure a GPU: CUDA events, graphs and the allocator's peak.

Every row runs over several sets of inputs, together larger than twice the GPU's L2 cache, and is timed in two
ways: replayed from a CUDA graph, which is the GPU's own time, and called from Python, which is what a network
that is not captured waits for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from statistics import median

import torch
from benchmark.forms import Inputs
from benchmark.measure import Call
from torch import Tensor

from mmcarafe.errors import InputError

COPY_BYTES = 2**30
CALL_COUNT = 40
"""Calls of a row between two events, or fewer where they take longer than LONGEST_MS."""

LONGEST_MS = 20


class Gpu:
    """Times calls, and finds out their peak memory; InputError unless there is a GPU."""

    name = type = "cuda"
    warm_rounds = 2

    def __init__(self):
        self.check()
        self.facts = self.machine() | dict(copy=round(self.copy_rate()))

    def check(self) -> None:
        """Raise InputError unless there is a GPU."""
        if not torch.cuda.is_available():
            raise InputError(f"--device cuda: torch {torch.__version__} sees no CUDA device")

    def machine(self) -> dict:
        """Return what the figures depend on."""
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

    def sets(self, first: Inputs) -> int:
        """Return on how many sets of inputs a row runs, so that none is in the cache when its turn comes."""
        return (
            ceil(2 * self.facts["l2"] / (first.features.nbytes + first.masks.nbytes + first.output_bytes)) + 1
        )

    def clocks(self, calls: list[Call]) -> list[Callable[[], float]]:
        """Return what times the calls replayed from a graph and called from Python, milliseconds of one."""
        steps = [partial(run, call) for call in calls]
        # larger outputs do not stay in the cache anyway
        graph = self.captured(steps, keep=len(calls) * calls[0].inputs.output_bytes < 8 * self.facts["l2"])
        # so many that starting a graph takes no part of the time
        repeats = ceil(min(CALL_COUNT / len(calls), LONGEST_MS / self.milliseconds([graph])))
        count = repeats * len(calls)
        return [lambda c=c: self.milliseconds(c * repeats) / count for c in ([graph], steps)]

    def rates(self, calls: list[Call], ms: float) -> dict:
        """Return GB/s, its share of what a copy reaches, and on how many sets of inputs."""
        gbs = moved_bytes(calls[0]) / ms / 1e6
        return dict(gbs=gbs, of_copy=gbs / self.facts["copy"], sets=len(calls))

    def captured(self, calls: Sequence[Callable], keep: bool) -> Callable[[], None]:
        """Return the calls, once each, as one CUDA graph to replay; ``keep``: outputs share no memory."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compile and choose algorithms before capturing
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = []
            for call in calls:
                out = call()
                if keep:
                    outputs.append(out)
                del out

        def replay(outputs=outputs) -> None:  # which live as long as the graph
            graph.replay()

        return replay

    def milliseconds(self, calls: Sequence[Callable]) -> float:
        """Time the GPU from an event before the calls to one after them; their outputs are dropped."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def extra_memory(self, call: Call) -> int:
        """Return peak bytes of a call beyond its output, after one that compiles and sets up what is kept."""
        run(call)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = run(call)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before - out.nbytes

    def copy_rate(self) -> float:
        """Return GB/s of a device-to-device copy, read and written bytes counted."""
        source, target = (torch.ones(COPY_BYTES, dtype=torch.uint8, device=self.type) for _ in range(2))
        copy = [lambda: target.copy_(source)]
        return 2 * COPY_BYTES / median(self.milliseconds(copy) for _ in range(11)) / 1e6


def run(call: Call) -> Tensor | tuple:
    """Return the output, or the gradients of all that a row learns; all of it by its implementation."""
    i = call.inputs
    with call.chosen("cuda"):
        out = call.function(i)
        if call.grad is None:
            return out
        learns = getattr(call.function, "learns", ())  # a backward pass has their gradients too
        return torch.autograd.grad(out, (i.features, i.masks, *learns), call.grad, allow_unused=True)


def moved_bytes(call: Call) -> int:
    """Return bytes that a call has to read and write at least: each tensor once in each pass."""
    x, m, out = call.inputs.features.nbytes, call.inputs.masks.nbytes, call.inputs.output_bytes
    if not call.row.reads_masks:
        return (x + out) * (1 if call.grad is None else 2)
    return x + m + out + (0 if call.grad is None else out + 2 * (x + m))
