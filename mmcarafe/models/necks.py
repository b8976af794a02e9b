# SPDX-License-Identifier: Apache-2.0
"""mmdet's pyramids with laterals, able to select any upsampler; registered under mmdet's names."""

from mmdet.models import necks
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor

from mmcarafe.selecting.interpolate import KeepOutput, must_upsample
from mmcarafe.selecting.select_upsample import InitUpsamplers, SelectTopDown, Step, by_name, is_guided

from .select_downsample import DownsampleExtraLevels


@MODELS.register_module(force=True)
class FPN(DownsampleExtraLevels, SelectTopDown, necks.FPN):
    """mmdet's FPN whose ``upsample_cfg`` may name an upsampler: ``upsample_cfg=dict(type="CARAFE")``.

    All other arguments, the extra levels and the outputs are mmdet's. ``upsample_modules[i]`` upsamples
    level i + 1 to level i; an odd lateral (25 above 13) is met by cropping, and one of the same size takes
    the level above as it is. ``downsample_cfg`` (default: None) selects what makes the extra levels, in place
    of pooling or of the stride of their convolutions.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
        DownsampleConfigError: the same of ``downsample_cfg``, or there is nothing that halves a map.
        ValueError: in ``forward``, a level is neither twice as large as the one above it (odd sizes rounded
            up) nor of its size.

    Example:
        >>> import torch
        >>> from mmcarafe.models import FPN
        >>> neck = FPN(in_channels=[8, 16], out_channels=4, num_outs=3, upsample_cfg=dict(type="CARAFE"))
        >>> [tuple(level.shape) for level in neck((torch.rand(1, 8, 25, 38), torch.rand(1, 16, 13, 19)))]
        [(1, 4, 25, 38), (1, 4, 13, 19), (1, 4, 7, 10)]
    """


@MODELS.register_module(force=True)
class FPN_DropBlock(SelectTopDown, necks.FPN_DropBlock):  # noqa: N801  mmdet's name
    """mmdet's FPN_DropBlock with the ``upsample_cfg`` of :class:`FPN`."""


@MODELS.register_module(force=True)
class PAFPN(DownsampleExtraLevels, SelectTopDown, necks.PAFPN):
    """mmdet's PAFPN as :class:`FPN`; ``downsample_cfg`` concerns the bottom-up path too."""

    strided = ("downsample_convs", "fpn_convs")


@MODELS.register_module(force=True)
class RFP(SelectTopDown, necks.RFP):
    """DetectoRS's RFP with the ``upsample_cfg`` of :class:`FPN`.

    Each of its ``rfp_steps`` passes runs the same upsamplers, as it runs the same convolutions.
    """

    def upsample_steps(self) -> list[Step | None]:
        """State the steps of an FPN, once for each pass."""
        return super().upsample_steps() * self.rfp_steps


@MODELS.register_module(force=True)
class FPN_CARAFE(InitUpsamplers, necks.FPN_CARAFE):  # noqa: N801  mmdet's name
    """mmdet's FPN_CARAFE with upsamplers from the registry, so that it runs without CUDA.

    Released CARAFE checkpoints have this neck. It is not FPN with CARAFE: its P6 is a convolution that
    joins the top-down path. ``deconv`` and ``pixel_shuffle`` can be selected too, with or without mmdet's
    ``upsample_kernel``.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.models import FPN_CARAFE
        >>> neck = FPN_CARAFE([8, 16], 4, num_outs=3, upsample_cfg=dict(type="carafe"))
        >>> [tuple(level.shape) for level in neck((torch.rand(1, 8, 24, 24), torch.rand(1, 16, 12, 12)))]
        [(1, 4, 24, 24), (1, 4, 12, 12), (1, 4, 6, 6)]
    """

    replaces = "all its upsamplers, from P6 to P5 included"
    guide = SelectTopDown.guide
    mmdet_types = ("nearest", "bilinear", "deconv", "pixel_shuffle", "carafe")

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        upsample_cfg = kwargs.pop("upsample_cfg", None) or dict(type="carafe")
        # nearest has no parameters: it only makes the parent count the upsamplers it needs
        super().__init__(*args, upsample_cfg=dict(type="nearest"), **kwargs)
        channels = self.lateral_convs[0].out_channels
        steps = [Step(i, channels, 2, f"lateral_convs.{i}") for i in range(len(self.upsample_modules))]
        self.upsample_modules = ModuleList(
            step.build(upsample_cfg, type(self).__name__, MODELS) for step in steps
        )
        self._guides = []
        for lateral, upsample in zip(self.lateral_convs, self.upsample_modules, strict=False):
            if is_guided(upsample):
                self._guides.append(KeepOutput())
                lateral.register_forward_hook(self._guides[-1])
                upsample.register_forward_pre_hook(self._guides[-1].give)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run mmdet's forward, a guided upsampler with the lateral below."""
        for guide in self._guides:
            guide.activate(True)
        try:
            return super().forward(inputs)
        finally:
            for guide in self._guides:
                guide.activate(False)

    def slice_as(self, src: Tensor, dst: Tensor) -> Tensor:
        """Cut an upsampled map to the height and width of an odd level; a ValueError names both elsewhere."""
        source = tuple(size // 2 for size in src.shape[2:])
        if not must_upsample(source, 2, tuple(dst.shape[2:])):
            raise ValueError(
                f"FPN_CARAFE: two levels of one size, {source[0]} x {source[1]}, but it enlarges each by 2; "
                "use FPN with upsample_cfg=dict(type='CARAFE'), which leaves such levels as they are"
            )
        return src[:, :, : dst.shape[2], : dst.shape[3]]
