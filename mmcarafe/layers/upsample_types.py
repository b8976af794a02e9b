# SPDX-License-Identifier: Apache-2.0
"""The one table of upsampler types: what an ``upsample_cfg`` can name, and how each is built."""

from collections.abc import Callable
from typing import NamedTuple

from mmcarafe.errors import UpsampleConfigError

from .carafe import CARAFE
from .dlu import DLU
from .dysample import DySample
from .fade import FADE
from .pixel_shuffle import pixel_shuffle_pack
from .sapa import SAPA


def _deconv(channels: int, scale: int, cfg: dict) -> dict:
    # upsample_kernel is what mmdet's FPN_CARAFE calls it. The padding makes the output exactly scale
    # times the input, whatever the kernel.
    kernel = cfg.pop("upsample_kernel", cfg.get("kernel_size", scale))
    if not isinstance(kernel, int) or kernel < 1 or (scale == 1 and kernel % 2 == 0):
        raise UpsampleConfigError(
            f"upsample_cfg type 'deconv': expected a kernel of 1 or more, odd at scale 1, got {kernel!r}"
        )
    padding = max(kernel - scale + 1, 0) // 2
    return dict(
        in_channels=channels,
        out_channels=channels,
        kernel_size=kernel,
        stride=scale,
        padding=padding,
        output_padding=2 * padding - (kernel - scale),
    )


def _pixel_shuffle(channels: int, scale: int, cfg: dict) -> dict:
    kernel = cfg.get("upsample_kernel", 3)
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise UpsampleConfigError(
            f"upsample_cfg type 'pixel_shuffle': expected an odd upsample_kernel, got {kernel!r}"
        )
    return dict(in_channels=channels, out_channels=channels, scale_factor=scale, upsample_kernel=kernel)


# What F.interpolate takes. A base config's stay in the dict when a child config adds a type, which they do
# not concern: YOLOX has upsample_cfg=dict(scale_factor=2, mode="nearest").
INTERPOLATION = {
    "mode": ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    "align_corners": (True, False, None),
}


def _interpolation(mode: str, **fixed) -> Callable[[int, int, dict], dict]:
    return lambda channels, scale, cfg: dict(scale_factor=scale, mode=mode, **fixed)


class UpsampleType(NamedTuple):
    """A row of the table of types: what a ``type`` stands for, and how it is built."""

    what: str
    source: str = ""
    """Number of its paper on arXiv."""
    module: Callable[[], Callable] | None = None
    """Returns our module; None: what mmcv registers under the name."""
    arguments: Callable[[int, int, dict], dict] | None = None
    """How it calls the channels and the scale factor, and its defaults, which the rest of ``upsample_cfg``
    overrides; None: ``channels`` and ``scale_factor``."""
    fixed: tuple[str, ...] = ()
    """Options of an interpolation that the type says already."""
    takes: str = ""
    """Its arguments in words, where ``arguments`` translates them."""
    variants: tuple[dict, ...] = ({},)
    """Options that change the number of parameters or the graph: documented and tested each."""
    onnx: str = "yes"
    """Say whether it is exported, and by which operator where that is one to know of; a test holds it."""

    @property
    def guided(self) -> bool:
        """Tell whether it takes a guide, as :class:`~mmcarafe.layers.upsampler.Upsampler` explains."""
        return self.module is not None and getattr(self.module(), "guided", False)


_CARAFE = UpsampleType(
    "this package's layer; `carafe` is mmcv's name for its own", "1905.02188", lambda: CARAFE
)
_SAMPLED = "`GridSample`, or `--gather`"
TYPES = {
    "nearest": UpsampleType(
        "`torch.nn.Upsample`", arguments=_interpolation("nearest"), fixed=("mode", "align_corners")
    ),
    "bilinear": UpsampleType(
        "`torch.nn.Upsample`", arguments=_interpolation("bilinear", align_corners=False), fixed=("mode",)
    ),
    "deconv": UpsampleType(
        "transposed convolution",
        arguments=_deconv,
        takes="`kernel_size` or `upsample_kernel` (default: the scale factor)",
    ),
    # mmcv's fails on an empty batch
    "pixel_shuffle": UpsampleType(
        "mmcv's convolution and pixel shuffle",
        "1609.05158",
        pixel_shuffle_pack,
        arguments=_pixel_shuffle,
        takes="`upsample_kernel=3`",
    ),
    # mmcv's, which has the same arguments and parameters, is CUDA only
    "carafe": _CARAFE,
    "CARAFE": _CARAFE,
    "DySample": UpsampleType(
        "samples the map at predicted points",
        "2308.15085",
        lambda: DySample,
        variants=({}, dict(dyscope=True), dict(style="pl"), dict(style="pl", dyscope=True)),
        onnx=_SAMPLED,
    ),
    "DLU": UpsampleType(
        "samples one predicted kernel a source pixel at predicted points, then reassembles",
        "2410.22139",
        lambda: DLU,
        onnx=_SAMPLED,
    ),
    "SAPA": UpsampleType(
        "reassembles by likeness of guide and map (SAPA-B)",
        "2209.12866",
        lambda: SAPA,
        variants=({}, dict(embedding_dim=64), dict(norm="group")),
    ),
    "FADE": UpsampleType(
        "reassembles by kernels predicted from guide and map, and mixes the guide in by a gate",
        "2207.10392",
        lambda: FADE,
        variants=({}, dict(lite=True), dict(gate=False)),
    ),
}
"""Every type that ``upsample_cfg`` knows, beside what a user registers."""
