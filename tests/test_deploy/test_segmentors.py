# SPDX-License-Identifier: Apache-2.0
"""A segmentor that is exported scores pixels as mmsegmentation does; what is not exported is named."""

import pytest
import torch
from commands import ROOT

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.hub import get_config

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.deploy.parts import part_of
from mmcarafe.errors import InputError

CONFIG = str(ROOT / "configs/segmentation/fpn_r18-carafe_shapes.py")


@pytest.mark.parametrize("flips", [True, False], ids=["bgr_to_rgb", "as it is"])
@torch.no_grad()
def test_scores_are_mmsegs(flips):
    options = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    model = build_model(read_config(CONFIG, options | {"model.data_preprocessor.bgr_to_rgb": flips}))
    part = part_of(model, None, [64, 96])
    (image,) = part.inputs
    data = model.data_preprocessor(dict(inputs=list(image)))
    scores = torch.stack([sample.seg_logits.data for sample in model(data["inputs"], mode="predict")])
    torch.testing.assert_close(part.module(image), scores)
    assert scores.shape == (2, 7, 64, 96) and part.outputs == ("scores",)


def test_what_is_not_exported_is_named():
    model = build_model(get_config("mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py"))
    with pytest.raises(InputError, match="--part segmentor: EncoderDecoder with one decode_head is exported"):
        part_of(model, "segmentor", [64, 64])
