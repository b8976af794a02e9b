# SPDX-License-Identifier: Apache-2.0
"""tools/check_dataset.py names every case, and what it says of each is what mmdet does with it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import broken_data as broken
import numpy as np
import pytest
import torch
from broken_data import BOX, FIRST, IMAGES, OBJECTS, SECOND, encoded, first, picture, sound, write
from check_dataset import check_annotations, check_images, read_settings
from dataset_kinds import KINDS, markdown
from demo import read_images
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from test_train_and_test import CONFIG, ROOT, SMALL, refused, tool, toy  # noqa: F401

from mmcarafe.models.loading import ImageError

CFG = Config.fromfile(CONFIG)
SETTINGS = read_settings(str(CONFIG), None)
# have tests of their own
SPECIAL = {"polygon-not-finite", "polygon-part", "class-not-in-file", "rle-not-polygon"}
# what is wrong besides
FOLLOWS = {
    "category-id-twice": {"category-unknown"},
    "class-not-in-file": {"category-unknown"},
    "id-mixed": {"category-unknown", "image-unknown"},
    "field": {"class-not-in-file", "category-unknown", "image-unknown", "nothing-to-train", "no-images"},
}
CASES = [pytest.param(k, d, id=f"{k}-{i}") for k, examples in OBJECTS.items() for i, d in enumerate(examples)]
PICTURES = [
    pytest.param(k, b, id=f"{k}-{i}") for k, contents in IMAGES.items() for i, b in enumerate(contents)
]


def dataset(folder: Path, split: str, steps: dict | None = None, **changes):
    """A split of the config; ``steps`` changes transforms by their type."""
    init_default_scope("mmdet")
    cfg = copy.deepcopy(CFG[f"{split}_dataloader"].dataset)
    cfg.update(data_root=str(folder), ann_file="ann.json", data_prefix=dict(img="img/"), **changes)
    for step in cfg.pipeline:
        step.update((steps or {}).get(step.type, {}))
    return DATASETS.build(cfg)


def train(folder: Path, flips: float = 0.0, masks: dict | None = None, **changes) -> list:
    """The samples of an epoch."""
    steps = dict(RandomFlip=dict(prob=flips), LoadAnnotations=masks or {})
    loaded = dataset(folder, "train", steps, **changes)
    return [loaded[i]["data_samples"] for i in range(len(loaded))]


def evaluate(folder: Path, label: int = 0) -> dict:
    """Metrics where the box of the sound data is found once in each image."""
    loaded = dataset(folder, "val")
    metric = METRICS.build(CFG.val_evaluator | dict(ann_file=str(folder / "ann.json")))
    metric.dataset_meta = loaded.metainfo
    for i in range(len(loaded)):
        sample = loaded[i]["data_samples"]
        x, y, w, h = BOX
        mask = torch.zeros(1, *sample.ori_shape, dtype=torch.bool)
        mask[0, y : y + h, x : x + w] = True
        found = dict(bboxes=torch.tensor([[x, y, x + w, y + h]]), scores=torch.tensor([0.9]),
                     labels=torch.tensor([label]), masks=mask)  # fmt: skip
        sample = dict(img_id=sample.img_id, ori_shape=sample.ori_shape, pred_instances=found)
        metric.process(None, [sample])
    return metric.evaluate(size=len(loaded))


def agrees(stated: str, does, folder: Path):
    """What ``does`` returns; None where it is stated that it stops, and it does."""
    if stated.startswith("refused"):
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever is raised, deep inside
            does(folder)
        return None
    return does(folder)


def found_in(folder: Path, settings=SETTINGS) -> dict:
    found, images = check_annotations(json.loads((folder / "ann.json").read_text()), settings)
    check_images(folder / "img", images, settings, 1, found)
    return found


def test_sound_data_show_nothing(tmp_path):
    write(tmp_path, sound())
    assert not found_in(tmp_path)
    assert [len(sample.gt_instances) for sample in train(tmp_path)] == [2, 2]
    assert evaluate(tmp_path)["coco/segm_mAP"] == 0.5  # one of two classes


def test_every_kind_has_a_case():
    own = {"image-below-min-size", "image-thin", "image-one-wide", "image-large", "image-too-large"}
    assert {*OBJECTS, *IMAGES} | own == {*KINDS}


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_objects(kind, data, tmp_path):
    write(tmp_path, data)
    polygons = {"train_dataloader.dataset.pipeline.1.poly2mask": False}
    found = found_in(
        tmp_path, read_settings(str(CONFIG), polygons) if kind == "rle-not-polygon" else SETTINGS
    )
    assert kind in found
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


@pytest.mark.parametrize(("kind", "content"), PICTURES)
def test_pictures(kind, content, tmp_path):
    write(tmp_path, sound(), content)
    found = found_in(tmp_path)
    assert kind in found
    assert {k for k in found if KINDS[k].severity == "error"} <= {kind}
    agrees(KINDS[kind].training, train, tmp_path)
    agrees(KINDS[kind].evaluation, evaluate, tmp_path)
    skipped = []
    if content is not None:
        list(read_images([tmp_path / "img" / FIRST], skipped, None))
    assert len(skipped) == KINDS[kind].demo.startswith("skipped")


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


def test_an_rle_of_an_image_of_another_size_is_refused(tmp_path):
    write(tmp_path, OBJECTS["rle-not-polygon"][0], IMAGES["image-size"][0])
    for does in (train, evaluate):
        with pytest.raises(ValueError, match="same shape"):
            does(tmp_path)


def test_a_part_of_a_polygon_is_left_out_or_the_object_ignored(tmp_path):
    short, odd, part = OBJECTS["polygon-part"]
    for data, left in ((short, 1), (odd, 1), (part, 2)):
        write(tmp_path, data)
        sample = train(tmp_path)[0]
        assert (len(sample.gt_instances), len(sample.ignored_instances)) == (left, 2 - left)
    assert evaluate(tmp_path)
    write(tmp_path, short)
    with pytest.raises(TypeError):
        evaluate(tmp_path)


def test_masks_as_runs_are_ignored_as_polygons(tmp_path):
    write(tmp_path, OBJECTS["rle-not-polygon"][0])
    sample = train(tmp_path, masks=dict(poly2mask=False))[0]
    assert (len(sample.gt_instances), len(sample.ignored_instances)) == (1, 1)


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_polygon_that_is_not_finite_ends_the_process(number):
    code = (
        "import resource; from pycocotools import mask;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        f"mask.frPyObjects([[float('{number}'), 2., 30., 4., 5., 6.]], 48, 64)"
    )
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return
    assert result.returncode < 0 or b"MemoryError" in result.stderr


def test_sizes_that_filters_and_transforms_cannot_take(tmp_path):
    one = first("images", width=1, height=1)
    pixel = dict(bbox=[0, 0, 1, 1], segmentation=[broken.square(0, 0, 1, 1)])
    one["annotations"] = [a | (pixel if a["image_id"] == 1 else {}) for a in sound()["annotations"]]
    write(tmp_path, one, encoded(picture(1, 1)))
    assert {*found_in(tmp_path)} == {"image-one-wide"}
    with pytest.raises(ValueError, match="stride"):
        train(tmp_path, flips=1.0)
    settings = read_settings(str(CONFIG), {"train_dataloader.dataset.filter_cfg.min_size": 32})
    assert {*found_in(tmp_path, settings)} == {"image-below-min-size"}
    assert len(train(tmp_path, filter_cfg=dict(filter_empty_gt=True, min_size=32))) == 1
    assert evaluate(tmp_path)
    write(tmp_path, first("images", width=3000, height=1), encoded(picture(1, 3000)))
    assert "image-thin" in found_in(tmp_path)
    with pytest.raises(ImageError, match=r"\(image id 1\) is too thin: no pixel is left of 3000 x 1 resized"):
        evaluate(tmp_path)


def test_large_images_are_named_without_being_decoded(tmp_path):
    for size, kind in (((20000, 20000), "image-large"), ((40000, 30000), "image-too-large")):
        whole = encoded(broken.Image.new("1", size))
        write(tmp_path, first("images", width=size[0], height=size[1]), whole)
        assert {k for k in found_in(tmp_path) if k.startswith("image")} == {kind, "image-grey"}
    skipped = []
    assert not list(read_images([tmp_path / "img" / FIRST], skipped, None))
    assert len(skipped) == 1


def test_16_bits_lose_the_lower_eight(tmp_path):
    write(tmp_path, sound(), encoded(broken.Image.fromarray(np.full((48, 64), 255, np.uint16))))
    assert int(dataset(tmp_path, "val")[0]["inputs"].max()) == 0


def test_the_command_reports_all_at_once(tmp_path):
    data = first(bbox=[100, 100, 10, 10])
    data["annotations"][2]["category_id"] = 99
    write(tmp_path, data, b"")
    args = (tmp_path / "ann.json", "--img-dir", tmp_path / "img", "--config", CONFIG)
    result = tool("check_dataset.py", *args, "--out", tmp_path / "out.json", cwd=tmp_path, check=False)
    assert result.returncode == 1
    errors = {"box-outside", "category-unknown", "image-unreadable"}
    assert all(f"error: {kind}" in " ".join(result.stdout.split()) for kind in errors)
    assert "3 errors of 3 kinds" in result.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    assert report.keys() == errors
    (example,) = report["category-unknown"]["found"]
    assert (example["file_name"], example["image_id"], example["annotation_id"]) == (SECOND, 2, 13)


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        (None, ["--no-images"], "does not exist"),
        ("{", ["--no-images"], "is not JSON"),
        ("[]", ["--no-images"], "is not COCO: expected an object"),
        ('{"images": []}', ["--no-images"], "is not COCO: expected a list called categories"),
        ("{}", [], "expected either --img-dir"),
        ("{}", ["--img-dir", "nowhere"], "--img-dir nowhere is no folder"),
        ("{}", ["--no-images", "--config", "nothing.py"], "config nothing.py does not exist"),
    ],
)
def test_wrong_use(content, options, match, tmp_path):
    if content is not None:
        (tmp_path / "ann.json").write_text(content)
    result = tool("check_dataset.py", "ann.json", *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert match in result.stderr
    assert "Traceback" not in result.stderr


def test_notes_leave_the_status_at_0(tmp_path):
    write(tmp_path, sound(), encoded(picture(mode="L")))
    out = tool("check_dataset.py", "ann.json", "--img-dir", "img", cwd=tmp_path).stdout
    assert "0 errors of 0 kinds, 1 kinds of notes" in out


def test_the_shapes_are_sound(toy):  # noqa: F811
    for split in ("train", "val"):
        file = f"data/shapes/annotations/instances_{split}2017.json"
        args = (file, "--img-dir", f"data/shapes/{split}2017", "--config", CONFIG)
        assert "0 errors of 0 kinds" in tool("check_dataset.py", *args, cwd=toy).stdout


@pytest.mark.skipif("COCO_ROOT" not in os.environ, reason="COCO_ROOT names no folder in COCO's layout")
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_is_sound(split):
    root = Path(os.environ["COCO_ROOT"])
    args = (root / f"annotations/instances_{split}2017.json", "--img-dir", root / f"{split}2017")
    assert "0 errors of 0 kinds" in tool("check_dataset.py", *args, cwd=root).stdout


def test_the_guide_has_the_tables():
    assert markdown() in (ROOT / "docs/datasets.md").read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_training_names_a_broken_image(workers, toy, tmp_path):  # noqa: F811
    shutil.copytree(toy / "data", tmp_path / "data")
    (tmp_path / "data/shapes/train2017/000000000004.png").write_bytes(b"")
    options = [*SMALL, "train_cfg.max_epochs=1", f"train_dataloader.num_workers={workers}"]
    persists = [] if workers else ["train_dataloader.persistent_workers=False"]
    refused("train.py", CONFIG, "--cfg-options", *options, *persists, cwd=tmp_path,
            match="image data/shapes/train2017/000000000004.png (image id 4) cannot be read")  # fmt: skip
