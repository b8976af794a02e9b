# SPDX-License-Identifier: Apache-2.0
"""mmdet's pixel decoders, able to select any upsampler; registered under mmdet's names."""

from mmcv.cnn import Conv2d
from mmdet.models import dense_heads, layers
from mmdet.registry import MODELS
from torch import nn

from mmcarafe.errors import UpsampleConfigError
from mmcarafe.layers.build_upsample import as_dict
from mmcarafe.selecting.select_upsample import SelectTopDown, SelectUpsample, Step, by_name


def lateral_steps(count: int, channels: int) -> list[Step | None]:
    """State the steps into this many laterals, which are numbered from the finest, coarsest first."""
    return [Step(i, channels, 2, f"lateral_convs.{count - 1 - i}") for i in range(count)]


@MODELS.register_module(force=True)
class PixelDecoder(SelectUpsample, layers.PixelDecoder):
    """mmdet's PixelDecoder with the ``upsample_cfg`` of :class:`PanopticFPNHead`; without one, mmdet's class.

    mmdet's MaskFormerHead asks whether its decoder's class is exactly mmdet's, and only then projects the
    coarsest level to the channels of its transformer. With an upsampler :class:`MaskFormerHead` of this
    package does; other heads that derive from mmdet's and would need it are refused.
    """

    replaces = SelectTopDown.replaces
    guide = SelectTopDown.guide

    def __new__(cls, *args, upsample_cfg: dict | None = None, **kwargs) -> layers.PixelDecoder:
        """Return mmdet's decoder where no upsampler is selected; a copy is made without arguments."""
        selects = any(value is not None for value in as_dict(upsample_cfg or {}).values())
        if cls is PixelDecoder and (args or kwargs) and not selects:
            return layers.PixelDecoder(*args, **kwargs)
        return super().__new__(cls)

    def check_head(self, head: nn.Module) -> None:
        """Refuse a head that leaves out mmdet's projection of the coarsest level but needs it.

        Raises:
            UpsampleConfigError: the level has other channels than the head's transformer.
        """
        if not isinstance(head, dense_heads.MaskFormerHead) or isinstance(head, MaskFormerHead):
            return
        given, needed = self.in_channels[-1], head.decoder_embed_dims
        if isinstance(head.decoder_input_proj, nn.Identity) and given != needed:
            raise UpsampleConfigError(
                f"{type(head).__name__} does not project the {given} channels of its coarsest level to the "
                f"{needed} of its transformer where its pixel_decoder has an upsample_cfg: derive it from "
                "mmcarafe.models.MaskFormerHead, or leave the upsample_cfg out"
            )

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
