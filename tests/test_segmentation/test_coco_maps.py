# SPDX-License-Identifier: Apache-2.0
"""Maps made of COCO's masks, and data sets without images."""

import json

import cv2
import numpy as np
import pytest
from commands import ROOT

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from pycocotools import mask as coco_mask

from mmcarafe.apis.config import read_config
from mmcarafe.apis.segmentation import use_tta
from mmcarafe.errors import AnnotationError, DataError
from mmcarafe.segmentation import LoadCocoMap
from mmcarafe.visualization.loading import load_image

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]  # x, y


@pytest.fixture
def ann_file(tmp_path):
    """A polygon of category 7, run lengths of category 3 over it, and a crowd."""
    bits = np.zeros((10, 12), np.uint8, order="F")
    bits[4:8, 4:9] = 1
    counts = coco_mask.encode(bits)["counts"].decode()
    runs = dict(counts=[0, 10, 110], size=[10, 12])  # the first column
    objects = [(7, SQUARE, 0), (3, dict(counts=counts, size=[10, 12]), 0), (3, runs, 1)]
    path = tmp_path / "a.json"
    annotations = [
        dict(id=i, image_id=5, category_id=category, segmentation=segmentation, iscrowd=crowd)
        for i, (category, segmentation, crowd) in enumerate(objects, 1)
    ]
    images = [dict(id=5, file_name="1.png"), dict(id=6, file_name="2.png")]
    categories = [dict(id=7, name="a"), dict(id=3, name="b")]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


def load(ann_file, name: str) -> dict:
    return LoadCocoMap(str(ann_file))(dict(img_path=f"train/{name}", ori_shape=(10, 12), seg_fields=[]))


def test_categories_are_numbered_from_one_in_their_order(ann_file):
    expected = np.zeros((10, 12), int)
    expected[2:6, 2:6] = 1
    expected[4:8, 4:9] = 2
    expected[:, 0] = 255
    found = load(ann_file, "1.png")
    np.testing.assert_array_equal(found["gt_seg_map"], expected)
    assert found["seg_fields"] == ["gt_seg_map"] and found["gt_seg_map"].dtype == np.uint8
    assert not load(ann_file, "2.png")["gt_seg_map"].any()


def test_what_cannot_be_made_is_named(ann_file):
    with pytest.raises(DataError, match=r"a\.json has no image 3\.png, which is in the data set's folder"):
        load(ann_file, "3.png")
    data = json.loads(ann_file.read_text())
    data["annotations"][0]["segmentation"] = [[1, 2]]
    broken = ann_file.with_name("broken.json")
    broken.write_text(json.dumps(data))
    with pytest.raises(AnnotationError, match=r"annotations .*broken\.json of image 1\.png cannot be used"):
        load(broken, "1.png")


def test_a_data_set_without_images_is_named(tmp_path):
    with (
        DefaultScope.overwrite_default_scope("mmseg"),
        pytest.raises(DataError, match=r"BaseSegDataset finds no image called \*\.jpg in "),
    ):
        BaseSegDataset(data_root=str(tmp_path), data_prefix=dict(img_path="."))


def test_an_image_of_ones_own_and_views_of_a_test_need_no_other_maps(ann_file, tmp_path):
    cfg = read_config(str(ROOT / "configs/comparison/fpn_r18_nuclei.py"))
    cv2.imwrite(str(tmp_path / "mine.png"), np.full((40, 50, 3), 9, np.uint8))
    with DefaultScope.overwrite_default_scope("mmseg"):
        image, _ = load_image(cfg, str(tmp_path / "mine.png"))
    assert image.shape == (3, 40, 50)
    (tmp_path / "val").mkdir()
    cv2.imwrite(str(tmp_path / "val/1.png"), np.full((10, 12, 3), 9, np.uint8))
    own = dict(type="LoadCocoMap", ann_file=str(ann_file))
    pipeline = [own if step["type"] == own["type"] else step for step in cfg.test_pipeline]
    cfg.test_dataloader.dataset.update(data_root=str(tmp_path), pipeline=pipeline)
    use_tta(cfg)
    with DefaultScope.overwrite_default_scope("mmseg"):
        views = DATASETS.build(cfg.test_dataloader.dataset)[0]["data_samples"]
    assert [view.flip for view in views] == [False, True]
    expected = load(ann_file, "1.png")["gt_seg_map"]
    assert all((view.gt_sem_seg.data.numpy() == expected).all() for view in views)
