# SPDX-License-Identifier: Apache-2.0
"""Small detectors of every structure that mmdet has."""

from pathlib import Path

import torch
from commands import CONFIG
from mmengine.config import Config, ConfigDict

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model

R18 = {"model.backbone.depth": 18, "model.neck.in_channels": [64, 128, 256, 512]}
CARAFE = dict(type="CARAFE", compressed_channels=8)
ELSEWHERE = "http://nowhere.invalid/teacher.pth"


def mask_rcnn(**options) -> Config:
    """The embedded detector, smaller, which takes whatever scores."""
    small = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    return read_config(str(CONFIG), small | {"model.test_cfg.rcnn.score_thr": 0.0} | options)


def grey() -> Config:
    preprocessor = dict(mean=[114.0], std=[57.0], bgr_to_rgb=False)
    cfg = mask_rcnn(**{"model.backbone.in_channels": 1, "model.data_preprocessor": preprocessor})
    cfg.test_dataloader.dataset.pipeline[0].update(color_type="grayscale", to_float32=True)
    return cfg


def soft_teacher() -> Config:
    """The detector is nested twice, and its preprocessor is that of the model around it."""
    cfg = mask_rcnn()
    around = dict(type="MultiBranchDataPreprocessor", data_preprocessor=cfg.model.pop("data_preprocessor"))
    cfg.model = ConfigDict(
        type="SoftTeacher",
        detector=cfg.model,
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on="student"),
        data_preprocessor=around,
    )
    return cfg


def cond_inst() -> Config:
    """A mask head beside a dense head, whose raw forward pass would compute losses."""
    cfg = read_config("mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py", R18)
    cfg.model.mask_head.mask_feature_head.upsample_cfg = CARAFE
    return cfg


def solov2() -> Config:
    """Masks without boxes."""
    certain = {"model.test_cfg.mask_thr": 0.0, "model.test_cfg.filter_thr": 0.0}
    cfg = read_config("mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py", certain)
    cfg.model.mask_head.mask_feature_head.upsample_cfg = CARAFE
    return cfg


def sparse_rcnn() -> Config:
    """A fixed number of queries, two stages without an RPN."""
    cfg = read_config("mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", R18)
    cfg.model.roi_head.update(
        num_stages=1, stage_loss_weights=[1], bbox_head=cfg.model.roi_head.bbox_head[:1]
    )
    cfg.model.train_cfg.rcnn = cfg.model.train_cfg.rcnn[:1]
    cfg.model.neck.upsample_cfg = CARAFE
    return cfg


def deformable_detr() -> Config:
    options = {"model.encoder.num_layers": 1, "model.decoder.num_layers": 1}
    options |= R18 | {"model.neck.in_channels": [128, 256, 512]}
    return read_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", options)


def ssd() -> Config:
    """A dense head without the loss that mmdet looks for; and a config that says nothing of drawing."""
    cfg = read_config("mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py")
    cfg.pop("visualizer")
    return cfg


def cascade_rpn() -> Config:
    """An RPN whose stages are run one by one."""
    cfg = read_config("mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py", R18)
    cfg.model.neck.upsample_cfg = CARAFE
    return cfg


def lad() -> Config:
    """A student; its teacher cannot be had."""
    teacher = {"model.teacher_backbone.depth": 18, "model.teacher_neck.in_channels": [64, 128, 256, 512]}
    options = R18 | teacher | {"model.teacher_ckpt": ELSEWHERE, "model.neck.upsample_cfg": CARAFE}
    return read_config("mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", options)


def queryinst() -> Config:
    """Boxes that no one clips, some of them beside the image; masks by dynamic convolutions."""
    cfg = read_config("mmdet::queryinst/queryinst_r50_fpn_1x_coco.py", R18)
    head = cfg.model.roi_head
    head.update(
        num_stages=1, stage_loss_weights=[1], bbox_head=head.bbox_head[:1], mask_head=head.mask_head[:1]
    )
    cfg.model.train_cfg.rcnn = cfg.model.train_cfg.rcnn[:1]
    cfg.model.neck.upsample_cfg = CARAFE
    head.mask_head[0].upsample_cfg = CARAFE
    return cfg


NOT = {
    "grey": {},
    "soft_teacher": {},
    "cond_inst": dict(detector="boxes of CondInstBboxHead are selected in a way of its own"),
    "solov2": {},
    "sparse_rcnn": dict(detector="its boxes are refined image by image", raw="has no dense head"),
    "queryinst": dict(detector="its boxes are refined image by image", raw="has no dense head"),
    "deformable_detr": dict(detector="DeformableDETR is not exported: its attention", raw="no dense head"),
    "ssd": {},
    "cascade_rpn": dict(
        detector="not CascadeRPNHead and StandardRoIHead", raw="FasterRCNN has no dense head"
    ),
    "lad": dict(detector="boxes of LADHead"),
}
"""Which parts of a family are not exported, and what is said of them."""


def written(cfg: Config, folder: Path) -> list[str]:
    """Write a config and a checkpoint, and return their paths as the commands take them."""
    cfg.dump(folder / "config.py")
    detector = build_model(cfg)
    detector.init_weights()
    torch.save(dict(state_dict=detector.state_dict()), folder / "weights.pth")
    return [str(folder / "config.py"), str(folder / "weights.pth")]
