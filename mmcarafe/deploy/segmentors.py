# SPDX-License-Identifier: Apache-2.0
"""Segmentors from images to the scores of each pixel, as an exported program wants them."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmcarafe.deploy.network import Preprocessed
from mmcarafe.errors import UnsupportedError
from mmcarafe.utils.classes import is_a


class Segmentor(Preprocessed):
    """An encoder-decoder that scores the classes of each pixel of a whole image.

    Args:
        segmentor (nn.Module): mmsegmentation's EncoderDecoder, with a head that gives one map of scores.

    Raises:
        UnsupportedError: another kind of segmentor, or a head that gives masks of its own.
    """

    outputs = ("scores",)

    def __init__(self, segmentor: nn.Module) -> None:
        name, head = type(segmentor).__name__, getattr(segmentor, "decode_head", None)
        if not is_a(segmentor, "mmseg", "EncoderDecoder") or isinstance(head, nn.ModuleList):
            raise UnsupportedError(f"EncoderDecoder with one decode_head is exported, not {name}")
        if getattr(type(head).predict, "__module__", "") != "mmseg.models.decode_heads.decode_head":
            raise UnsupportedError(
                f"{type(head).__name__} predicts in a way of its own, which is not exported"
            )
        super().__init__(segmentor)
        self.head, self.align_corners = head, segmentor.align_corners

    def forward(self, image: Tensor) -> Tensor:
        """Score the classes of each pixel.

        Args:
            image (Tensor[N, C, H, W]): BGR or grey pixels from 0 to 255.

        Returns:
            Tensor[N, K, H, W]: scores of K classes before a softmax; of a head with one channel, K = 1,
            before a sigmoid.
        """
        scores = self.head(self.levels(image))
        return F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=self.align_corners)
