# SPDX-License-Identifier: Apache-2.0
"""Every problem of annotations is named, and what is said of each is what mmdet or pycocotools does."""

import json
from pathlib import Path

import broken_data as broken
import pytest
from broken_data import CATEGORIES, IMAGES, INF, NAN, OBJECTS, SECOND, first, sound, with_parts, write
from commands import CONFIG, ROOT
from dataset_parts import SETTINGS, agrees, ends, evaluate, found_in, train

from mmcarafe.apis.config import read_config
from mmcarafe.datasets.checks.findings import table
from mmcarafe.datasets.checks.kinds import KINDS, SECTIONS, markdown
from mmcarafe.datasets.checks.settings import read_settings
from mmcarafe.errors import AnnotationError

# have tests of their own
SPECIAL = {"polygon-not-finite", "polygon-part", "class-not-in-file", "rle-not-polygon"}
# what is wrong besides
FOLLOWS = {
    "category-id-twice": {"category-unknown"},
    "class-not-in-file": {"category-unknown"},
    "id-mixed": {"category-unknown", "image-unknown"},
    "field": {
        "class-not-in-file",
        "category-unknown",
        "image-unknown",
    },  # of a name or id that cannot be used
}
CASES = [pytest.param(k, d, id=f"{k}-{i}") for k, examples in OBJECTS.items() for i, d in enumerate(examples)]


def test_sound_data_show_nothing(tmp_path):
    write(tmp_path, sound())
    assert not found_in(tmp_path)
    assert [len(sample.gt_instances) for sample in train(tmp_path)] == [2, 2]
    assert evaluate(tmp_path)["coco/segm_mAP"] == 0.5  # one of two classes


def test_every_kind_has_a_case():
    own = {"image-below-min-size", "image-thin", "image-one-wide", "image-large", "image-too-large"}
    assert {*OBJECTS, *IMAGES, *SECTIONS["The config"]} | own == {*KINDS}


def test_what_is_lost_wrong_or_refused_is_an_error():
    words = {"used", "skipped", "lost", "wrong", "refused", "-"}
    for name, kind in KINDS.items():
        first = {text.split(":")[0] for text in (kind.training, kind.evaluation)}
        assert first | {kind.demo.split(":")[0]} <= words, name
        assert kind.severity == ("error" if first & {"lost", "wrong", "refused"} else "note"), name


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_objects(kind, data, tmp_path):
    write(tmp_path, data)
    polygons = {"train_dataloader.dataset.pipeline.1.poly2mask": False}
    found = found_in(
        tmp_path, read_settings(read_config(str(CONFIG), polygons)) if kind == "rle-not-polygon" else SETTINGS
    )
    assert kind in found
    assert table(found).row_count == len(found)
    assert {k for k in found if KINDS[k].severity == "error"} <= {kind} | FOLLOWS.get(kind, set())
    if kind in SPECIAL:
        return
    samples = agrees(KINDS[kind].training, train, tmp_path)
    agrees(KINDS[kind].evaluation, evaluate, tmp_path)
    objects = sum(not ann.get("iscrowd") for ann in data["annotations"])
    word = KINDS[kind].training.split(":")[0]
    if word == "used" and kind != "id-mixed":
        assert sum(len(sample.gt_instances) for sample in samples) == objects
    if word == "lost":
        assert sum(len(sample.gt_instances) for sample in samples) < objects


@pytest.mark.parametrize(
    "value", [None, "", "x", [], {"a": 1}, -1, 10**400, broken.NAN], ids=lambda v: repr(v)[:8]
)
@pytest.mark.parametrize("part", ["images", "categories", "annotations"])
def test_whatever_a_field_holds(part, value, tmp_path):
    for field in sound()[part][0]:
        data = sound()
        data[part][0][field] = value
        write(tmp_path, data)
        found = found_in(tmp_path)
        for does in (train, evaluate):
            try:
                does(tmp_path)
            except Exception:
                assert any(KINDS[kind].severity == "error" for kind in found), field


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("class-order", {4, 5}),
        ("class-not-in-file", {0}),  # that of the second class is 1
        ("category-name-twice", {0, 1, 6}),  # of six classes: 6 is background
        ("category-id-twice", {1}),
    ],
)
def test_labels_that_are_wrong(kind, labels, tmp_path):
    write(tmp_path, OBJECTS[kind][0])
    assert {int(label) for sample in train(tmp_path) for label in sample.gt_instances.labels} == labels


def test_a_missing_class_ends_evaluation_once_the_last_is_found(tmp_path):
    write(tmp_path, OBJECTS["class-not-in-file"][0])
    assert evaluate(tmp_path, 4)
    with pytest.raises(IndexError):
        evaluate(tmp_path, 5)


def test_an_image_id_twice_moves_the_objects(tmp_path):
    write(tmp_path, OBJECTS["image-id-twice"][0])
    samples = train(tmp_path)
    assert [Path(sample.img_path).name for sample in samples] == [SECOND, SECOND]
    assert [len(sample.gt_instances) for sample in samples] == [2, 2]


def test_a_match_with_annotation_0_counts_as_none(tmp_path):
    data = sound()
    write(tmp_path, data)
    assert evaluate(tmp_path)["coco/bbox_mAP_50"] == 0.5
    data["annotations"][0]["id"] = 0
    write(tmp_path, data)
    assert evaluate(tmp_path)["coco/bbox_mAP_50"] < 0.5


