# SPDX-License-Identifier: Apache-2.0
"""mmdet's pixel decoders, able to select any upsampler; registered under mmdet's names."""

from functools import partial

from mmcv.cnn import Conv2d
from mmdet.models import dense_heads, layers
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmcarafe.selecting.select_upsample import SelectTopDown, SelectUpsample, Step, by_name


def lateral_steps(count: int, channels: int) -> list[Step | None]:
    """State the steps into this many laterals, which are numbered from the finest, coarsest first."""
    return [Step(i, channels, 2, f"lateral_convs.{count - 1 - i}") for i in range(count)]


@MODELS.register_module(force=True)
class PixelDecoder(SelectUpsample, layers.PixelDecoder):
    """mmdet's PixelDecoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`."""

    replaces = SelectTopDown.replaces
    guide = SelectTopDown.guide

    def upsample_steps(self) -> list[Step | None]:
        """State one step between each two neighbouring levels."""
        return lateral_steps(self.num_inputs - 1, self.mask_feature.in_channels)


@MODELS.register_module(force=True)
class MaskFormerHead(dense_heads.MaskFormerHead):
    """mmdet's MaskFormerHead, which projects the input of its decoder if its pixel decoder's class is exactly
    mmdet's PixelDecoder.

    So that class is built where no upsampler is selected, and :class:`PixelDecoder` gets the projection too.
    """

    replaces = "what its `pixel_decoder` selects"
    upsampling_part = "pixel_decoder"
    guide = "as in its `pixel_decoder`"

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        decoder = ConfigDict(kwargs["pixel_decoder"])
        plain = decoder["type"] in ("PixelDecoder", "mmdet.PixelDecoder", PixelDecoder, layers.PixelDecoder)
        if plain and not decoder.get("upsample_cfg"):
            decoder.pop("upsample_cfg", None)
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
