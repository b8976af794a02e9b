# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's UNet, able to select any upsampler; registered under its name."""

from collections.abc import Iterator

from mmseg.models import backbones
from mmseg.models.utils import Upsample
from mmseg.registry import MODELS

from mmcarafe.selecting.replace_upsample import Place, ReplaceUpsample


@MODELS.register_module(force=True)
class UNet(ReplaceUpsample, backbones.UNet):
    """mmsegmentation's UNet whose ``upsample_cfg`` may name an upsampler.

    The 1x1 convolution that ``InterpConv`` has behind its bilinear step stays. ``InterpConv`` and
    ``DeconvModule`` are mmsegmentation's own, with the arguments that they have there.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    replaces = "the bilinear step of each `InterpConv`, before its 1x1 convolution"
    host_types = ("InterpConv", "DeconvModule")
    host_builds = True

    def places(self) -> Iterator[Place]:
        """Yield the upsampling in each block of the decoder, the coarsest first."""
        for block in reversed(self.decoder):
            upsample, conv = getattr(block.upsample, "interp_upsample", (None, None))
            if isinstance(upsample, Upsample):  # a block may keep the resolution
                yield Place(block.upsample.interp_upsample, "0", conv.in_channels, 2)
