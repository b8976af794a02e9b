# SPDX-License-Identifier: Apache-2.0
"""Images and categories have the numbers of an annotation file."""

import argparse
import json
from types import SimpleNamespace

import pytest

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
