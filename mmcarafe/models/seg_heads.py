# SPDX-License-Identifier: Apache-2.0
"""mmdet's semantic heads, able to select any upsampler; registered under mmdet's names."""

from mmdet.models import seg_heads
from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS

from mmcarafe.selecting.select_upsample import SelectUpsample, Step


@MODELS.register_module(force=True)
class PanopticFPNHead(SelectUpsample, seg_heads.PanopticFPNHead):
    """mmdet's PanopticFPNHead with an ``upsample_cfg``.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's interpolation.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.models import PanopticFPNHead
        >>> head = PanopticFPNHead(4, 3, in_channels=8, inner_channels=32, end_level=2,
        ...                        upsample_cfg=dict(type="CARAFE"))
        >>> head((torch.rand(1, 8, 16, 16), torch.rand(1, 8, 8, 8)))["seg_preds"].shape
        torch.Size([1, 4, 16, 16])
    """

    replaces = "the bilinear step behind each convolution of a level"

    def upsample_steps(self) -> list[Step | None]:
        """State i steps for level i, to the size of level 0."""
        steps = sum(range(self.start_level, self.end_level))
        return [Step(i, self.inner_channels, 2) for i in range(steps)]


class SelectFused(SelectUpsample):
    """Mixin: steps from the levels above the fused one."""

    replaces = "bilinear steps by 2, 4 and 8 from coarser levels to the fused one"
    guide = "the fused level"

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each level but the fused one; finer levels are reduced, which stays mmdet's."""
        above = self.num_ins - self.fusion_level - 1
        return [None] * self.fusion_level + [
            Step(i, self.in_channels, 2 ** (i + 1), self.fusion_level) for i in range(above)
        ]


@MODELS.register_module(force=True)
class FusedSemanticHead(SelectFused, mask_heads.FusedSemanticHead):
    """HTC's semantic branch with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""


@MODELS.register_module(force=True)
class SCNetSemanticHead(SelectFused, mask_heads.SCNetSemanticHead):
    """SCNet's semantic branch with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""
