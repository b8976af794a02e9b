# SPDX-License-Identifier: Apache-2.0
"""Outputs of fixed sizes become the objects that mmdet finds, in pixels of the original image."""

import pytest
import torch
from lively import lively, pictures
from mmdet.structures import DetDataSample
from torch.testing import assert_close

from mmcarafe.apis.formats import in_image, mean_colour, padded
from mmcarafe.deploy.parts import part_of


@pytest.mark.slow
@torch.no_grad()
def test_objects_are_mmdets_in_an_image_of_another_size():
    detector, image = lively("mask-rcnn_r50_fpn"), pictures(1, 128, 160)[0]
    meta = dict(img_shape=(128, 160), ori_shape=(64, 100), scale_factor=(1.6, 2.0), img_id=1)
    sample = DetDataSample(metainfo=meta)
    expected = detector.test_step(dict(inputs=[image], data_samples=[sample.clone()]))[0].pred_instances
    part = part_of(detector, "detector", [192, 192])
    outputs = dict(zip(part.outputs, part.module.eval()(image[None]), strict=True))
    found = in_image(outputs, sample, detector.test_cfg.rcnn.mask_thr_binary)
    assert len(found) == len(expected) > 20
    assert_close(found.bboxes, expected.bboxes)
    assert_close(found.scores, expected.scores)
    assert found.labels.equal(expected.labels)
    assert found.masks.shape == expected.masks.shape == (len(found), 64, 100)
    assert (found.masks != expected.masks).float().mean() < 1e-4 < expected.masks.float().mean()


def test_maps_of_the_padded_input_become_masks_of_the_original():
    """Positive in the left half of the image, which is not that of its padded input."""
    meta = dict(img_shape=(60, 80), ori_shape=(30, 40), scale_factor=(2.0, 2.0), img_id=1)
    maps = (10 - torch.arange(24.0) - 0.5).expand(1, 2, 16, 24)  # 10 of 24 columns, of 4 pixels each
    outputs = dict(boxes=torch.tensor([[[0, 0, 40, 64], [0] * 4]]), scores=torch.tensor([[0.9, 0.0]]))
    outputs |= dict(labels=torch.tensor([[3, -1]]), mask_maps=maps)
    found = in_image(outputs, DetDataSample(metainfo=meta), 0.5)
    assert found.bboxes.tolist() == [[0, 0, 20, 30]] and found.labels.tolist() == [3]
    assert found.masks.shape == (1, 30, 40)
    assert found.masks[..., :20].all() and not found.masks[..., 20:].any()
    outputs["scores"] = torch.zeros(1, 2)
    assert in_image(outputs, DetDataSample(metainfo=meta), 0.5).masks.shape == (0, 30, 40)


def test_an_image_is_filled_up_with_what_normalisation_makes_zero():
    part = part_of(lively("yolox_s"), "detector", [192, 192])
    part.module.flip = True
    part.module.mean = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    image = padded(torch.full((3, 33, 64), 7, dtype=torch.uint8), mean_colour(part))
    assert image.shape == (1, 3, 64, 64)
    assert (image[..., :33, :] == 7).all()
    assert image[0, :, 33:].amax((1, 2)).tolist() == [3, 2, 1]  # BGR, as the mean is RGB
