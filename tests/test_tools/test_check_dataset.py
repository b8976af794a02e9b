# SPDX-License-Identifier: Apache-2.0
"""check_dataset.py as a command, its images' sizes and names, and what training says of the same."""

import gc
import json
import os
import shutil
from pathlib import Path

import pytest
from broken_data import SECOND, encoded, first, picture, sound, write
from commands import CONFIG, SMALL, call, refused
from dataset_parts import agrees, train

from mmcarafe.datasets.checks.kinds import KINDS

SOUND = json.dumps(sound())


def test_the_command_reports_all_at_once(tmp_path):
    data = first(bbox=[100, 100, 10, 10])
    data["annotations"][2]["category_id"] = 99
    write(tmp_path, data, b"")
    args = (tmp_path / "ann.json", "--img-dir", tmp_path / "img", "--config", CONFIG)
    result = call("check_dataset.py", *args, "--out", tmp_path / "out.json", cwd=tmp_path, check=False)
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
        (SOUND.encode("utf-16"), ["--no-images"], "is not UTF-8"),
        (SOUND.encode("utf-8-sig"), ["--no-images"], "is not JSON: Unexpected UTF-8 BOM"),
        (SOUND, ["--no-images", "--out", "."], "--out . cannot be written (Is a directory)"),
        (SOUND, ["--no-images", "--out", "no/out.json"], "--out no/out.json cannot be written (No such file"),
        (SOUND, ["--no-images", "--out", "ann.json"], "--out ann.json is the annotation file"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_wrong_use(content, options, match, tmp_path):
    content = content.encode() if isinstance(content, str) else content
    if content is not None:
        (tmp_path / "ann.json").write_bytes(content)
    result = call("check_dataset.py", "ann.json", *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert match in result.stderr
    assert "Traceback" not in result.stderr
    if content is not None:
        assert (tmp_path / "ann.json").read_bytes() == content


@pytest.mark.parametrize(
    "name", ["x" * 400, "\ud800.png", "a\0b.png", ""], ids=["long", "lone", "nul", "none"]
)
def test_names_that_no_file_can_have(name, tmp_path):
    write(tmp_path, first("images", file_name=name))
    args = ("ann.json", "--img-dir", "img", "--out", "out.json")
    result = call("check_dataset.py", *args, cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert json.loads((tmp_path / "out.json").read_text()).keys() == {"image-missing"}
    agrees(KINDS["image-missing"].training, train, tmp_path)


def test_notes_leave_the_status_at_0(tmp_path):
    write(tmp_path, sound(), encoded(picture(mode="L")))
    out = call("check_dataset.py", "ann.json", "--img-dir", "img", cwd=tmp_path).stdout
    assert "0 errors of 0 kinds, 1 kinds of notes" in out


def test_the_shapes_are_sound(toy):
    for split in ("train", "val"):
        file = f"data/shapes/annotations/instances_{split}2017.json"
        args = (file, "--img-dir", f"data/shapes/{split}2017", "--config", CONFIG)
        assert "0 errors of 0 kinds" in call("check_dataset.py", *args, cwd=toy).stdout


@pytest.mark.skipif("COCO_ROOT" not in os.environ, reason="COCO_ROOT names no folder in COCO's layout")
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_is_sound(split):
    root = Path(os.environ["COCO_ROOT"])
    args = (root / f"annotations/instances_{split}2017.json", "--img-dir", root / f"{split}2017")
    assert "0 errors of 0 kinds" in call("check_dataset.py", *args, cwd=root).stdout


@pytest.mark.parametrize("workers", [0, 1])
def test_training_names_a_broken_image(workers, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1
    )  # s to wait for a worker's end
    shutil.copytree(toy / "data", tmp_path / "data")
    (tmp_path / "data/shapes/train2017/000000000004.png").write_bytes(b"")
    options = [*SMALL, "train_cfg.max_epochs=1", f"train_dataloader.num_workers={workers}"]
    persists = [] if workers else ["train_dataloader.persistent_workers=False"]
    refused("train.py", CONFIG, "--cfg-options", *options, *persists, cwd=tmp_path,
            match="image data/shapes/train2017/000000000004.png (image id 4) cannot be read")  # fmt: skip
    gc.collect()  # ends the worker


RUNS = {  # split, content, or the fields of the first object's that are left out; and what is said
    "evaluator": ("val", "{", "annotations {file} cannot be used (JSONDecodeError"),
    "no-bbox": ("train", "bbox", "annotations {file} of image id 1 cannot be used (KeyError 'bbox')"),
    "no-mask": ("train", "segmentation", ".png (image id 1) cannot be used (KeyError 'mask')"),
}


@pytest.mark.parametrize("name", RUNS)
def test_training_names_wrong_annotations(name, toy, tmp_path):
    split, content, match = RUNS[name]
    shutil.copytree(toy / "data", tmp_path / "data")
    file = f"data/shapes/annotations/instances_{split}2017.json"
    if content.isalpha():
        data = json.loads((tmp_path / file).read_text())
        del data["annotations"][0][content]
        content = json.dumps(data)
    (tmp_path / file).write_text(content)
    refused("train.py", CONFIG, "--cfg-options", *SMALL, "train_cfg.max_epochs=1", cwd=tmp_path,
            match=match.format(file=file))  # fmt: skip


def test_tools_stop_at_a_head_of_another_number_of_classes(toy, tmp_path):
    write(tmp_path, sound())
    options = ["--cfg-options", "model.roi_head.bbox_head.num_classes=5"]
    args = (tmp_path / "ann.json", "--no-images", "--config", CONFIG, *options)
    result = call("check_dataset.py", *args, cwd=toy, check=False)
    assert result.returncode == 1
    assert f"{CONFIG}: train_dataloader.dataset, CocoDataset of data/shapes/annotations/" in result.stdout
    assert "1 errors of 1 kinds" in result.stdout
    match = (
        "model.roi_head.bbox_head.num_classes is 5 (expected 6): train_dataloader.dataset (CocoDataset) has "
        "6 classes (disk, star, ring, ...); change"
    )
    refused("train.py", CONFIG, *options, cwd=toy, match=match)
