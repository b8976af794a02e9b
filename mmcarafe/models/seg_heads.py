# SPDX-License-Identifier: Apache-2.0
"""mmdet's semantic heads and pixel decoders, able to select any upsampler; registered under mmdet's names."""

from functools import partial

from mmcv.cnn import Conv2d
from mmdet.models import dense_heads, layers, seg_heads
from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from .necks import SelectTopDown
from .upsample import SelectUpsample, by_name


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

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """Level i takes i steps to the size of level 0."""
        return [(self.inner_channels, 2)] * sum(range(self.start_level, self.end_level))


class SelectFused(SelectUpsample):
    """Mixin: steps from the levels above the fused one."""

    replaces = "bilinear steps by 2, 4 and 8 from coarser levels to the fused one"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step for each level but the fused one; finer levels are reduced, which stays mmdet's."""
        scales = {i: 2 ** (i - self.fusion_level) for i in range(self.fusion_level + 1, self.num_ins)}
        others = [i for i in range(self.num_ins) if i != self.fusion_level]
        return [(self.in_channels, scales[i]) if i in scales else None for i in others]


@MODELS.register_module(force=True)
class FusedSemanticHead(SelectFused, mask_heads.FusedSemanticHead):
    """HTC's semantic branch with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""


@MODELS.register_module(force=True)
class SCNetSemanticHead(SelectFused, mask_heads.SCNetSemanticHead):
    """SCNet's semantic branch with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""


@MODELS.register_module(force=True)
class PixelDecoder(SelectUpsample, layers.PixelDecoder):
    """mmdet's PixelDecoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = SelectTopDown.replaces

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step between each two neighbouring levels."""
        return [(self.mask_feature.in_channels, 2)] * (self.num_inputs - 1)


@MODELS.register_module(force=True)
class MaskFormerHead(dense_heads.MaskFormerHead):
    """mmdet's MaskFormerHead, which projects the input of its decoder if its pixel decoder's class is exactly
    mmdet's PixelDecoder.

    So that class is built where no upsampler is selected, and :class:`PixelDecoder` gets the projection too.
    """

    replaces = "what its `pixel_decoder` selects"

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        decoder = ConfigDict(kwargs["pixel_decoder"])
        plain = decoder["type"] in ("PixelDecoder", "mmdet.PixelDecoder", PixelDecoder, layers.PixelDecoder)
        if plain and not decoder.get("upsample_cfg"):
            decoder["type"] = partial(layers.PixelDecoder)  # the class itself would be replaced by ours
        kwargs["pixel_decoder"] = decoder
        super().__init__(*args, **kwargs)
        channels = kwargs["in_channels"][-1]
        enforced = kwargs.get("enforce_decoder_input_project", False)
        if isinstance(self.pixel_decoder, PixelDecoder) and (channels != self.decoder_embed_dims or enforced):
            self.decoder_input_proj = Conv2d(channels, self.decoder_embed_dims, kernel_size=1)


@MODELS.register_module(force=True)
class TransformerEncoderPixelDecoder(SelectUpsample, layers.TransformerEncoderPixelDecoder):
    """MaskFormer's pixel decoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = SelectTopDown.replaces

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """The padding mask's, which is reduced, then one step between each two neighbouring levels."""
        return [None, *[(self.mask_feature.in_channels, 2)] * (self.num_inputs - 1)]


@MODELS.register_module(force=True)
class MSDeformAttnPixelDecoder(SelectUpsample, layers.MSDeformAttnPixelDecoder):
    """Mask2Former's pixel decoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = "the bilinear step to the level that its encoder leaves out"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step for each level that the encoder does not see."""
        return [(self.mask_feature.in_channels, 2)] * (self.num_input_levels - self.num_encoder_levels)
