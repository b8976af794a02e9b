# SPDX-License-Identifier: Apache-2.0
"""How a selected upsampler answers the calls of ``F.interpolate`` in a ``forward``, and gets its guide."""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def upsample_to(
    upsample: nn.Module, scale: int, x: Tensor, size: tuple[int, int], guide: Tensor | None = None
) -> Tensor:
    """Upsample a map to the size of the finer level that it joins.

    Args:
        upsample (nn.Module): maps Tensor[N, C, H, W] to Tensor[N, C, scale * H, scale * W].
        scale (int): its scale factor.
        x (Tensor[N, C, H, W]): the coarser level.
        size (tuple[int, int]): height and width of the finer level.
        guide (Tensor[N, G, *size], optional): what a guided upsampler takes beside ``x``, padded to
            the size of its output.

    Returns:
        Tensor[N, C, *size]: upsampled, and cropped at the bottom and right where the finer level is odd (26
        to 25). ``x`` itself where it has that size already: some backbones have stages of one resolution.

    Raises:
        ValueError: the levels are of any other sizes; the message names both.
    """
    source, size = tuple(x.shape[2:]), tuple(size)
    if must_upsample(source, scale, size):
        return with_guide(upsample, scale, x, guide)[:, :, : size[0], : size[1]]
    return unused(upsample, x)


def unused(upsample: nn.Module, x: Tensor) -> Tensor:
    """Return ``x``, with a gradient of zero for each parameter, as distributed training waits for them."""
    return sum((p.flatten()[:0].sum() for p in upsample.parameters()), start=x)


def with_guide(upsample: nn.Module, scale: int, x: Tensor, guide: Tensor | None) -> Tensor:
    """Upsample a map, together with its guide where there is one."""
    return upsample(x) if guide is None else upsample(x, pad_guide(guide, scale, x))