def test_masks_that_are_wrong(tmp_path):
    for data in OBJECTS["mask-empty"]:
        write(tmp_path, data)
        masks = train(tmp_path)[0].gt_instances.masks.masks
        assert sorted(int(mask.sum()) for mask in masks) == [0, 320]


def test_a_part_of_a_polygon_is_left_out_or_the_object_ignored(tmp_path):
    short, odd, part, *shorter = OBJECTS["polygon-part"]
    for data, left in ((short, 1), (odd, 1), (part, 2)):
        write(tmp_path, data)
        sample = train(tmp_path)[0]
        assert (len(sample.gt_instances), len(sample.ignored_instances)) == (left, 2 - left)
    assert evaluate(tmp_path)
    for data in (short, *shorter):
        write(tmp_path, data)
        with pytest.raises(AnnotationError, match=r"TypeError|input type is not supported"):
            evaluate(tmp_path)


def test_masks_as_runs_are_ignored_as_polygons(tmp_path):
    write(tmp_path, OBJECTS["rle-not-polygon"][0])
    sample = train(tmp_path, masks=dict(poly2mask=False))[0]
    assert (len(sample.gt_instances), len(sample.ignored_instances)) == (1, 1)


@pytest.mark.parametrize("polygon", [[NAN, 2, 30, 4, 5, 6], [INF, 2, 30, 4, 5, 6], broken.zigzag(60)],
                         ids=["nan", "inf", "zigzag"])  # fmt: skip
def test_a_polygon_that_is_not_finite_ends_the_process(polygon):
    assert ends(f"nan, inf = float('nan'), float('inf'); mask.frPyObjects([{polygon}], 48, 64)")


def test_the_longest_outline_that_is_no_problem_does_not(tmp_path):
    longest = "[v for i in range(20000) for v in ((i % 2) * 49.0, i % 48)]"  # 980000 pixels
    write(tmp_path, first(segmentation=[eval(longest)]))
    assert "polygon-not-finite" not in found_in(tmp_path)
    assert not ends(f"mask.frPyObjects([{longest}], 48, 64)")


def test_negative_runs_hang_pycocotools():
    run = "dict(size=[48, 64], counts=b'0O0O' * 50)"
    full = "mask.encode(np.ones((48, 64), np.uint8, order='F'))"
    assert ends(f"import numpy as np; mask.iou([{full}], [{run}], [0])")


def test_true_marks_a_crowd_as_1_does(tmp_path):
    seen = []
    for value in (1, True):
        write(tmp_path, first(iscrowd=value))
        assert not found_in(tmp_path)
        samples = train(tmp_path)
        seen.append(([len(sample.gt_instances) for sample in samples], evaluate(tmp_path)))
    assert seen[0] == seen[1]
    assert seen[0][0] == [1, 2]


def test_a_polygon_of_strings_is_used_only_where_it_is_drawn(tmp_path):
    write(tmp_path, OBJECTS["mask-text"][0])
    assert int(train(tmp_path)[0].gt_instances.masks.masks[0].sum()) == 320
    assert evaluate(tmp_path)["coco/segm_mAP"] == 0.5
    with pytest.raises(TypeError):
        train(tmp_path, masks=dict(poly2mask=False), flips=1.0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_training_refuses_other_encodings_too(encoding, tmp_path):
    write(tmp_path, sound())
    (tmp_path / "ann.json").write_bytes(json.dumps(sound()).encode(encoding))
    for does in (train, evaluate):
        with pytest.raises(AnnotationError, match=r"ann.json cannot be used .(Unicode|JSON)DecodeError"):
            does(tmp_path)


def test_the_guide_has_the_tables():
    assert markdown() in (ROOT / "docs/datasets.md").read_text()


def test_a_missing_field_hides_nothing_else(tmp_path):
    """As converters write it: no area in any annotation, no width in any image."""
    data = sound()
    data["annotations"][0] |= dict(bbox=[100, 100, 10, 10], category_id=99, segmentation=[])
    for ann in data["annotations"]:
        del ann["area"], ann["iscrowd"]
    write(tmp_path, data)
    expected = {"field": 4, "iscrowd": 4, "box-outside": 1, "category-unknown": 1, "mask-missing": 1}
    assert {kind: len(examples) for kind, examples in found_in(tmp_path).items()} == expected
    data = sound()
    for image in data["images"]:
        del image["width"]
    write(tmp_path, data)
    assert {kind: len(examples) for kind, examples in found_in(tmp_path).items()} == {"field": 2}


def test_a_category_without_objects_is_left_alone(tmp_path):
    """Exports have one for the whole data set."""
    write(tmp_path, with_parts(categories=[dict(id=0, name="cells-xyz"), *CATEGORIES]))
    assert not found_in(tmp_path)
    assert [len(sample.gt_instances) for sample in train(tmp_path)] == [2, 2]


def test_some_boxes_over_the_edge_are_no_corners(tmp_path):
    write(tmp_path, first(bbox=[40, 30, 60, 46]))
    assert {*found_in(tmp_path)} == {"box-over-edge"}


def test_boxes_that_are_corners_of_nothing(tmp_path):
    flat = with_parts(annotations=[a | dict(bbox=[40, 0.2, 60, 0.5]) for a in sound()["annotations"]])
    write(tmp_path, flat)
    assert {*found_in(tmp_path)} == {"box-corners", "box-empty"}


def test_nothing_to_train_is_said_beside_an_id_that_is_taken_twice(tmp_path):
    images = [*sound()["images"], sound()["images"][0]]
    write(tmp_path, with_parts(images=images, annotations=[]))
    assert "nothing-to-train" in found_in(tmp_path)
