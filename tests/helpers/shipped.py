# SPDX-License-Identifier: Apache-2.0
"""The configs that are shipped, as parameters of tests."""

import pytest
from commands import ROOT
from mmengine.config import Config

CONFIGS = sorted((ROOT / "configs/carafe").glob("*.py"))
# those that take long; others stand for them
HEAVY = (
    *("atss", "cascade", "htc", "mask2former", "panoptic", "rtmdet-ins", "solov2", "tood", "vfnet"),
    *("mask-rcnn_r50_fpn-carafe_neck-only", "mask-rcnn_r50_fpn-carafe_head-only"),
    *("faster-rcnn_r50_pafpn-carafe_1x", "rtmdet_s_carafe_8xb32"),  # for which those with downsamplers stand
)
every_config = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem.startswith(HEAVY) else ())
        for path in CONFIGS
    ],
)


def few_rois(cfg: Config) -> None:
    """Train RoI heads on 32 RoIs an image; mmdet's 512 take long."""
    if "roi_head" in cfg.model:
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 32