def pad_guide(guide: Tensor, scale: int, x: Tensor) -> Tensor:
    """Pad a guide with its border to ``scale`` times the size of ``x``.

    A finer level of odd size (25 above 13) is that much smaller than the result, which is cropped later.
    """
    missing = [scale * n - m for n, m in zip(x.shape[2:], guide.shape[2:], strict=True)]
    return F.pad(guide, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else guide


def reaches(source: tuple[int, int], scale: int, size: tuple[int, int]) -> bool:
    """Tell whether a level becomes one of a size, rounded up, when it is upsampled by ``scale``."""
    return all(scale * (n - 1) < wanted <= scale * n for n, wanted in zip(source, size, strict=True))


def must_upsample(source: tuple[int, int], scale: int, size: tuple[int, int]) -> bool:
    """Tell whether a level has to be upsampled to reach a size, rather than having it already.

    Raises:
        ValueError: it has another size, and upsampling it by ``scale`` does not give this one either.

    Example:
        >>> must_upsample((13, 20), 2, (25, 40)), must_upsample((13, 20), 2, (13, 20))
        (True, False)
    """
    if source == size:  # also of 1 x 1, which a level of 1 x 1 upsampled and cropped would reach
        return False
    if reaches(source, scale, size):
        return True
    expected = " x ".join(f"{scale * (n - 1) + 1}..{scale * n}" for n in source)
    raise ValueError(
        f"a level of {source[0]} x {source[1]} cannot be upsampled by {scale} to {size[0]} x {size[1]}: "
        f"expected a finer level of {expected}, or of the same size; change its strides or pad images"
    )


class KeepOutput:
    """Forward hook that keeps what a submodule returns, to guide an upsampler, while it is active.

    Each thread keeps its own, as servers run one model in several. The hook itself stays:
    ``torch.compile(fullgraph=True)`` takes none that ``forward`` adds.
    """

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor | None] = {}  # of each thread in which it is active

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """Keep the output."""
        if (thread := self._key()) in self.outputs:
            self.outputs[thread] = output

    def activate(self, active: bool) -> None:
        """Start to keep outputs, or stop and forget."""
        if active:
            self.outputs[_thread()] = None
        else:
            self.outputs.pop(_thread(), None)

    def get(self) -> Tensor | None:
        """Return what was kept last."""
        return self.outputs.get(self._key())

    def give(self, upsample: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add what was kept to the input of an upsampler by 2, as its forward pre-hook."""
        return (*args, pad_guide(self.get(), 2, *args)) if self._key() in self.outputs else args

    def _key(self) -> int:
        """Return the thread whose output is meant; in a compiled part of an eager module, the active one."""
        if torch.compiler.is_compiling() and len(self.outputs) == 1:
            return next(iter(self.outputs))
        return _thread()


def _thread() -> int:
    # a number of a thread would be a constant of the graph
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class Answer(NamedTuple):
    """What answers a call of ``F.interpolate``."""

    upsample: nn.Module
    scale: int
    guide: Callable[[], Tensor | None] | None = None
    """Returns the guide of a guided upsampler."""
    any_size: bool = False
    """Say whether the interpolation goes on from the upsampler's output where its size is another."""
    pooled: bool = False
    """Say whether ``x`` holds cells of a pooling pyramid, which are interpolated, and upsampled last."""

    def __call__(self, func: Callable, x: Tensor, *args, **kwargs) -> Tensor:
        """Upsample in place of a call ``func(x, *args, **kwargs)`` of ``F.interpolate``."""
        size = args[0] if args else kwargs.get("size")
        guide = self.guide and self.guide()
        if size is None:
            return with_guide(self.upsample, self.scale, x, guide)
        size = (size, size) if isinstance(size, int) else tuple(size)
        source = tuple(x.shape[2:])
        if self.pooled:
            return self._enlarge_cells(partial(_interpolate, func, args[1:], kwargs), x, size)
        if not self.any_size or source == size or reaches(source, self.scale, size):
            return upsample_to(self.upsample, self.scale, x, size, guide)
        # a map that needs less is interpolated alone; so is one whose guide is of another size
        fits = guide is None and all(self.scale * n <= wanted for n, wanted in zip(source, size, strict=True))
        return func(self.upsample(x) if fits else unused(self.upsample, x), *args, **kwargs)

    def _enlarge_cells(self, interpolate: Callable, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolate cells to what the upsampler enlarges to ``size``: on few cells it would weigh padding.

        Of one cell in the middle of zeros, CARAFE's average of 5 x 5 leaves a 25th.
        """
        last = tuple(-(-n // self.scale) for n in size)
        room = all(n <= wanted for n, wanted in zip(x.shape[2:], last, strict=True))
        if not room or tuple(x.shape[2:]) == size:
            return interpolate(unused(self.upsample, x), size)
        out = self.upsample(interpolate(x, last))
        return out if tuple(out.shape[2:]) == size else interpolate(out, size)


def _interpolate(func: Callable, args: tuple, kwargs: dict, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Call ``func`` as it was called, for another map and size."""
    return func(x, size, *args, **{name: value for name, value in kwargs.items() if name != "size"})


HINT = ": upsample_steps must state each call of F.interpolate in it, None where it is not replaced"


PART_CHECKPOINTED = (
    "F.interpolate is called without gradients in a forward with them, as where activation_checkpointing "
    "names a part of a component in which an upsampler is selected: name the whole component, or its "
    "convolutions"
)


class InterpolateWith(TorchFunctionMode):
    """While active, each ``F.interpolate(x, size=...)`` runs the next upsampler, as :func:`upsample_to` does.

    Components of mmdet and mmsegmentation call ``F.interpolate``, or ``nn.Upsample`` that does, in the
    middle of their ``forward``. Answering those calls, through torch's own protocol for overriding its
    functions, leaves the rest of ``forward`` to them. Calls made inside a module are not answered (torch
    deactivates a mode while it handles a call).

    Args:
        steps (iterable of Answer or None): what answers the calls, in the order in which ``forward``
            interpolates; None leaves that call to torch.
        guides (iterable of KeepOutput): hooks to activate meanwhile.

    Raises:
        RuntimeError: there were more or fewer calls than steps, or a part of the component is checkpointed.
        ValueError: as :func:`upsample_to`.
    """

    def __init__(self, steps: Iterable[Answer | None], guides: Iterable[KeepOutput] = ()) -> None:
        super().__init__()
        self.steps = list(steps)
        self.guides = list(guides)
        self.calls = 0
        self.learns = torch.is_grad_enabled()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **kwargs)
        self.calls += 1
        if self.calls > len(self.steps):
            raise RuntimeError(f"forward interpolates more often than its {len(self.steps)} upsamplers{HINT}")
        step = self.steps[self.calls - 1]
        if step is None:
            return func(*args, **kwargs)
        if self.learns and not torch.is_grad_enabled():  # its second pass, in backward, would be torch's own
            raise RuntimeError(PART_CHECKPOINTED)
        return step(func, *args, **kwargs)

    def __enter__(self):
        for guide in self.guides:
            guide.activate(True)
        return super().__enter__()

    def __exit__(self, exc_type, exc_value, traceback):
        super().__exit__(exc_type, exc_value, traceback)
        for guide in self.guides:
            guide.activate(False)
        if exc_type is None and self.calls < len(self.steps):
            raise RuntimeError(f"forward used {self.calls} of its {len(self.steps)} upsamplers{HINT}")
