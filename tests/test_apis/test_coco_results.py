# SPDX-License-Identifier: Apache-2.0
"""What is written of the objects found; images and categories have the numbers of an annotation file."""

import argparse
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmcarafe.apis.coco_results import CocoIds, Detections
from mmcarafe.errors import InputError

SIX = ("a", "b", "c", "d", "e", "f")
COCO = dict(
    images=[
        dict(id=1, file_name="x/1.png"),
        dict(id=2, file_name="y/1.png"),
        dict(id=3, file_name="y/2.png"),
    ],
    categories=[dict(id=i + 7, name=name) for i, name in enumerate(SIX)],
)


def test_numbers_of_an_annotation_file(tmp_path):
    (tmp_path / "ann.json").write_text(json.dumps(COCO))
    ids = CocoIds(str(tmp_path / "ann.json"), SIX)
    assert (ids.image(0, "2.png"), ids.categories["c"]) == (3, 9)
    with pytest.raises(InputError, match=r"have 2 images called 1.png, in several"):
        ids.image(0, "1.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "is not JSON"),
        (b"[]", "is not COCO"),
        (b'{"images": [], "categories": 3}', "expected a list called categories"),
        ('{"images": "\xe9"}'.encode("latin-1"), "is not (JSON|UTF-8)"),
        (json.dumps({**COCO, "images": [[]]}).encode(), r"expected objects with id and file_name, got \[\]"),
        (json.dumps({**COCO, "images": [dict(id=1)]}).encode(), "expected objects with id and file_name"),
        (json.dumps({**COCO, "categories": [dict(name="a")]}).encode(), "expected objects with id and name"),
        (json.dumps({**COCO, "categories": []}).encode(), "has no category 'a'"),
        (
            json.dumps({**COCO, "categories": [*COCO["categories"], dict(id=1, name="b")]}).encode(),
            "has 2 categories 'b'",
        ),
    ],
)
def test_a_file_that_is_not_of_coco_is_refused(content, message, tmp_path):
    (tmp_path / "ann.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        CocoIds(str(tmp_path / "ann.json"), SIX)


def test_several_images_to_detect_may_not_be_one_of_the_file(tmp_path):
    (tmp_path / "ann.json").write_text(json.dumps(COCO))
    inferencer = SimpleNamespace(model=SimpleNamespace(dataset_meta=dict(classes=SIX)), visualizer=None)
    args = argparse.Namespace(score_thr=None, ann_file=str(tmp_path / "ann.json"))
    with pytest.raises(InputError, match=r"2 images to detect are called 2\.png, which is one image there"):
        Detections(inferencer, args, ["2.png", "2.png"], tmp_path)


def test_objects_are_written_as_coco_has_them(tmp_path):
    """Left, top, width and height, each with its own mask; by default those that score 0.3 or more."""
    masks = torch.zeros(3, 12, 16, dtype=torch.bool)
    masks[0, 2:5, 3:9] = masks[1] = masks[2, 6:12, 1:2] = True
    boxes = torch.tensor([[3.0, 2, 9, 5], [0, 0, 16, 12], [1, 6, 2, 12]])
    sample = DetDataSample(metainfo=dict(classes=SIX))
    sample.pred_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([2, 0, 5]), scores=torch.tensor([0.5, 0.25, 0.75]), masks=masks
    )
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=SIX, palette=[(9, 9, 9)] * 6)
    inferencer = SimpleNamespace(model=SimpleNamespace(dataset_meta=dict(classes=SIX)), visualizer=visualizer)
    args = argparse.Namespace(score_thr=None, ann_file=None)
    detections = Detections(inferencer, args, ["a/1.png"], tmp_path)
    detections.add("a/1.png", np.zeros((12, 16, 3), np.uint8), sample)
    detections.close()
    first, last = json.loads((tmp_path / "results.json").read_text())
    for result, n, box in ((first, 0, [3, 2, 6, 3]), (last, 2, [1, 6, 1, 6])):
        assert (coco_mask.decode(result.pop("segmentation")) == masks[n].numpy()).all()
        label = int(sample.pred_instances.labels[n])
        assert result == dict(
            image_id=0, file_name="a/1.png", category_id=label, category=SIX[label], bbox=box,
            score=float(sample.pred_instances.scores[n]),
        )  # fmt: skip
    assert cv2.imread(str(tmp_path / "1.png")).shape == (12, 16, 3)
