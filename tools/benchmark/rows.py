# SPDX-License-Identifier: Apache-2.0
"""List what is timed: a new row is one entry of ``ROWS``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from benchmark.forms import FORMS, Inputs, shift_and_add
from torch import Tensor, nn

from mmcarafe.layers import CARAFE
from mmcarafe.ops import carafe, cuda, implementations

SHAPES = {
    "P2": (1, 256, 200, 336),
    "P3": (1, 256, 100, 168),
    "P4": (1, 256, 50, 84),
    "P5": (1, 256, 25, 42),
    "P3 x 8": (8, 256, 100, 168),
    "100 RoIs": (100, 256, 14, 14),
    "1000 RoIs": (1000, 256, 14, 14),
}
"""Features, [N, C, H, W]: FPN levels of an 800 x 1344 image, and RoIs of a mask head."""

LAYOUTS = ("contiguous", "channels_last")
DTYPES = ("float32", "float16", "bfloat16")
PASSES = FORWARD, BOTH = ("forward", "forward+backward")
PEERS = ("none", "replaced", "eager", "compiled")
"""Kinds of rows that the operator is compared with, each with those before it."""

COMPILED_SHAPE = "P3"
"""Compiling takes minutes: once, for the shape of the aims."""

MAX_FEATURES = 6 * 10**6
"""Elements of the features up to which forms that unfold are run: they hold k*k copies of the map."""


@dataclass(frozen=True)
class Row:
    """Something to time.

    ``make`` is given one of the inputs and returns a function of such inputs, with the parameters it learns
    in its ``learns`` if there are any; ``why_not`` returns a reason not to run it on them, or None.
    """

    make: Callable[[Inputs], Callable[[Inputs], Tensor]]
    peers: str = "none"
    devices: tuple[str, ...] = ("cpu", "cuda")
    reads_masks: bool = True
    implementation: str | None = None
    why_not: Callable[[Inputs], str | None] = lambda first: None


def layer(build: Callable[[int, int], nn.Module], *options) -> Row:
    """Return the row of a module, built for a number of channels and a scale; it takes no masks."""

    def make(first: Inputs) -> Callable[[Inputs], Tensor]:
        x = first.features
        module = build(x.shape[1], first.scale).to(x).requires_grad_(x.requires_grad)
        guide = None
        if getattr(module, "guided", False):
            guide = torch.rand_like(first.output_grad()).requires_grad_(x.requires_grad)
        return LayerCall(module, guide)

    return Row(make, *options, reads_masks=False)


class LayerCall:
    """Run a module on the features of inputs, with one guide for all."""

    def __init__(self, module: nn.Module, guide: Tensor | None):
        self.module, self.guides = module, [] if guide is None else [guide]
        self.learns = [*module.parameters(), *self.guides]

    def __call__(self, i: Inputs) -> Tensor:
        """Run it."""
        return self.module(i.features, *self.guides)


def form(function: Callable[..., Tensor], *options, compiled: bool = False, **named) -> Row:
    """Return the row of a function of features, masks, k and scale."""

    def make(first: Inputs) -> Callable[[Inputs], Tensor]:
        call = function
        if compiled:
            torch.compiler.reset()  # recompilations are counted, and limited
            call = torch.compile(function, dynamic=False, fullgraph=True)
        return lambda i: call(i.features, i.masks, i.k, i.scale)

    return Row(make, *options, **named)


def operator(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """Call the operator with one group."""
    return carafe(x, masks, k, 1, s)


def mmcv_operator(x: Tensor, masks: Tensor, k: int, s: int) -> Tensor:
    """Call mmcv's operator with one group."""
    from mmcv.ops import carafe as mmcv_carafe

    return mmcv_carafe(x, masks, k, 1, s)


def mmcv_refuses(first: Inputs) -> str | None:
    """Return what mmcv's operator says where it does not run."""
    try:
        mmcv_operator(first.features, first.masks, first.k, first.scale)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def cuda_refuses(name: str, first: Inputs) -> str | None:
    """Return why an implementation for CUDA cannot run one of the passes."""
    tensors = (first.features, first.masks)
    for op, given in (("carafe", tensors), ("carafe_backward", (first.output_grad(), *tensors))):
        if reason := cuda.IMPLEMENTATIONS[name].why_not(op, given, first.k, 1, first.scale):
            return reason
    return None


def too_large(first: Inputs) -> str | None:
    """Return why forms that unfold are not run."""
    large = first.features.numel() > MAX_FEATURES
    return f"more than {MAX_FEATURES} features take too much memory" if large else None


CPU = ("cpu",)
ROWS = {
    "CARAFE layer": layer(lambda C, s: CARAFE(C, s), "none", CPU),
    "nearest": layer(lambda C, s: nn.Upsample(scale_factor=s), "replaced"),
    "bilinear": layer(lambda C, s: nn.Upsample(scale_factor=s, mode="bilinear"), "replaced"),
    "deconvolution": layer(lambda C, s: nn.ConvTranspose2d(C, C, s, s), "replaced"),
    "pixel shuffle": layer(
        lambda C, s: nn.Sequential(nn.Conv2d(C, C * s * s, 3, padding=1), nn.PixelShuffle(s)), "replaced", CPU
    ),
    "mmcv": form(mmcv_operator, "replaced", CPU, why_not=mmcv_refuses),
    **{name: form(function, "eager", CPU, why_not=too_large) for name, function in FORMS.items()},
    **{
        f"{name}, compiled": form(
            function,
            "compiled",
            ("cpu", "cuda") if function is shift_and_add else CPU,
            compiled=True,
            why_not=too_large,
        )
        for name, function in FORMS.items()
    },
}
"""Rows that the operator is compared with; its implementations come before them."""


def rows_of(
    device: str, first: Inputs, peers: str, shape: str, layout: str
) -> tuple[dict[str, Row], dict[str, str]]:
    """Return the rows to time on inputs like these, by name, and why others are left out."""
    # forms in plain PyTorch are for contiguous maps
    most = "compiled" if shape == COMPILED_SHAPE else "eager"
    peers = min(peers, most if layout == "contiguous" else "replaced", key=PEERS.index)
    if device == "cpu":
        ours = {name: form(operator, implementation=name) for name in implementations("cpu")}
    else:
        fast = [name for name in implementations("cuda") if name != "reference"]
        ours = {
            name: form(operator, implementation=name, why_not=partial(cuda_refuses, name)) for name in fast
        }
    rows, left_out = {}, {}
    for name, row in ({f"mmcarafe {name}": row for name, row in ours.items()} | ROWS).items():
        if device in row.devices and PEERS.index(row.peers) <= PEERS.index(peers):
            if reason := row.why_not(first):
                left_out[name] = reason
            else:
                rows[name] = row
    return rows, left_out
