# SPDX-License-Identifier: Apache-2.0
"""An exported detector takes images of the channels that its config has."""

import cv2
import numpy as np
import pytest
import torch
from families import mask_rcnn
from torch import nn

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.deploy.network import image_channels
from mmcarafe.deploy.verifying import read_image
from mmcarafe.errors import InputError


class Patches(nn.Module):
    """A backbone of four channels that begins without a convolution of pixels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return (self.layer(nn.functional.pixel_unshuffle(x, 2)),)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_those_of_the_images(channels):
    detector = build_model(mask_rcnn(**{"model.backbone.in_channels": channels}))
    assert image_channels(detector) == channels


def test_pixels_beside_each_other_are_one_channel():
    detector = nn.Module()
    detector.backbone = Patches()
    assert image_channels(detector) == 4
    assert image_channels(build_model(read_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"))) == 3
    detector.backbone = nn.Flatten()
    assert image_channels(detector) == 3


def test_images_to_compare_have_the_channels_of_the_model(tmp_path):
    image = str(tmp_path / "image.png")
    cv2.imwrite(image, np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    grey_pixels = cv2.imread(image, cv2.IMREAD_GRAYSCALE)
    assert torch.equal(read_image(image, [96, 128], 1, batch=2)[1, 0], torch.from_numpy(grey_pixels).float())
    assert torch.equal(
        read_image(image, [96, 128], 3, batch=1)[0].permute(1, 2, 0),
        torch.from_numpy(cv2.imread(image)).float(),
    )
    with pytest.raises(InputError, match="the model takes 4 channels, the image has 3"):
        read_image(image, None, 4, batch=1)
