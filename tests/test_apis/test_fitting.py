# SPDX-License-Identifier: Apache-2.0
"""Outputs of fixed sizes become the objects that mmdet finds, in pixels of the original image."""

import pytest
import torch
from lively import lively, pictures
from mmdet.structures import DetDataSample
from torch.testing import assert_close

from mmcarafe.apis.fitting import in_image, mean_colour, padded, resized
from mmcarafe.deploy.one_stage import YOLOX
from mmcarafe.deploy.parts import part_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "size", "original", "factors"),
    [
        ("mask-rcnn_r50_fpn", (128, 160), (64, 100), (1.6, 2.0)),
        ("rtmdet-ins_s", (192, 192), (64, 96), (2.0, 2.0)),  # padded by its pipeline, with img_shape of both
    ],
)
@torch.no_grad()
def test_objects_are_mmdets_in_an_image_of_another_size(start, size, original, factors):
    detector, image = lively(start), pictures(1, *size)[0]
    meta = dict(img_shape=size, ori_shape=original, scale_factor=factors, img_id=1)
    sample = DetDataSample(metainfo=meta)
    expected = detector.test_step(dict(inputs=[image], data_samples=[sample.clone()]))[0].pred_instances
    part = part_of(detector, "detector", [192, 192])
    outputs = dict(zip(part.outputs, part.module.eval()(image[None]), strict=True))
    found = in_image(outputs, sample, 0.5, type(part.module))
    assert len(found) == len(expected) > 20
    assert_close(found.bboxes, expected.bboxes)
    assert_close(found.scores, expected.scores)
    assert found.labels.equal(expected.labels)
    assert found.masks.shape == expected.masks.shape == (len(found), *original)
    assert (found.masks != expected.masks).float().mean() < 1e-4 < expected.masks.float().mean()


def test_maps_of_the_padded_input_become_masks_of_the_original():
    """Positive in the left half of the image, which is not that of its padded input."""
    meta = dict(img_shape=(156, 176), ori_shape=(78, 88), scale_factor=(2.0, 2.0), img_id=1)
    maps = (22 - torch.arange(48.0) - 0.5).expand(1, 2, 40, 48)  # 22 of 48 columns, of 4 pixels each
    outputs = dict(boxes=torch.tensor([[[0, 0, 88, 160], [0] * 4]]), scores=torch.tensor([[0.9, 0.0]]))
    outputs |= dict(labels=torch.tensor([[3, -1]]), mask_maps=maps)
    found = in_image(outputs, DetDataSample(metainfo=meta), 0.5)
    assert found.bboxes.tolist() == [[0, 0, 44, 78]] and found.labels.tolist() == [3]
    assert found.masks.shape == (1, 78, 88)
    assert found.masks[..., :44].all() and not found.masks[..., 44:].any()
    outputs["scores"] = torch.zeros(1, 2)
    assert in_image(outputs, DetDataSample(metainfo=meta), 0.5).masks.shape == (0, 78, 88)


def test_boxes_are_clipped_where_mmdet_clips_them():
    meta = dict(img_shape=(160, 160), ori_shape=(80, 80), scale_factor=(2.0, 2.0), img_id=1)
    outputs = dict(boxes=torch.tensor([[[-10.0, 8, 170, 160]]]), scores=torch.ones(1, 1))
    outputs["labels"] = torch.zeros(1, 1, dtype=torch.int64)
    sample = DetDataSample(metainfo=meta)
    assert in_image(outputs, sample, 0.5).bboxes.tolist() == [[0, 4, 80, 80]]
    assert in_image(outputs, sample, 0.5, YOLOX).bboxes.tolist() == [[-5, 4, 85, 80]]


def test_an_image_is_resized_with_its_factor():
    sample = DetDataSample(metainfo=dict(img_shape=(170, 200), ori_shape=(85, 100), scale_factor=(2.0, 2.0)))
    image, fitted = resized(torch.ones(3, 170, 200, dtype=torch.uint8), sample)
    assert image.shape == (1, 3, 192, 224) and fitted.img_shape == (192, 224)
    outputs = dict(boxes=torch.tensor([[[0.0, 0, 224, 192]]]), scores=torch.ones(1, 1))
    outputs["labels"] = torch.zeros(1, 1, dtype=torch.int64)
    assert_close(in_image(outputs, fitted, 0.5).bboxes, torch.tensor([[0.0, 0, 100, 85]]))
    assert sample.img_shape == (170, 200), "the one given is not changed"


def test_an_image_is_filled_up_with_what_normalisation_makes_zero():
    part = part_of(lively("yolox_s"), "detector", [192, 192])
    part.module.flip = True
    part.module.mean = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    image = padded(torch.full((3, 161, 192), 7, dtype=torch.uint8), mean_colour(part))
    assert image.shape == (1, 3, 192, 192)
    assert (image[..., :161, :] == 7).all()
    assert image[0, :, 161:].amax((1, 2)).tolist() == [3, 2, 1]  # BGR, as the mean is RGB
    assert padded(torch.ones(3, 33, 64), mean_colour(part)).shape == (1, 3, 160, 160), "no smaller is taken"
