# SPDX-License-Identifier: Apache-2.0
"""CARAFE with one part changed, for comparisons that ask what the part brings."""

from torch import Tensor, nn

from mmcarafe.layers import CARAFE
from mmcarafe.layers.optional_mmengine import register
from mmcarafe.layers.pixel_shuffle import pixel_shuffle

XAVIER = dict(type="Xavier", layer="Conv2d", distribution="uniform")


@register
class CARAFEXavier(CARAFE):
    """CARAFE whose content encoder starts from Xavier's distribution too, so that kernels differ at once."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, init_cfg=XAVIER, **kwargs)


@register
class CARAFEUncompressed(CARAFE):
    """CARAFE without the channel compressor: the content encoder reads all channels."""

    def __init__(self, channels: int, *args, **kwargs) -> None:
        super().__init__(channels, *args, compressed_channels=channels, **kwargs)
        self.channel_compressor = nn.Identity()


@register
class CARAFELinear(CARAFE):
    """CARAFE without the softmax: the encoder's output is the kernels. They too start as an average."""

    def _apply_start(self) -> None:
        if self.start != "average":
            raise ValueError(f"start: expected 'average', the only one without a softmax, got {self.start!r}")
        nn.init.constant_(self.content_encoder.bias, 1 / self.up_kernel**2)

    def kernel_normalizer(self, logits: Tensor) -> Tensor:
        """Return the encoder's output Tensor[N, G*k*k*s*s, H, W] as kernels Tensor[N, G*k*k, s*H, s*W]."""
        return pixel_shuffle(logits, self.scale_factor)
