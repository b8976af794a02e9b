# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's decode heads, able to select any upsampler; registered under mmsegmentation's names."""

from collections.abc import Sequence

from mmseg.models import decode_heads
from mmseg.models.utils import Upsample
from mmseg.registry import MODELS
from torch import Tensor

from mmcarafe.layers import UpsampleConfigError
from mmcarafe.selecting.select_upsample import SelectUpsample, Step

POOLING = "the last step, by 2, from the cells of the pooling pyramid, which are interpolated before it"


class SelectInFeatures(SelectUpsample):
    """Mixin: heads whose features are made apart, where other heads (KNet's) ask for them."""

    any_size = True

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run mmsegmentation's forward, which asks for the features."""
        return super(SelectUpsample, self).forward(inputs)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        with self.answering(inputs):
            return super()._forward_feature(inputs)


@MODELS.register_module(force=True)
class UPerHead(SelectInFeatures, decode_heads.UPerHead):
    """mmsegmentation's UPerHead with an ``upsample_cfg``.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmsegmentation's interpolation.
        upsample_in (list of str, optional): where: ``"ppm"``, from the cells of the pooling pyramid,
            ``"fpn"``, the top-down path, and ``"fusion"``, from each level to the finest. The paper's
            ablation has each alone, and all. Default: None, all.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments, or a place is not known.

    Example:
        >>> import torch
        >>> from mmcarafe.segmentation import UPerHead
        >>> head = UPerHead(in_channels=[8, 16], in_index=[0, 1], channels=4, num_classes=3,
        ...                 upsample_cfg=dict(type="CARAFE"))
        >>> head((torch.rand(2, 8, 24, 24), torch.rand(2, 16, 12, 12))).shape
        torch.Size([2, 3, 24, 24])
    """

    replaces = f"{POOLING}; those of the top-down path; those by 2, 4, 8 that fuse the levels"
    guide = "top-down: the lateral below; fusion: the finest level; none in the pooling pyramid"
    places = ("ppm", "fpn", "fusion")

    def __init__(self, *args, upsample_in: Sequence[str] | None = None, **kwargs) -> None:
        self.upsample_in = self.places if upsample_in is None else upsample_in
        listed = isinstance(self.upsample_in, list | tuple) and self.upsample_in
        if not listed or any(place not in self.places for place in listed):
            raise UpsampleConfigError(
                f"upsample_in: expected a list of {', '.join(self.places)}, got {upsample_in!r}"
            )
        super().__init__(*args, **kwargs)
        if upsample_in is not None and not self.upsample_modules:
            raise UpsampleConfigError("upsample_in has no effect without an upsample_cfg that has a type")

    def upsample_steps(self) -> list[Step | None]:
        """State the steps of the pooling pyramid, of the top-down path, and of the fusion, in this order."""
        laterals = range(len(self.lateral_convs))
        steps = {
            "ppm": [dict(scale=2, pooled=True) for _ in self.psp_modules],
            "fpn": [dict(scale=2, guide=f"lateral_convs.{i}") for i in reversed(laterals)],
            "fusion": [dict(scale=2 ** (i + 1), guide="fpn_convs.0") for i in reversed(laterals)],
        }
        found, count = [], 0
        for place, options in ((place, options) for place, those in steps.items() for options in those):
            chosen = place in self.upsample_in
            found.append(Step(count, self.channels, **options) if chosen else None)
            count += chosen
        return found


@MODELS.register_module(force=True)
class PSPHead(SelectInFeatures, decode_heads.PSPHead):
    """mmsegmentation's PSPHead with the ``upsample_cfg`` of :class:`UPerHead`."""

    replaces = POOLING

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each grid of cells; inputs that are joined are resized before them."""
        joined = [None] * (len(self.in_index) if self.input_transform == "resize_concat" else 0)
        return joined + [Step(i, self.channels, 2, pooled=True) for i in range(len(self.psp_modules))]


@MODELS.register_module(force=True)
class FPNHead(SelectUpsample, decode_heads.FPNHead):
    """mmsegmentation's FPNHead (Semantic FPN) with the ``upsample_cfg`` of :class:`UPerHead`."""

    replaces = "the bilinear step behind each convolution of a level"

    def upsample_steps(self) -> list[Step | None]:
        """State the steps of each level; the resize behind them, to an odd size, stays mmsegmentation's."""
        steps, count = [], 0
        for level in self.scale_heads[1:]:
            times = sum(isinstance(layer, Upsample) for layer in level)
            steps += [Step(count + i, self.channels, 2) for i in range(times)] + [None]
            count += times
        if not count:
            raise UpsampleConfigError("FPNHead: upsample_cfg has no effect, since all levels have one stride")
        return steps


@MODELS.register_module(force=True)
class SegformerHead(SelectUpsample, decode_heads.SegformerHead):
    """mmsegmentation's SegformerHead with the ``upsample_cfg`` of :class:`UPerHead`."""

    any_size = True
    replaces = "the bilinear steps by 2, 4 and 8 from each level to the finest"
    guide = "the finest level"

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each level but the finest."""
        levels = range(1, len(self.convs))
        return [None] + [Step(i - 1, self.channels, 2**i, "convs.0") for i in levels]
