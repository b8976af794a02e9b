# SPDX-License-Identifier: Apache-2.0
"""Without a type in upsample_cfg our FPN is mmdet's, bit for bit."""

import inspect

import pytest
import torch
from mmdet.models import necks

from mmcarafe.models import FPN

IN_CHANNELS = [4, 6, 8]
EXTRA = dict(num_outs=5)
CASES = {
    "default": {},
    "max_pool": EXTRA,
    "true": dict(add_extra_convs=True, **EXTRA),
    "on_input": dict(add_extra_convs="on_input", **EXTRA),
    "on_lateral": dict(add_extra_convs="on_lateral", **EXTRA),
    "on_output": dict(add_extra_convs="on_output", **EXTRA),
    "relu": dict(add_extra_convs="on_output", relu_before_extra_convs=True, **EXTRA),
    "start_level": dict(start_level=1, num_outs=2),
    "start_level_extra": dict(start_level=1, add_extra_convs="on_input", num_outs=4),
    "end_level": dict(end_level=1, num_outs=2),
    "one_level": dict(start_level=2, num_outs=1),
    "norm": dict(norm_cfg=dict(type="GN", num_groups=2), act_cfg=dict(type="ReLU")),
    "no_norm_on_lateral": dict(norm_cfg=dict(type="GN", num_groups=2), no_norm_on_lateral=True),
    "init_cfg": dict(init_cfg=dict(type="Normal", layer="Conv2d", std=0.1)),
    "scale_factor": dict(upsample_cfg=dict(scale_factor=2)),
    "scale_factor_bilinear": dict(upsample_cfg=dict(scale_factor=2, mode="bilinear")),
    "bilinear": dict(upsample_cfg=dict(mode="bilinear", align_corners=False)),
}


def pyramid(sizes=((16, 12), (8, 6), (4, 3)), requires_grad=False):
    torch.manual_seed(1)
    return tuple(
        torch.randn(2, channels, *size, requires_grad=requires_grad)
        for channels, size in zip(IN_CHANNELS, sizes, strict=True)
    )


def build(neck, options):
    """Constructed and initialised from the same random numbers."""
    torch.manual_seed(0)
    module = neck(**{"in_channels": IN_CHANNELS, "out_channels": 4, "num_outs": 3, **options})
    constructed = {name: value.clone() for name, value in module.state_dict().items()}
    module.init_weights()
    return module, constructed


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_same_parameters_initialisation_outputs_and_gradients(options):
    (ours, our_start), (theirs, their_start) = build(FPN, options), build(necks.FPN, options)
    assert_equal(our_start, their_start)
    assert_equal(ours.state_dict(), theirs.state_dict())
    results = []
    for neck in (ours, theirs):
        inputs = pyramid(requires_grad=True)
        outputs = neck(inputs)
        gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), inputs, allow_unused=True)
        results.append((*outputs, *gradients))
    for actual, expected in zip(*results, strict=True):
        assert (actual is None and expected is None) or actual.equal(expected)


@pytest.mark.parametrize("options", [{}, dict(upsample_cfg=dict(mode="bilinear"))], ids=str)
@pytest.mark.parametrize("sizes", [((25, 13), (13, 7), (7, 4)), ((20, 20), (9, 9), (2, 3))], ids=str)
def test_same_outputs_for_odd_sizes_and_those_that_no_upsampler_could_meet(options, sizes):
    (ours, _), (theirs, _) = build(FPN, options), build(necks.FPN, options)
    for actual, expected in zip(ours(pyramid(sizes)), theirs(pyramid(sizes)), strict=True):
        assert actual.equal(expected)


def test_a_type_of_none_is_no_type():
    (ours, _), (theirs, _) = build(FPN, dict(upsample_cfg=dict(type=None))), build(necks.FPN, {})
    for actual, expected in zip(ours(pyramid()), theirs(pyramid()), strict=True):
        assert actual.equal(expected)


def test_arguments_by_position_as_mmdet_takes_them():
    order = list(inspect.signature(necks.FPN).parameters)
    values = {"in_channels": IN_CHANNELS, "out_channels": 4, "num_outs": 3}
    for name in order[3 : order.index("upsample_cfg")]:
        values[name] = inspect.signature(necks.FPN).parameters[name].default
    neck = FPN(*values.values(), dict(mode="bilinear"))
    assert neck.upsample_cfg == dict(mode="bilinear")
