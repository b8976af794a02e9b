# SPDX-License-Identifier: Apache-2.0
"""The tool prints what a detector costs, and names mistakes in one sentence."""

import pytest
from commands import ROOT, call, refused

MASK_RCNN = ROOT / "configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"


def test_the_tool_prints_both_and_the_difference(tmp_path):
    against = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    out = call("get_flops.py", MASK_RCNN, "--shape", 100, "--against", against, cwd=tmp_path).stdout
    assert "one image of 128 x 128" in out  # as mmdet pads it
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "+0.222" in lines["neck"] and "-0.188" in lines["roi_head.mask_head"]
    assert "0.297" in lines["of these, CARAFE"]
    assert f"right: {against}" in out


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["nothing.py"], "config nothing.py does not exist"),
        (["mmdet::nothing/nothing.py"], "config mmdet::nothing/nothing.py cannot be read: "),
        (["mmcls::a/b.py"], "config mmcls::a/b.py is of the package mmcls, which is not installed"),
        ([MASK_RCNN, "--cfg-options", "model.neck.upsample_cfg.type=CARAFEE"], "did you mean 'CARAFE'?"),
    ],
    ids=["file", "package_file", "package", "upsampler"],
)
def test_a_mistake_is_named(tmp_path, args, match):
    refused("get_flops.py", *args, cwd=tmp_path, match=match)
