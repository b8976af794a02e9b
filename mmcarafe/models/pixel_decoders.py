# SPDX-License-Identifier: Apache-2.0
"""mmdet's pixel decoders, able to select any upsampler; registered under mmdet's names."""

from mmcv.cnn import Conv2d
from mmdet.models import dense_heads, layers
from mmdet.registry import MODELS

from mmcarafe.selecting.select_upsample import SelectTopDown, SelectUpsample, Step, by_name


def lateral_steps(count: int, channels: int) -> list[Step | None]:
    """State the steps into this many laterals, which are numbered from the finest, coarsest first."""
    return [Step(i, channels, 2, f"lateral_convs.{count - 1 - i}") for i in range(count)]


@MODELS.register_module(force=True)
class PixelDecoder(SelectUpsample, layers.PixelDecoder):
    """mmdet's PixelDecoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`; without one, mmdet's class.

    Heads ask whether their decoder's class is exactly mmdet's, and only then project the input of what is
    behind it. Where an upsampler is selected, this package's :class:`MaskFormerHead` alone does.
    """

    replaces = SelectTopDown.replaces
    guide = SelectTopDown.guide
    needed_head: type

    def __new__(cls, *args, upsample_cfg: dict | None = None, **kwargs) -> layers.PixelDecoder:
        """Return mmdet's decoder where no upsampler is selected; a copy is made without arguments."""
        if cls is PixelDecoder and (args or kwargs) and upsample_cfg in (None, {}, dict(type=None)):
            return layers.PixelDecoder(*args, **kwargs)
        return super().__new__(cls)

    def upsample_steps(self) -> list[Step | None]:
        """State one step between each two neighbouring levels."""
        return lateral_steps(self.num_inputs - 1, self.mask_feature.in_channels)


@MODELS.register_module(force=True)
class MaskFormerHead(dense_heads.MaskFormerHead):
    """mmdet's MaskFormerHead, which projects the input of its decoder behind :class:`PixelDecoder` too."""

    replaces = "what its `pixel_decoder` selects"
    upsampling_part = "pixel_decoder"
    guide = "as in its `pixel_decoder`"

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        super().__init__(*args, **kwargs)
        channels = kwargs["in_channels"][-1]
        enforced = kwargs.get("enforce_decoder_input_project", False)
        if isinstance(self.pixel_decoder, PixelDecoder) and (channels != self.decoder_embed_dims or enforced):
            self.decoder_input_proj = Conv2d(channels, self.decoder_embed_dims, kernel_size=1)


PixelDecoder.needed_head = MaskFormerHead


@MODELS.register_module(force=True)
class TransformerEncoderPixelDecoder(SelectUpsample, layers.TransformerEncoderPixelDecoder):
    """MaskFormer's pixel decoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = SelectTopDown.replaces
    guide = SelectTopDown.guide

    def upsample_steps(self) -> list[Step | None]:
        """State the padding mask's, which is reduced, then one step between each two neighbouring levels."""
        return [None, *lateral_steps(self.num_inputs - 1, self.mask_feature.in_channels)]


@MODELS.register_module(force=True)
class MSDeformAttnPixelDecoder(SelectUpsample, layers.MSDeformAttnPixelDecoder):
    """Mask2Former's pixel decoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = "the bilinear step to the level that its encoder leaves out"
    guide = SelectTopDown.guide

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each level that the encoder does not see."""
        left_out = self.num_input_levels - self.num_encoder_levels
        return lateral_steps(left_out, self.mask_feature.in_channels)
