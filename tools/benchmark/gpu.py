# SPDX-License-Identifier: Apache-2.0
"""What benchmark_cuda.py asks of a GPU: CUDA graphs, events, memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmcarafe.errors import InputError


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

    def captured(self, calls: Sequence[Callable], keep: bool) -> Callable[[], None]:
        """The calls, once each, as one CUDA graph to replay; ``keep``: outputs do not share memory."""
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
        """Time on the GPU from an event before the calls to one after them; their outputs are dropped."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def extra_memory(self, call: Callable[[], Tensor]) -> int:
        """Peak bytes of a call beyond its output, after one that compiles and sets up what is kept."""
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
