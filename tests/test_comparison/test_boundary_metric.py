# SPDX-License-Identifier: Apache-2.0
"""Boundary AP is that of a case computed by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from mmcarafe.comparison.boundary_metric import BoundaryCocoMetric, boundary

SIZE = (30, 40)  # a diagonal of 50 pixels


def square(top: int, left: int, side: int) -> dict:
    pixels = np.zeros(SIZE, np.uint8, order="F")
    pixels[top : top + side, left : left + side] = 1
    return rle.encode(pixels)


def test_boundary_is_a_band_inside_the_mask():
    band = rle.decode(boundary(square(5, 5, 20), 3 / 50))
    inner = np.zeros(SIZE, bool)
    inner[8:22, 8:22] = True  # 3 pixels less on each side
    assert (band == (rle.decode(square(5, 5, 20)) & ~inner)).all()


def test_boundary_is_along_the_border_of_the_image_too_and_at_least_a_pixel_wide():
    band = rle.decode(boundary(square(0, 0, 20), 1e-6))
    assert band.sum() == 20**2 - 18**2
    assert band[0, :20].all() and band[:20, 0].all()


@pytest.fixture
def metric(tmp_path) -> BoundaryCocoMetric:
    """A square of 20 x 20 pixels in one image, and a boundary of 3 pixels."""
    truth = square(5, 5, 20)
    annotation = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    annotation["segmentation"] = dict(truth, counts=truth["counts"].decode())
    image = dict(id=1, file_name="1.png", height=SIZE[0], width=SIZE[1])
    file = tmp_path / "truth.json"
    file.write_text(
        json.dumps(dict(images=[image], annotations=[annotation], categories=[dict(id=1, name="square")]))
    )
    metric = BoundaryCocoMetric(str(file), metric=["bbox", "segm"], dilation_ratio=3 / 50)
    metric.dataset_meta = dict(classes=("square",))
    return metric


def evaluate(metric: BoundaryCocoMetric, *masks: dict) -> dict:
    one = dict(img_id=1, scores=np.ones(len(masks)), labels=np.zeros(len(masks), int), masks=list(masks))
    one["bboxes"] = np.array([[5.0, 5.0, 25.0, 25.0]] * len(masks)).reshape(-1, 4)
    return metric.compute_metrics([(dict(width=SIZE[1], height=SIZE[0], img_id=1), one)])


def test_a_mask_one_pixel_beside_the_truth(metric):
    # masks: 19 * 20 of 21 * 20 pixels, IoU 0.905. Bands: of 204 pixels each, they share 19 in each of 6 rows
    # and 4 in each of 14, which is 170 of 238, 0.714. So 9 and 5 of the 10 thresholds are reached.
    found = evaluate(metric, square(5, 6, 20))
    assert found["segm_mAP"] == pytest.approx(0.9, abs=1e-3)
    assert found["boundary_mAP"] == pytest.approx(0.5, abs=1e-3)
    assert (found["boundary_mAP_50"], found["boundary_mAP_75"]) == (1, 0)
    assert (found["boundary_mAP_s"], found["boundary_mAP_m"]) == (pytest.approx(0.5, abs=1e-3), -1)


def test_the_truth_itself_and_nothing(metric):
    found = evaluate(metric, square(5, 5, 20))
    assert (found["bbox_mAP"], found["segm_mAP"], found["boundary_mAP"]) == (1, 1, 1)
    assert "boundary_mAP" not in evaluate(metric)


def test_the_smaller_of_the_two_counts(metric):
    # the whole square's outline, but nothing inside of it: the bands are equal, the masks are not
    hollow = boundary(square(5, 5, 20), 3 / 50)
    found = evaluate(metric, hollow)
    assert found["segm_mAP_50"] == 1  # 204 of 400 pixels
    assert found["boundary_mAP"] <= found["segm_mAP"]
