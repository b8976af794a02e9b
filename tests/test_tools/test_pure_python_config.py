# SPDX-License-Identifier: Apache-2.0
"""A config in pure Python, classes in place of names, trains and evaluates, and so does its dumped copy."""

import pytest
import torch
from commands import call, metrics
from mmengine.config import Config

CONFIG = """
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner, PseudoSampler
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmcv.transforms import LoadImageFromFile
from torch.optim import SGD

with read_base():
    from .imports import *

classes = ("disk", "star", "ring", "crescent", "gear", "wave")
anchors = dict(type=AnchorGenerator, scales=[4], ratios=[1.0], strides=[4, 8, 16, 32])
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, base_channels=8, norm_eval=False),
    neck=dict(
        type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4, upsample_cfg=dict(type="CARAFE")
    ),
    bbox_head=dict(type=RetinaHead, num_classes=6, in_channels=16, stacked_convs=1, feat_channels=16,
                   anchor_generator=anchors),
    train_cfg=dict(assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                   sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0, nms=dict(type="nms", iou_threshold=0.5),
                  max_per_img=10),
)
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
load, resize = dict(type=LoadImageFromFile), dict(type=Resize, scale=(96, 96), keep_ratio=True)
objects, pack = dict(type=LoadAnnotations, with_bbox=True), dict(type=PackDetInputs, meta_keys=meta_keys)
data = dict(type=CocoDataset, data_root="data/shapes", metainfo=dict(classes=classes), indices=2)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(**data, ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/"),
                 pipeline=[load, objects, resize, dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)]),
)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(**data, ann_file="annotations/instances_val2017.json", data_prefix=dict(img="val2017/"),
                 test_mode=True, pipeline=[load, resize, objects, pack]),
)
test_dataloader = val_dataloader
ann_file = "data/shapes/annotations/instances_val2017.json"
val_evaluator = dict(type=CocoMetric, ann_file=ann_file, metric="bbox")
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg, test_cfg = dict(type=ValLoop), dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.001))
default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=1))
default_scope = None
"""


@pytest.mark.slow
def test_a_pure_python_config_trains_in_mixed_precision_and_evaluates_as_dumped(toy, tmp_path):
    (tmp_path / "imports.py").write_text("import mmcarafe.models\n")
    (tmp_path / "retinanet.py").write_text(CONFIG)
    call("train.py", tmp_path / "retinanet.py", "--amp", "--work-dir", tmp_path / "work", cwd=toy)
    dumped, checkpoint = tmp_path / "work/retinanet.py", tmp_path / "work/epoch_1.pth"
    assert Config.fromfile(dumped).model.neck.type.startswith("mmdet.models.")
    assert "mmcarafe" in torch.load(checkpoint, weights_only=True)["meta"], "written by this package's hook"
    call("test.py", dumped, checkpoint, "--tta", "--work-dir", tmp_path / "eval", cwd=toy)
    assert "coco/bbox_mAP" in metrics(tmp_path / "eval")
    call("test.py", tmp_path / "retinanet.py", checkpoint, "--tta", "--work-dir", tmp_path / "own", cwd=toy)
    assert metrics(tmp_path / "own")["coco/bbox_mAP"] == metrics(tmp_path / "eval")["coco/bbox_mAP"]
