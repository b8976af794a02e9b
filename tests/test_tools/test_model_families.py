# SPDX-License-Identifier: Apache-2.0
"""Every tool takes every structure of detectors that mmdet has, or says in one sentence why not."""

import json
import re

import cv2
import families
import numpy as np
import pytest
import torch
from demo import main
from families import NOT, grey, mask_rcnn, written
from mmengine.config import Config
from torch import nn

from mmcarafe.analysis.flops import CARAFES, OUTSIDE, Cost, count, total
from mmcarafe.apis.libraries import build_model
from mmcarafe.deploy.network import Preprocessed, predicting
from mmcarafe.deploy.parts import part_of
from mmcarafe.errors import InputError
from mmcarafe.visualization import load_image, look

MASKS = ("grey", "soft_teacher", "cond_inst", "solov2", "queryinst")


# these stand for the others: how images are loaded, nested detectors, queries with masks, no neck
USUAL = ("grey", "soft_teacher", "queryinst", "ssd")


@pytest.fixture(params=[pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in NOT])
def family(request) -> str:
    return request.param


@pytest.fixture
def cfg(family) -> Config:
    """Small images, and whatever scores is found."""
    cfg = getattr(families, family)()
    for settings in (cfg.model.get("test_cfg", {}), cfg.model.get("test_cfg", {}).get("rcnn") or {}):
        if "score_thr" in settings:
            settings.score_thr = 0.0
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (160, 128)
    return cfg


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    return str(path)


def detect(given, cfg, folder, monkeypatch, *options) -> list[dict]:
    command = ["demo.py", str(given), *written(cfg, folder), "--out-dir", str(folder / "out"), *options]
    monkeypatch.setattr("sys.argv", [*command, "--score-thr", "0", "--device", "cpu"])
    main()
    return json.loads((folder / "out/results.json").read_text())


def test_the_demo_finds_objects(cfg, family, image, tmp_path, monkeypatch):
    found = detect(image, cfg, tmp_path, monkeypatch)
    assert found and all(0 <= result["score"] <= 1 for result in found)
    assert any(result["bbox"][2] > 0 and result["bbox"][3] > 0 for result in found)
    assert all(("segmentation" in r) == (family in MASKS) for r in found)
    assert (cv2.imread(str(tmp_path / "out/image.png")) != cv2.imread(image)).any()


def test_every_component_is_counted(cfg, family):
    costs, detector = count(build_model(cfg), [256, 256]), predicting(build_model(cfg))
    assert total(costs).parameters == sum(p.numel() for p in detector.parameters())
    for name, cost in costs.items():
        if name not in (OUTSIDE, CARAFES):
            layers = detector.get_submodule(name).modules()
            works = any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers)
            assert (cost.flops > 0) == works, name
    assert costs.get(OUTSIDE, Cost()) == (Cost(4 * 256) if family == "deformable_detr" else Cost())
    assert (CARAFES in costs) == (family not in ("deformable_detr", "ssd"))
    if family == "soft_teacher":
        assert costs == count(build_model(mask_rcnn()), [256, 256])
    if family == "cascade_rpn":  # as many boxes as are allowed, whatever is proposed
        head = detector.roi_head.bbox_head
        layers = (layer for layer in head.modules() if isinstance(layer, nn.Linear))
        rois = cfg.model.test_cfg.rpn.max_per_img
        assert costs["roi_head.bbox_head"].flops == 2 * rois * sum(layer.weight.numel() for layer in layers)


def test_kernels_are_looked_at(cfg, family, image):
    detector = build_model(cfg)
    detector.init_weights()
    seen = {view.name for view in look(detector, *load_image(cfg, image))}
    parts = dict(
        grey={"neck", "roi_head.mask_head"}, soft_teacher={"student.neck", "student.roi_head.mask_head"},
        sparse_rcnn={"neck"}, queryinst={"neck", "roi_head.mask_head.0"}, cascade_rpn={"neck"}, lad={"neck"},
        deformable_detr=set(), ssd=set(),
    )  # fmt: skip
    if family in parts:
        assert seen == parts[family]
    else:
        assert seen and all(name.startswith("mask_head.mask_feature_head") for name in seen)


@pytest.mark.parametrize("name", ["detector", "raw", "neck"])
def test_parts_run_or_are_refused(cfg, family, name):
    detector = build_model(cfg)
    if message := NOT[family].get(name):
        with pytest.raises(InputError, match=re.escape(message)):
            part_of(detector, name, [256, 256])
        return
    part = part_of(detector, name, [256, 256])
    channels = 1 if family == "grey" else 3
    if part.takes_images:
        assert [tuple(x.shape) for x in part.inputs] == [(2, channels, 256, 256)]
        assert isinstance(part.module, Preprocessed)
        expected = predicting(detector).data_preprocessor.mean
        assert part.module.mean.flatten().tolist() == expected.flatten().tolist()
    with torch.no_grad():
        assert part.module.eval()(*part.inputs)


def test_unusable_images_and_a_video_of_a_grey_detector(image, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "thin.png"), np.zeros((1, 3000, 3), np.uint8))
    cv2.imwrite(str(folder / "whole.png"), cv2.imread(image))
    with pytest.raises(InputError, match=r"2 images .*: .*broken.png, .*thin.png \(too thin\)"):
        detect(folder, grey(), tmp_path, monkeypatch)
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    for _ in range(2):
        writer.write(cv2.imread(image))
    writer.release()
    found = detect(tmp_path / "in.avi", grey(), tmp_path, monkeypatch, "--batch-size", "2")
    assert {result["image_id"] for result in found} == {0, 1}
