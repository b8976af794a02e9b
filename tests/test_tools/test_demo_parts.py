# SPDX-License-Identifier: Apache-2.0
"""What the demo is given, reads and may write over, without a model."""

import json
import os

import cv2
import numpy as np
import pytest
from commands import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmcarafe.apis.coco_results import CocoIds
from mmcarafe.apis.config import build_detector, read_config
from mmcarafe.apis.images import find_images
from mmcarafe.apis.inferencer import check_count, check_instances, choose_classes
from mmcarafe.apis.video import Video
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_folder, check_kept, write_file, write_picture

SIX = ("a", "b", "c", "d", "e", "f")


def test_only_files_are_read(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")  # would be waited for
    for given in (tmp_path, tmp_path / "*"):
        skipped = []
        found = find_images(str(given), skipped)
        assert [p.name for p in found if p.suffix != ".txt"] == ["a.JPG", "b.png"]
        assert skipped == [f"{tmp_path}/{name}.png (no file)" for name in ("folder", "link", "pipe")]
    for name in ("a.JPG", "b.png"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="holds no image"):
        find_images(str(tmp_path), [])


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_input_under_another_name_is_kept(link, tmp_path):
    image, out = tmp_path / "in" / "a.png", tmp_path / "out"
    for folder in (image.parent, out):
        folder.mkdir()
    image.write_text("")
    (out / "other.png").write_text("")
    check_kept("--out-dir", out, [image])
    check_kept("--out-dir", tmp_path / "new", [image])
    getattr(out / "b.png", link)(image)
    with pytest.raises(InputError, match=r"--out-dir .*out holds the input .*in/a.png \(as b.png\)"):
        check_kept("--out-dir", out, [image])
    with pytest.raises(InputError, match="holds the input"):
        check_kept("--out-dir", image.parent, [out / "b.png"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/in/it", "link"):
        with pytest.raises(InputError, match="is no folder"):
            check_folder("--out-dir", tmp_path / name)
    check_folder("--out-dir", tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_a_write_that_fails_names_the_file(tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    pixels = np.full((4, 5, 3), (1, 2, 3), np.uint8)
    with pytest.raises(OSError, match=r"No space left on device: '.*full.png'"):
        write_picture(tmp_path / "full.png", pixels)
    with pytest.raises(OSError, match="Is a directory"):
        write_file(tmp_path, b"")
    write_picture(tmp_path / "a.png", pixels)
    assert (cv2.imread(str(tmp_path / "a.png")) == pixels).all()


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


def config(names=None, split="test", kind="CocoDataset"):
    dataset = dict(type=kind, ann_file="a.json")
    own = dict(type="RepeatDataset", times=1, dataset={**dataset, "metainfo": dict(classes=names)})
    loaders = {f"{s}_dataloader": dict(dataset=dataset) for s in ("test", "val", "train")}
    return Config(loaders | ({f"{split}_dataloader": dict(dataset=own)} if names is not None else {}))


def choose(cfg, checkpoint):
    init_default_scope("mmdet")
    return choose_classes(cfg, checkpoint, "config.py", "a.pth")


def meta(**dataset_meta):
    return dict(meta=dict(dataset_meta=dataset_meta), state_dict={})


@pytest.mark.parametrize("split", ["test", "val", "train"])
@pytest.mark.parametrize(
    "checkpoint",
    [
        {}, dict(meta=5), dict(meta=dict(dataset_meta={})), dict(meta=dict(dataset_meta=5)), meta(classes=5),
        meta(classes=list(SIX)), meta(CLASSES=SIX), dict(meta=dict(CLASSES=SIX)),
    ],
    ids=str,
)  # fmt: skip
def test_names_of_the_config(split, checkpoint):
    assert choose(config(SIX, split), checkpoint) == SIX


def test_names_of_the_checkpoint_then_of_the_type_of_data_set():
    assert choose(config(), meta(classes=SIX)) == SIX
    assert choose(config(kind="VOCDataset"), {})[:2] == ("aeroplane", "bicycle")
    assert choose(Config(), meta(classes=SIX)) == SIX
    with pytest.raises(InputError, match="names the classes; add"):
        choose(Config(), meta(classes=[]))


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"for other classes \(2: x, y\) than .* \(6: a, b, c, ...\)"):
        choose(config(SIX), meta(classes=("x", "y")))
    with pytest.raises(InputError, match=r"has metainfo.classes='disk', expected a list of names"):
        choose(config("disk"), {})


@pytest.mark.parametrize("kind", ["two stages", "cascade", "one stage"])
def test_as_many_names_as_classes(kind):
    model, head = nn.Module(), nn.Module()
    head.num_classes = 6
    if kind == "one stage":
        model.bbox_head = head
    else:
        model.roi_head = nn.Module()
        model.roi_head.bbox_head = nn.ModuleList([head]) if kind == "cascade" else head
    check_count(model, SIX, "config.py", "a.pth")
    with pytest.raises(InputError, match=r"the model has 6 classes, .* give names for 1 \(1: a\)"):
        check_count(model, SIX[:1], "config.py", "a.pth")


def test_a_panoptic_model_is_refused():
    for name in ("panoptic-fpn_r50_fpn-carafe_1x_coco", "mask2former_r50_carafe_8xb2-lsj-50e_coco"):
        model = build_detector(read_config(str(ROOT / "configs/carafe" / f"{name}.py")))
        if name.startswith("mask2former"):
            check_instances(model, name)  # this one is configured for objects
            model.panoptic_fusion_head.test_cfg["instance_on"] = False
        with pytest.raises(InputError, match="builds a panoptic model"):
            check_instances(model, name)


@pytest.mark.parametrize(
    ("suffix", "code"), [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v"), ("webm", "VP80")]
)
def test_frames_that_are_missing(suffix, code, tmp_path):
    path = tmp_path / f"a.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(12):
        writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    video = Video(str(path))
    assert [name for name, _ in video.frames()] == [f"frame {i}" for i in range(12)]
    video.check()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if suffix == "mp4":  # of which the list of frames is at the end
        with pytest.raises(InputError, match=r"cannot be read$"):
            Video(str(path))
        return
    video = Video(str(path))
    assert 1 < len(list(video.frames())) < 12
    with pytest.raises(InputError, match=f"{video.count} of 12 frames could be read"):
        video.check()


def test_frames_that_were_not_counted(tmp_path):
    def check(name, expected, count, last):
        video = object.__new__(Video)
        video.path, video.fps, video.expected, video.count, video.last = name, 10, expected, count, last
        video.check()

    check("a.avi", 0, 3, 0.2)
    check("a.mp4", 11, 12, 1.1)
    check("a.mkv", 120, 30, 11.0)  # the rate varies
    for name, expected, count, last, message in (
        ("a.mkv", 120, 30, 9.0, "30 of 120 frames"),
        ("a.mkv", 12, 0, 0.0, "0 of 12 frames"),
        ("a.avi", 0, 0, 0.0, "no frame"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message} could be read"):
            check(name, expected, count, last)
