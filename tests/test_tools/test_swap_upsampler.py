# SPDX-License-Identifier: Apache-2.0
"""CARAFE put into a trained detector: at the first step it detects what the detector did."""

import pytest
import torch
from commands import CONFIG, SMALL, call
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import nn

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_state, load_start, read_state_dict

NEAREST = dict(type="nearest")
FRESH = "neck.upsample_modules is not in nearest.pth: its 12 parameters start fresh"


@pytest.fixture(scope="module")
def weights(trained) -> dict:
    """The weights of a trained detector with nearest interpolation in the neck."""
    state = read_state_dict(str(trained / "epoch_1.pth"))[1]
    return {name: value for name, value in state.items() if not name.startswith("neck.upsample")}


def config(upsample_cfg: dict) -> Config:
    return read_config(
        str(CONFIG),
        {
            "model.backbone.base_channels": 8,
            "model.neck.in_channels": [8, 16, 32, 64],
            "model.neck.upsample_cfg": {**upsample_cfg, "_delete_": True},
            "model.test_cfg.rcnn.score_thr": 0.0,
        },
    )


def detect(model: nn.Module, cfg: Config) -> InstanceData:
    """Return what a detector finds in the first image for validation."""
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    with torch.no_grad():
        return model.eval().test_step(pseudo_collate([dataset[0]]))[0].pred_instances


def start(upsample_cfg: dict, weights: dict) -> InstanceData:
    """Return what a detector with another upsampler finds before it is trained."""
    cfg = config(upsample_cfg)
    model = build_model(cfg)
    assert load_start(model, "nearest.pth", weights) == [FRESH]
    return detect(model, cfg)


def likeness(ours: InstanceData, theirs: InstanceData) -> tuple[float, float, float]:
    """Return the lowest IoU of a box with its match, and their largest differences in score and mask."""
    iou, match = bbox_overlaps(theirs.bboxes, ours.bboxes).max(1)
    scores = (theirs.scores - ours.scores[match]).abs()
    # a share of the image
    masks = (theirs.masks ^ ours.masks[match]).float().mean((1, 2))
    return iou.min().item(), scores.max().item(), masks.max().item()


def test_a_start_as_nearest_keeps_boxes_scores_and_masks(weights, toy, monkeypatch):
    monkeypatch.chdir(toy)
    cfg = config(NEAREST)
    model = build_model(cfg)
    check_state(model, "nearest.pth", weights)
    theirs = detect(model, cfg)[:10]  # of 20, the last of which are chosen by a hair
    assert len(theirs) == 10
    iou, score, mask = likeness(start(dict(type="CARAFE", start="nearest"), weights), theirs)
    assert iou > 0.99 and score < 0.002 and mask < 0.005
    iou, score, _ = likeness(start(dict(type="CARAFE"), weights), theirs)
    assert iou < 0.9 and score > 0.002, "which the paper's start does not"


@pytest.mark.slow
def test_training_goes_on_from_such_a_detector(weights, toy, tmp_path):
    torch.save(weights, toy / "nearest.pth")
    call("train.py", CONFIG, "--work-dir", tmp_path, "--cfg-options", *SMALL, "load_from=nearest.pth",
         "train_cfg.max_epochs=1", "model.neck.upsample_cfg.start=nearest", cwd=toy)  # fmt: skip
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert FRESH in log and "loss" in log
    upsampler = read_state_dict(str(tmp_path / "epoch_1.pth"))[1]
    assert upsampler["neck.upsample_modules.0.content_encoder.bias"].view(25, 4)[12].min() > 6
