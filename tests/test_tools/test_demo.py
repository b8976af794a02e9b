# SPDX-License-Identifier: Apache-2.0
"""The demo draws and writes what a detector finds, whatever holds the pictures."""

import json
import resource
import shutil
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from commands import CONFIG, call, refused
from demo import main
from mmdet.apis import DetInferencer
from pycocotools import mask as coco_mask

from mmcarafe.datasets.shapes.drawing import CLASSES


@pytest.fixture
def detector(trained, tmp_path):
    """Config and checkpoint of the toy detector, which finds nothing well: the threshold is 0."""
    small = tmp_path / "small.py"
    small.write_text(
        f"_base_ = {str(CONFIG)!r}\nmodel = dict(backbone=dict(base_channels=8), "
        "neck=dict(in_channels=[8, 16, 32, 64]))\n"
    )
    return small, trained / "epoch_1.pth"


@pytest.fixture
def images(toy, tmp_path):
    """A folder with three pictures of the toy data set."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (
        sorted((toy / "data/shapes").rglob("*.png"))[:3] or sorted((toy / "data/shapes").rglob("*.jpg"))[:3]
    ):
        shutil.copy(path, folder)
    assert len(list(folder.iterdir())) == 3
    return folder


def demo(given, detector, folder, *options):
    options = ("--score-thr", 0, "--threads", 1, "--out-dir", folder / "out", *options)
    return call("demo.py", given, *detector, *options, cwd=folder).stdout


def check(results: list[dict], shape: tuple[int, int]) -> None:
    assert results
    for r in results:
        assert {"image_id", "category_id", "bbox", "score", "segmentation"} <= r.keys()
        assert len(r["bbox"]) == 4 and 0 <= r["score"] <= 1
        assert coco_mask.decode(r["segmentation"]).shape == shape


def test_a_folder_in_batches(detector, images, tmp_path):
    out = demo(images, detector, tmp_path, "--batch-size", 2)
    assert "in 3 images" in out
    results = json.loads((tmp_path / "out/results.json").read_text())
    first = next(images.iterdir())
    check(results, cv2.imread(str(first)).shape[:2])
    assert {r["image_id"] for r in results} == {0, 1, 2}
    assert {r["file_name"] for r in results} == {p.name for p in images.iterdir()}
    for path in images.iterdir():
        drawn = cv2.imread(str(tmp_path / "out" / f"{path.stem}.png"))
        assert (drawn != cv2.imread(str(path))).any()


def test_batches_find_what_single_images_do(detector, images, tmp_path):
    found = []
    for size in (1, 3):
        demo(images, detector, tmp_path, "--batch-size", size)
        found.append(json.loads((tmp_path / "out/results.json").read_text()))
    assert [r["category_id"] for r in found[0]] == [r["category_id"] for r in found[1]]
    assert [r["score"] for r in found[0]] == pytest.approx([r["score"] for r in found[1]], abs=1e-4)


def test_results_carry_the_numbers_of_an_annotation_file(detector, images, tmp_path):
    data = dict(
        images=[dict(id=100 + i, file_name=f"sub/{p.name}") for i, p in enumerate(sorted(images.iterdir()))],
        categories=[dict(id=11 * (i + 1), name=name) for i, name in enumerate(CLASSES)],
    )
    (tmp_path / "ann.json").write_text(json.dumps(data))
    demo(images, detector, tmp_path, "--ann-file", "ann.json")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {r["image_id"] for r in results} == {100, 101, 102}
    assert all(r["category_id"] == 11 * (CLASSES.index(r["category"]) + 1) for r in results)
    data["images"].pop()
    (tmp_path / "ann.json").write_text(json.dumps(data))
    refused("demo.py", images, *detector, "--ann-file", "ann.json", cwd=tmp_path, match="have no image")


def test_a_glob_with_images_that_cannot_be_used(detector, images, tmp_path):
    (images / "a_broken.png").write_bytes(b"no image")
    cv2.imwrite(str(images / "a_thin.png"), np.zeros((1, 3000, 3), np.uint8))
    unused = f"2 images cannot be used and were left out: {images}/a_broken.png, {images}/a_thin.png ("
    refused("demo.py", images / "*.*", *detector, "--out-dir", tmp_path / "out", cwd=tmp_path, match=unused)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_what_was_found_before_an_interruption_is_written(detector, images, tmp_path, monkeypatch):
    detect, calls = DetInferencer.__call__, []

    def interrupted(inferencer, *args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(inferencer, *args, **options)

    monkeypatch.setattr(DetInferencer, "__call__", interrupted)
    options = ["--score-thr", "0", "--threads", "1", "--out-dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["demo.py", str(images), *map(str, detector), *options])
    with pytest.raises(KeyboardInterrupt):
        main()
    assert {r["image_id"] for r in json.loads((tmp_path / "out/results.json").read_text())} == {0, 1}


def make_video(path, images, times=1):
    frames = [cv2.imread(str(p)) for p in sorted(images.iterdir())] * times
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, size)
    for frame in frames:
        writer.write(cv2.resize(frame, size))
    writer.release()
    return frames


def test_a_video(detector, images, tmp_path):
    frames = make_video(tmp_path / "in.mp4", images)
    demo(tmp_path / "in.mp4", detector, tmp_path)
    video = cv2.VideoCapture(str(tmp_path / "out/video.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
    check(json.loads((tmp_path / "out/results.json").read_text()), frames[0].shape[:2])


def test_a_video_that_was_cut_off_is_written_and_said(detector, images, tmp_path):
    make_video(tmp_path / "in.mp4", images, times=4)
    content = bytearray((tmp_path / "in.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - middle)
    (tmp_path / "in.mp4").write_bytes(content)
    options = (*detector, "--out-dir", tmp_path / "out", "--threads", 1)
    refused("demo.py", tmp_path / "in.mp4", *options, cwd=tmp_path, match="of 12 frames could be read")
    assert 0 < cv2.VideoCapture(str(tmp_path / "out/video.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) < 12


@contextmanager
def small_disk(size):
    """While active, no file may exceed so many bytes: as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said(detector, images, tmp_path):
    noise = np.random.default_rng(0)
    for path in images.iterdir():
        cv2.imwrite(str(path), noise.integers(0, 256, (160, 160, 3), np.uint8))
    make_video(tmp_path / "in.mp4", images, times=4)
    options = (*detector, "--threads", 1, "--score-thr", 0.99, "--out-dir", "out")
    for given, match in (
        (images, ".png: File too large; make room"),
        ("in.mp4", "video.mp4 was not written whole (0 of 12 frames)"),
    ):
        with small_disk(16 * 1024):
            refused("demo.py", given, *options, cwd=tmp_path, match=match)


