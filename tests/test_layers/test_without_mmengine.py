# SPDX-License-Identifier: Apache-2.0
"""With mmengine the layers are registered in it; without, they start alike, and say what they lack."""

import pytest
import torch
from mmengine.model import initialize
from mmengine.registry import MODELS
from torch import nn
from upsamplers import FORMS, lively

from mmcarafe import layers
from mmcarafe.layers import CARAFE, CARAFEDownsample, UpsampleConfigError, build_downsample, build_upsample
from mmcarafe.layers.optional_mmengine import fill
from mmcarafe.layers.upsampler import Upsampler

LAYERS = [
    value for value in vars(layers).values() if isinstance(value, type) and issubclass(value, Upsampler)
]


def test_every_layer_is_registered_with_mmengine():
    assert {kind.__name__: MODELS.get(kind.__name__) for kind in LAYERS} == {k.__name__: k for k in LAYERS}
    assert {"CARAFE", "CARAFEDownsample", "DySample"} <= {kind.__name__ for kind in LAYERS}


def initialised(layer, how) -> dict:
    torch.manual_seed(7)
    how(layer, layer.init_cfg)
    return {name: value.clone() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("name", [*FORMS, "CARAFEDownsample"])
def test_the_weights_of_a_fresh_layer_are_those_of_mmengine(name):
    layer = CARAFEDownsample(32) if name == "CARAFEDownsample" else lively(name)
    theirs = initialised(layer, initialize)
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, 5)
    ours = initialised(layer, fill)
    for key in theirs.keys() - {
        "kernel_generator.conv2_kernels",
        "kernel_generator.conv2_bias",
    }:  # FADE's own
        if isinstance(layer.get_submodule(key.rpartition(".")[0]), nn.Linear) and key.endswith("weight"):
            # torch draws from a truncated normal distribution in another way
            assert ours[key].std().item() == pytest.approx(theirs[key].std().item(), rel=0.1)
            assert ours[key].mean().abs() < 0.005
        else:
            assert ours[key].equal(theirs[key]), key


def test_without_a_registry_the_types_are_this_packages_layers_and_classes():
    assert type(build_upsample(dict(type="carafe", up_kernel=3), 8, 2, registry=None)) is CARAFE
    assert type(build_upsample(dict(type=CARAFE), 8, 2, registry=None)) is CARAFE
    assert type(build_downsample(dict(type="CARAFE"), 8, 2, registry=None)) is CARAFEDownsample
    match = "'nearest': expected a class or one of .*CARAFE.*, as mmengine is not installed"
    with pytest.raises(UpsampleConfigError, match=match):
        build_upsample(dict(type="nearest"), 8, 2, registry=None)


def test_an_init_cfg_without_mmengine_is_refused(monkeypatch):
    monkeypatch.setattr("mmcarafe.layers.upsampler.MODELS", None)
    CARAFE(8)
    with pytest.raises(ImportError, match=r"init_cfg: expected None, .* install mmengine"):
        CARAFE(8, init_cfg=dict(type="Xavier", layer="Conv2d"))
