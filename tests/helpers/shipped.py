# SPDX-License-Identifier: Apache-2.0
"""The configs that are shipped, as parameters of tests."""

import pytest
from commands import ROOT

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
