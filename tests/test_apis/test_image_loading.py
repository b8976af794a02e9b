# SPDX-License-Identifier: Apache-2.0
"""Images and frames come to a detector as its config's pipeline loads them."""

import cv2
import numpy as np
import pytest
from families import grey, mask_rcnn, written

from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.visualization import to_bgr


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    return str(path)


def test_files_and_frames_are_loaded_as_the_pipeline_says(image, tmp_path):
    pixels = cv2.imread(image)
    for cfg, shape, kind in ((grey(), (96, 128), np.float32), (mask_rcnn(), (96, 128, 3), np.uint8)):
        inferencer = Inferencer(*written(cfg, tmp_path), "cpu")
        loaded, taken = inferencer.load(dict(img_path=image))["img"], inferencer.take(pixels)["img"]
        assert loaded.shape == taken.shape == shape and loaded.dtype == taken.dtype == kind
        assert np.abs(loaded.astype(float) - taken).max() <= 1


def test_pictures_of_grey_and_deep_images():
    ramp = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_bgr(ramp) == ramp[..., None]).all() and to_bgr(ramp).shape == (2, 3, 3)
    four = np.dstack([ramp, ramp + 1, ramp + 2, ramp + 3])
    assert (to_bgr(four) == four[..., :3]).all()
    assert to_bgr(np.uint16([[0, 65535, 257]])).tolist() == [[[0] * 3, [255] * 3, [1] * 3]]
    assert (to_bgr(ramp.astype(np.float32)) == to_bgr(ramp)).all()
