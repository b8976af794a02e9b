# SPDX-License-Identifier: Apache-2.0
"""From downsample_cfg to a module, and what is said to a wrong one."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from mmcarafe.layers import (
    CARAFE,
    CARAFEDownsample,
    DownsampleConfigError,
    UpsampleConfigError,
    build_downsample,
    build_upsample,
)


class Every(nn.Module):
    """A downsampler that a user might register."""

    def __init__(self, channels, scale_factor):
        super().__init__()
        self.scale = scale_factor

    def forward(self, x):
        return x[..., :: self.scale, :: self.scale]


@pytest.fixture
def registered():
    """The name under which Every is registered while the test runs."""
    MODELS.register_module(name="EveryInTest", module=Every)
    return "EveryInTest"


@pytest.mark.parametrize(
    "kind", ["CARAFE", "carafe", "CARAFEDownsample", "mmengine.CARAFEDownsample", CARAFEDownsample]
)
@pytest.mark.parametrize("cfg_class", [dict, ConfigDict])
def test_every_name_of_the_layer_takes_its_options(kind, cfg_class):
    cfg = cfg_class(type=kind, down_kernel=3, compressed_channels=4)
    downsample = build_downsample(cfg, channels=8, scale_factor=3)
    assert type(downsample) is CARAFEDownsample
    assert (downsample.scale_factor, downsample.down_kernel, downsample.compressed_channels) == (3, 3, 4)
    assert downsample(torch.rand(2, 8, 5, 7)).shape == (2, 8, 2, 3)
    assert cfg == cfg_class(type=kind, down_kernel=3, compressed_channels=4)


def test_a_registered_module(registered):
    for kind in (registered, Every):
        assert type(build_downsample(dict(type=kind), 8, 2)) is Every


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="carefe"), "downsample_cfg type 'carefe' is not known; did you mean 'carafe'?"),
        (dict(type="xyz"), "type 'xyz' is not known. Known types: carafe, CARAFE, and any module registered"),
        (dict(type=None), "downsample_cfg type None is not known"),
        (dict(down_kernel=3), "downsample_cfg type None is not known"),
        (dict(type="SAPA"), "downsample_cfg type 'SAPA' makes maps larger; it is for an upsample_cfg"),
        (dict(type=CARAFE), "makes maps larger; it is for an upsample_cfg"),
        (
            dict(type="CARAFE", up_kernel=3),
            "got an unexpected keyword argument 'up_kernel'; it takes channels",
        ),
        (dict(type="CARAFE", down_kernel=4), "type 'CARAFE': down_kernel: expected an odd number, got 4"),
        (dict(type="CARAFE", scale_factor=3), "MyNeck downsamples by 2; leave scale_factor out"),
    ],
    ids=str,
)
def test_wrong_config(cfg, message):
    with pytest.raises(DownsampleConfigError) as caught:
        build_downsample(cfg, channels=8, scale_factor=2, component="MyNeck")
    assert message in str(caught.value)


def test_the_downsampler_is_no_upsampler():
    with pytest.raises(UpsampleConfigError, match="'CARAFEDownsample' makes maps smaller"):
        build_upsample(dict(type="CARAFEDownsample"), channels=8, scale_factor=2)
