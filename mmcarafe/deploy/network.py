# SPDX-License-Identifier: Apache-2.0
"""The network of a detector or segmentor: what of it predicts, and the images that it takes."""

import torch
from torch import Tensor, nn

from mmcarafe.utils.classes import is_a

MULTIPLE = 32  # of what mmdet pads the sides of images to, so that all levels are whole
MIN_SIDE = 192  # the coarsest level of what is exported, and of what is compared, must have more than one row
MIN_OPEN = MIN_SIDE - MULTIPLE  # the smallest side that a model of open sizes takes


class _ReachedError(Exception):
    """A forward pass came to where its input is looked at."""


def predicting(model: nn.Module) -> nn.Module:
    """Return the detector that predicts: of a semi-supervised one the teacher or the student in it."""
    if not is_a(model, "mmdet", "SemiBaseDetector"):
        return model
    detector = getattr(model, model.semi_test_cfg.get("predict_on", "teacher"))
    detector.data_preprocessor = model.data_preprocessor.data_preprocessor
    return detector


def image_channels(detector: nn.Module) -> int:
    """Return how many channels the images of a detector have: as many as its first convolution then takes.

    That may be a multiple: YOLOX puts pixels that lie beside each other into channels.
    """
    first = next((module for module in detector.backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return 3

    def look(convolution: nn.Module, inputs: tuple[Tensor]) -> None:
        raise _ReachedError(inputs[0].shape[1])

    handle = first.register_forward_pre_hook(look)
    try:
        detector.backbone(torch.zeros(1, 3, 64, 64, device=first.weight.device))
    except _ReachedError as reached:
        return 3 * first.in_channels // reached.args[0]
    finally:
        handle.remove()
    return 3


class Preprocessed(nn.Module):
    """A model's backbone and neck behind its channel order and normalisation.

    Args:
        model (nn.Module): a detector or segmentor, with a data preprocessor of its library's or mmengine's.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, getattr(model, "neck", None) or nn.Identity()
        preprocessor = model.data_preprocessor
        # mmengine's and mmdet's name for it, and mmsegmentation's
        names = ("_channel_conversion", "channel_conversion")
        self.flip = any(getattr(preprocessor, name, False) for name in names)
        self.register_buffer("mean", getattr(preprocessor, "mean", torch.zeros(1)).view(1, -1, 1, 1))
        self.register_buffer("std", getattr(preprocessor, "std", torch.ones(1)).view(1, -1, 1, 1))

    def levels(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the neck's maps of images, Tensor[N, C, H, W], BGR or grey from 0 to 255."""
        image = image.flip(1) if self.flip else image
        return self.neck(self.backbone((image - self.mean) / self.std))
