# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that export.py writes, each with inputs to trace it with."""

from itertools import chain
from typing import NamedTuple

import torch
from mmcv.cnn.bricks.upsample import PixelShufflePack
from torch import Tensor, nn

from mmcarafe.deploy.network import Preprocessed, image_channels, predicting
from mmcarafe.deploy.segmentors import Segmentor
from mmcarafe.errors import InputError, UnsupportedError
from mmcarafe.layers.upsampler import Upsampler
from mmcarafe.utils.classes import is_a

DENSE = ("SingleStageDetector", "SingleStageInstanceSegmentor", "TwoStageDetector")
INTERPOLATED_CHANNELS = 256
"""Channels to trace an interpolation with, which takes any number."""


class Part(NamedTuple):
    """A module and what it is traced with."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    strides: list[int]  # of each input, in pixels of the image
    outputs: tuple[str, ...] | None = None  # names, where there are some
    scale: int | None = None  # of an upsampler alone, which takes maps of any size

    @property
    def finds_objects(self) -> bool:
        """Tell whether the outputs are detections."""
        return "boxes" in (self.outputs or ())

    @property
    def takes_images(self) -> bool:
        """Tell whether the input is an image, from 0 to 255."""
        return isinstance(self.module, Preprocessed)

    @property
    def takes_levels(self) -> bool:
        """Tell whether the inputs are levels, as many as the backbone gives."""
        return isinstance(self.module, Neck)


class Raw(Preprocessed):
    """Backbone, neck and dense head: Tensor[N, C, H, W], BGR or grey from 0 to 255, to what is predicted."""

    def __init__(self, detector: nn.Module):
        super().__init__(detector)
        heads = (getattr(detector, name, None) for name in ("rpn_head", "bbox_head", "mask_head"))
        self.head = next((head for head in heads if head is not None), None)
        # some RPNs predict in steps of their own
        predicts = self.head is not None and type(self.head).forward is not nn.Module.forward
        if not predicts or not is_a(detector, "mmdet", *DENSE):
            raise InputError(f"{type(detector).__name__} has no dense head to export; try --part neck")

    def forward(self, image: Tensor) -> tuple:
        """Return the outputs of the head for each level."""
        return self.head(self.levels(image))


class Neck(nn.Module):
    """The neck alone, which takes the levels one by one."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.neck = detector.neck

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        """Return the neck's maps."""
        return tuple(self.neck(levels))


def _neck(detector: nn.Module, image: Tensor) -> Part:
    if getattr(detector, "neck", None) is None:
        raise InputError("--part neck: this config has no neck")
    with torch.no_grad():
        levels = detector.backbone(image)
    strides = [image.shape[2] // x.shape[2] for x in levels]
    return Part(Neck(detector), tuple(torch.rand_like(x) for x in levels), strides)


def upsampler_part(layer: nn.Module, height: int, width: int, batch: int = 2) -> Part:
    """Return an upsampler of any type as a part, to be traced with maps of this size and their guides."""
    if isinstance(layer, Upsampler):
        channels, scale = layer.channels, layer.scale_factor
    elif isinstance(layer, nn.ConvTranspose2d):
        channels, scale = layer.in_channels, layer.stride[0]
    else:
        channels, scale = getattr(layer, "in_channels", INTERPOLATED_CHANNELS), int(layer.scale_factor)
    inputs = [torch.rand(batch, channels, height, width)]
    if getattr(layer, "guided", False):
        inputs.append(torch.rand(batch, layer.guide_channels, scale * height, scale * width))
    return Part(layer, tuple(inputs), [], scale=scale)


def _upsampler(detector: nn.Module, image: Tensor) -> Part:
    # a learned one goes before interpolations, which some backbones have for themselves
    kinds = Upsampler, (PixelShufflePack, nn.ConvTranspose2d, nn.Upsample)
    found = chain.from_iterable((m for m in detector.modules() if isinstance(m, kind)) for kind in kinds)
    layer = next(found, None)
    if layer is None:
        raise InputError("--part upsampler: this config has none; select one by upsample_cfg=dict(type=...)")
    return upsampler_part(layer, *(size // 8 for size in image.shape[2:]), batch=len(image))


def _detector(detector: nn.Module, image: Tensor) -> Part:
    from mmcarafe.deploy.detectors import whole  # of mmdet's classes

    try:
        module = whole(detector)
    except UnsupportedError as error:
        raise InputError(f"--part detector: {error}; try another --part") from error
    return Part(module, (image,), [1], module.outputs)


def _segmentor(segmentor: nn.Module, image: Tensor) -> Part:
    try:
        module = Segmentor(segmentor)
    except UnsupportedError as error:
        raise InputError(f"--part segmentor: {error}; try --part neck") from error
    return Part(module, (image,), [1], module.outputs)


OF_ANY = {"neck": _neck, "upsampler": _upsampler}
OF_DETECTORS = {
    "detector": _detector,
    "raw": lambda detector, image: Part(Raw(detector), (image,), [1]),
    **OF_ANY,
}
OF_SEGMENTORS = {"segmentor": _segmentor, **OF_ANY}
PARTS = list(OF_DETECTORS | OF_SEGMENTORS)


def part_of(model: nn.Module, name: str | None, shape: list[int], batch: int = 2) -> Part:
    """Return the part of this name, to be traced with images of this shape; None: the whole model.

    For a batch of any size torch asks to trace two or more: it takes one for a size that is fixed.

    Raises:
        InputError: the model has no such part, or it cannot be exported.
    """
    model = predicting(model)
    parts = OF_SEGMENTORS if is_a(model, "mmseg", "BaseSegmentor") else OF_DETECTORS
    name = name or next(iter(parts))
    if name not in parts:
        raise InputError(f"--part {name}: {type(model).__name__} has none; its parts are {', '.join(parts)}")
    return parts[name](model, torch.rand(batch, image_channels(model), *shape) * 255)
