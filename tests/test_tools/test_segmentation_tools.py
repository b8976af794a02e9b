# SPDX-License-Identifier: Apache-2.0
"""The commands take segmentors, from training to pictures of kernels; mistakes are named."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from commands import ROOT, call, metrics, refused

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

CONFIG = ROOT / "configs/segmentation/fpn_r18-carafe_shapes.py"
SMALL = "model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))\n"
SHORT = ["train_dataloader.batch_size=2", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
VAL = "data/shapes/val2017"


@pytest.fixture(scope="module")
def config(toy):
    """A small config in a folder with the data."""
    path = toy / "segmentor.py"
    path.write_text(f'_base_ = "{CONFIG}"\n{SMALL}')
    return path


@pytest.fixture(scope="module")
def checkpoint(toy, config):
    """One epoch of training, in mixed precision."""
    call("train.py", config, "--work-dir", "segmentor", "--amp", "--cfg-options", *SHORT, cwd=toy)
    return toy / "segmentor/epoch_1.pth"


def test_training_evaluates_and_resumes(toy, config, checkpoint, tmp_path):
    (scalars,) = checkpoint.parent.glob("*/vis_data/scalars.json")
    assert 0 <= json.loads(scalars.read_text().splitlines()[-1])["mIoU"] <= 100
    shutil.copytree(checkpoint.parent, tmp_path / "on")
    options = [*SHORT, "train_cfg.max_epochs=2"]
    call("train.py", config, "--work-dir", tmp_path / "on", "--resume", "--cfg-options", *options, cwd=toy)
    assert (tmp_path / "on/epoch_2.pth").is_file()


@pytest.mark.parametrize(
    "options", [[], pytest.param(["--tta"], marks=pytest.mark.slow)], ids=["plain", "tta"]
)
def test_a_test_writes_pictures_and_predictions(toy, config, checkpoint, tmp_path, options):
    out = tmp_path / "found.pkl"
    args = ["--work-dir", tmp_path / "work", "--show-dir", tmp_path / "shown", "--out", out, *options]
    call("test.py", config, checkpoint, *args, cwd=toy)
    assert set(metrics(tmp_path / "work")) == {"aAcc", "mIoU", "mAcc", "data_time", "time"}
    found = pickle.loads(out.read_bytes())
    assert len(found) == 3 and "seg_logits" not in found[0]
    assert found[0]["pred_sem_seg"]["data"].shape[-2:] == (160, 160)
    names = sorted(path.name for path in (toy / VAL).iterdir())
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == names
    args[args.index("--show-dir") + 1] = VAL
    refused("test.py", config, checkpoint, *args, cwd=toy, match="which could be overwritten")


def test_the_demo_writes_pictures_and_maps(toy, config, checkpoint, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((64, 200, 3), np.uint8))
    shutil.copy(toy / VAL / "000000000001.png", tmp_path / "one.png")
    args = [tmp_path / "*.png", config, checkpoint, "--batch-size", 2, "--out-dir", tmp_path / "out"]
    said = call("demo.py", *args, cwd=toy).stdout
    assert "2 images, pixels of " in said
    for name, size in (("one.png", (160, 160)), ("wide.png", (64, 200))):
        indices = cv2.imread(str(tmp_path / "out/maps" / name), cv2.IMREAD_UNCHANGED)
        assert indices.shape == size and indices.max() <= 6
        assert cv2.imread(str(tmp_path / "out" / name)).shape[:2] == size
    (tmp_path / "maps").mkdir()
    shutil.move(tmp_path / "one.png", tmp_path / "maps/one.png")
    args = [tmp_path / "maps", config, checkpoint, "--out-dir", tmp_path]
    refused("demo.py", *args, cwd=toy, match=f"--out-dir {tmp_path}/maps holds the input")


@pytest.mark.slow
def test_a_video(toy, config, checkpoint, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for shade in (0, 200):
        writer.write(np.full((64, 64, 3), shade, np.uint8))
    writer.release()
    call("demo.py", tmp_path / "in.mp4", config, checkpoint, "--out-dir", tmp_path / "out", cwd=toy)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["video.mp4"]


def test_operations(toy, config):
    said = call("get_flops.py", config, "--shape", 160, cwd=toy).stdout
    for name in ("backbone", "neck", "decode_head", "together", "of these, CARAFE"):
        assert name in said


@pytest.mark.slow
def test_export(toy, config, tmp_path):
    """``--dynamic`` compares at two other sizes and batches than the traced."""
    pytest.importorskip("onnxscript")
    options = ["--cfg-options", "model.decode_head.upsample_cfg=None"]  # the neck has CARAFE
    args = ["--shape", 192, 192, "--output", tmp_path / "model.onnx", "--dynamic", *options]
    assert "verified" in call("export.py", config, *args, cwd=toy).stdout


def test_pictures_of_kernels(toy, config, checkpoint, tmp_path):
    image = f"{VAL}/000000000001.png"
    args = ["--module", "neck", "--html", tmp_path / "page.html"]
    said = call("visualize_kernels.py", config, checkpoint, image, *args, cwd=toy).stdout
    assert said.startswith("neck: written to") and (tmp_path / "page.html").is_file()
    slide = ["--cfg-options", "model.test_cfg.mode=slide"]
    match = "--cfg-options model.test_cfg.mode=whole"
    refused("visualize_kernels.py", config, checkpoint, image, *args, *slide, cwd=toy, match=match)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["train_dataloader.dataset.data_root=no"], "no/train2017 does not exist; link your data set there"),
        (
            ["train_dataloader.dataset.img_suffix=.jpg"],
            "BaseSegDataset finds no image called *.jpg in data/shapes/train2017: corr",
        ),
        (
            ["model.decode_head.num_classes=5"],
            "model.decode_head.num_classes is 5, and train_",
        ),
        (["load_from=segmentor.py"], "checkpoint segmentor.py cannot be read as weights"),
        (["model.type=FPNHead"], "FPNHead, is no segmentor, which extends mmsegmentation's BaseSegmentor"),
    ],
    ids=["folder", "no images", "classes", "no checkpoint", "no segmentor"],
)
def test_mistakes_in_a_config(toy, config, tmp_path, options, match):
    command = "get_flops.py" if "segmentor" in match and "no segmentor" in match else "train.py"
    work = [] if command == "get_flops.py" else ["--work-dir", tmp_path]
    refused(command, config, *work, "--cfg-options", *options, cwd=toy, match=match)


@pytest.mark.parametrize("command", ["train.py", "test.py"])
def test_a_map_of_an_unknown_class(toy, config, checkpoint, tmp_path, command):
    shutil.copytree(toy / "data/shapes", tmp_path / "data/shapes")
    for split in ("train2017", "val2017"):
        path = tmp_path / f"data/shapes/semantic/{split}/000000000001.png"
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pixels[:2, :3] = 9
        pixels[4] = 255  # which is not to count
        cv2.imwrite(str(path), pixels)
    args = [checkpoint] if command == "test.py" else []
    match = "000000000001.png has the class index 9 in 6 pixels, expected 0 to 6, or 255 where"
    refused(command, config, *args, "--work-dir", "work", cwd=tmp_path, match=match)


def test_what_is_of_detectors_or_of_another_model(toy, config, checkpoint, trained):
    image, detectors = f"{VAL}/000000000001.png", [trained / "epoch_1.pth"]
    match = "--score-thr is for detectors: a segmentor gives each pixel its class"
    refused("demo.py", image, config, checkpoint, "--score-thr", 0.5, cwd=toy, match=match)
    match = "--ann-file is for detectors"
    refused("demo.py", image, config, checkpoint, "--ann-file", "a.json", cwd=toy, match=match)
    match = "--part detector: EncoderDecoder has none; its parts are segmentor, neck, upsampler"
    refused("export.py", config, "--part", "detector", "--shape", 192, 192, cwd=toy, match=match)
    match = "was made by another architecture than this config builds"
    refused("demo.py", image, config, *detectors, cwd=toy, match=match)
    refused("test.py", config, *detectors, "--work-dir", "no", cwd=toy, match=match)
    match = "--tta: the config has no tta_pipeline"
    without = ["--cfg-options", "tta_pipeline=None"]
    refused("test.py", config, checkpoint, "--work-dir", "no", "--tta", *without, cwd=toy, match=match)
    annotations = "data/shapes/annotations/instances_val2017.json"
    match = "whose maps train.py checks while they are read; the checks here are of COCO's files"
    refused("check_dataset.py", annotations, "--no-images", "--config", config, cwd=toy, match=match)


def test_a_model_that_does_not_run_raw_is_not_counted(tmp_path):
    config = "mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py"
    refused(
        "get_flops.py", config, "--shape", 64, cwd=tmp_path, match="does not run on the CPU with an image"
    )
