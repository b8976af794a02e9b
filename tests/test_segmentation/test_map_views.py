# SPDX-License-Identifier: Apache-2.0
"""Where the maps of a segmentor lie in the image."""

from types import SimpleNamespace

import pytest
import torch
from commands import ROOT

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.engine import CARAFEVisualizationHook
from mmcarafe.errors import InputError
from mmcarafe.visualization import look
from mmcarafe.visualization.view import is_pooled

CONFIG = ROOT / "configs/segmentation/upernet_r50-carafe-ppm_4xb4-160k_ade20k-512x512.py"
SMALL = {
    "model.backbone.depth": 18, "model.backbone.base_channels": 8, "model.pretrained": None,
    "model.backbone.norm_cfg.type": "BN", "model.decode_head.norm_cfg.type": "BN",
    "model.decode_head.in_channels": [8, 16, 32, 64], "model.decode_head.channels": 8,
    "model.auxiliary_head": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def test_maps_of_a_pooling_pyramid_cover_the_image_whatever_its_shape():
    model = build_model(read_config(str(CONFIG), SMALL)).eval()
    sample = SegDataSample(metainfo=dict(img_shape=(256, 512), ori_shape=(256, 512), scale_factor=(1.0, 1.0)))
    views = look(model, torch.randint(256, (3, 256, 512), dtype=torch.uint8), sample)
    # for 6 cells there is no room
    assert [view.calls[0].features.shape[2:] for view in views] == [(4, 8)] * 3
    assert all(view.box == (0, 0, 512, 256) for view in views)
    assert views[1].pixel(256, 128) == (4, 8)
    # an odd level, 8 x 9: the upsampler's 8 x 10 are resized to it
    views = look(model, torch.randint(256, (3, 256, 288), dtype=torch.uint8), sample)
    assert [view.calls[0].kernels.shape[2:] for view in views] == [(8, 10)] * 3
    assert all(view.box == (0, 0, 288, 256) for view in views)


def test_windows_are_refused_before_the_training():
    windows = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
    cfg = read_config(str(CONFIG), SMALL | {"model.test_cfg": windows})
    runner = SimpleNamespace(model=build_model(cfg), cfg=cfg)
    with pytest.raises(InputError, match=r"windows of the image one by one.*leave CARAFEVisualiza"):
        CARAFEVisualizationHook().before_train(runner)


def test_an_upsampler_of_ones_own_around_carafe():
    call = SimpleNamespace(name="decode_head.upsample_modules.0.up")
    model = build_model(read_config(str(CONFIG), SMALL))
    assert is_pooled(model, call)
    assert not is_pooled(model, SimpleNamespace(name="neck"))