def test_weights_alone_are_given_the_names_of_the_config(detector, images, tmp_path):
    config, checkpoint = detector
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], tmp_path / "raw.pth")
    demo(images, (config, tmp_path / "raw.pth"), tmp_path)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {r["category"] for r in results} <= set(CLASSES)
    assert all(r["category_id"] == CLASSES.index(r["category"]) for r in results)


def test_pictures_of_one_name_are_kept_apart(detector, images, tmp_path):
    first = sorted(images.iterdir())[0]
    cv2.imwrite(str(images / f"{first.stem}.bmp"), cv2.imread(str(first)))
    demo(images, detector, tmp_path)
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_the_images_themselves_are_not_overwritten(detector, images, tmp_path):
    before = {path: path.read_bytes() for path in images.iterdir()}
    links = tmp_path / "links"
    links.mkdir()
    for path in images.iterdir():
        (links / path.name).symlink_to(path)
    for given, out in ((images, images), (links, images), (links, links), (images, links)):
        refused("demo.py", given, *detector, "--out-dir", out, cwd=tmp_path, match="holds the input")
    assert {path: path.read_bytes() for path in images.iterdir()} == before


def test_a_video_itself_is_not_overwritten(detector, images, tmp_path):
    make_video(tmp_path / "video.mp4", images)
    before = (tmp_path / "video.mp4").read_bytes()
    refused("demo.py", "video.mp4", *detector, "--out-dir", ".", cwd=tmp_path, match="holds the input")
    assert (tmp_path / "video.mp4").read_bytes() == before


def test_what_cannot_be_written_is_named(detector, images, tmp_path):
    first = sorted(images.iterdir())[0]
    make_video(tmp_path / "in.mp4", images)
    for name in ("video.mp4", first.name):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for given, out, match in (
        (images, "out", f"{first.name}: Is a directory"),
        ("in.mp4", "out", "out/video.mp4 cannot be written"),
        (images, "file", "--out-dir file: file is no folder"),
    ):
        refused("demo.py", given, *detector, "--out-dir", out, cwd=tmp_path, match=match)


def test_a_device_that_is_not_there_is_named(detector, images, tmp_path):
    refused("demo.py", images, *detector, "--device", "cuda:0", cwd=tmp_path, match="sees no CUDA device")


def test_a_mistake_is_named(detector, images, tmp_path):
    small, checkpoint = detector
    (tmp_path / "empty").mkdir()
    for args, match in (
        (("gone.png", small, checkpoint), "gone.png is no image, folder, glob or video that exists"),
        ((tmp_path / "empty", small, checkpoint), "holds no image"),
        ((images, "gone.py", checkpoint), "config gone.py does not exist"),
        ((images, small, "gone.pth"), "checkpoint gone.pth does not exist"),
        ((images, CONFIG, checkpoint), "was made by another architecture"),
    ):
        refused("demo.py", *args, "--out-dir", tmp_path / "out", cwd=tmp_path, match=match)
