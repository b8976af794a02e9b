# SPDX-License-Identifier: Apache-2.0
"""Images of any size as an exported detector takes them, and what it finds as objects of the original."""

import math

import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmcarafe.deploy.network import MIN_OPEN, MULTIPLE
from mmcarafe.deploy.one_stage import TOOD, YOLOX, RTMDetIns
from mmcarafe.deploy.parts import Part


def whole_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of what a file takes in place of an image of this size."""
    height, width = (max(MIN_OPEN, -(-side // MULTIPLE) * MULTIPLE) for side in size)
    return height, width


def padded(image: Tensor, mean: Tensor) -> Tensor:
    """Return a batch of the image, Tensor[1, C, H, W], filled up to multiples of 32 with the mean colour."""
    (height, width), (down, across) = image.shape[1:], whole_size(image.shape[1:])
    return F.pad(image.float() - mean, (0, across - width, 0, down - height))[None] + mean


def resized(image: Tensor, sample: DetDataSample) -> tuple[Tensor, DetDataSample]:
    """Return a batch of the image, resized to multiples of 32, and its sample with the factor."""
    size = whole_size(image.shape[1:])
    (height, width), (across, down) = image.shape[1:], sample.scale_factor
    sample = sample.clone()
    sample.set_metainfo(
        dict(img_shape=size, scale_factor=(across * size[1] / width, down * size[0] / height))
    )
    return F.interpolate(image[None].float(), size, mode="bilinear"), sample


def mean_colour(part: Part) -> Tensor:
    """Return the mean of the images that the part takes, Tensor[C, 1, 1], in their order of channels."""
    mean = part.module.mean[0]
    return mean.flip(0) if part.module.flip else mean


def in_image(
    outputs: dict[str, Tensor], sample: DetDataSample, mask_thr: float, kind: type = nn.Module
) -> InstanceData:
    """Turn outputs for one image, by name, into objects of the original, as mmdet does with its own.

    ``kind`` is the class of the exported module: mmdet does not clip boxes of YOLOX and TOOD to the image,
    and cuts masks of RTMDet-Ins after they are resized to the original, where its pipelines pad.
    """
    found = InstanceData(**{name: t[0][outputs["scores"][0] > 0] for name, t in outputs.items()})
    (height, width), (down, across) = sample.ori_shape[:2], sample.img_shape[:2]
    boxes = found.boxes
    if not issubclass(kind, (YOLOX, TOOD)):
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([across, down, across, down]))
    boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    objects = InstanceData(bboxes=boxes, scores=found.scores, labels=found.labels)
    if not {"masks", "mask_maps"} & set(outputs):
        return objects
    objects.masks = boxes.new_zeros((len(boxes), height, width), dtype=torch.bool)
    if not len(boxes):
        return objects
    if "masks" in outputs:
        for number in range(len(boxes)):  # one by one, as mmdet does on a CPU
            one = slice(number, number + 1)
            pasted, place = _do_paste_mask(found.masks[one, None], boxes[one], height, width)
            objects.masks[(one, *place)] = pasted >= mask_thr
        return objects
    maps = F.interpolate(found.mask_maps[None], whole_size((down, across)), mode="bilinear")
    if issubclass(kind, RTMDetIns):
        factors = sample.scale_factor  # of width and height, which mmdet takes in this order
        size = [math.ceil(side / factor) for side, factor in zip(maps.shape[2:], factors, strict=True)]
        maps = F.interpolate(maps, size, mode="bilinear")[..., :height, :width]
    else:
        maps = F.interpolate(maps[..., :down, :across], (height, width), mode="bilinear")
    objects.masks = maps[0] > 0
    return objects
