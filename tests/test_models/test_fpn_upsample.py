# SPDX-License-Identifier: Apache-2.0
"""FPN with an upsampler chosen by type."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmcarafe.layers import CARAFE, TYPES
from mmcarafe.models import FPN

every_type = pytest.mark.parametrize("kind", TYPES)
EVEN = ((16, 12), (8, 6), (4, 3))
ODD = ((25, 13), (13, 7), (7, 4))


def build(kind, **options):
    arguments = dict(in_channels=[4, 6, 8], out_channels=4, num_outs=3, upsample_cfg=dict(type=kind))
    return FPN(**{**arguments, **options})


def pyramid(sizes=EVEN, batch=2):
    return tuple(torch.randn(batch, c, *size) for c, size in zip((4, 6, 8), sizes, strict=True))


class Constant(nn.Module):
    """Upsamples everything to one value and remembers what it was given."""

    def __init__(self, value):
        super().__init__()
        self.value, self.given = value, []

    def forward(self, x):
        self.given.append(x)
        return torch.full((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), self.value)


@every_type
def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(kind):
    neck = build(kind)
    outputs = neck(pyramid(batch=0))
    assert [tuple(o.shape) for o in outputs] == [(0, 4, *size) for size in EVEN]
    sum(o.sum() for o in outputs).backward()
    assert all(p.grad.eq(0).all() for p in neck.parameters())


@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
def test_module_i_upsamples_level_i_plus_1_to_level_i(sizes):
    """With laterals of zero and no output convolution, what a module returns is what its level puts out."""
    neck = build("CARAFE")
    for parameter in neck.lateral_convs.parameters():
        nn.init.zeros_(parameter)
    neck.fpn_convs = nn.ModuleList(nn.Identity() for _ in neck.fpn_convs)
    neck.upsample_modules = nn.ModuleList(Constant(value) for value in (10.0, 20.0))
    outputs = neck(pyramid(sizes))
    assert [o.unique().tolist() for o in outputs] == [[10], [20], [0]]
    for i, upsample in enumerate(neck.upsample_modules):
        (given,) = upsample.given
        assert given.equal(outputs[i + 1])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2),
        (dict(num_outs=5), 2),
        (dict(num_outs=5, add_extra_convs="on_output"), 2),
        (dict(start_level=1, num_outs=2), 1),
        (dict(end_level=1, num_outs=2), 1),
    ],
    ids=str,
)
def test_there_is_one_module_between_two_laterals_and_no_other(options, count):
    neck = build("CARAFE", **options)
    assert all(type(m) is CARAFE for m in neck.upsample_modules)
    names = {name.split(".")[1] for name, _ in neck.named_parameters() if name.startswith("upsample_modules")}
    assert names == {str(i) for i in range(count)}
    outputs = neck(pyramid())
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad is not None for p in neck.upsample_modules.parameters())


def test_levels_on_top_are_mmdets():
    outputs = build("CARAFE", num_outs=5)(pyramid())
    for lower, upper in pairwise(outputs[2:]):
        assert upper.equal(F.max_pool2d(lower, 1, stride=2))
    neck = build("CARAFE", num_outs=4, add_extra_convs="on_output")
    outputs = neck(pyramid())
    assert outputs[3].equal(neck.fpn_convs[3](outputs[2]))


@pytest.mark.parametrize("kind", ["nearest", "CARAFE"])
def test_a_target_more_than_twice_the_source_is_refused(kind):
    with pytest.raises(ValueError, match="a level of 4 x 3 cannot be upsampled by 2 to 9 x 6: expected"):
        build(kind)(pyramid(((18, 12), (9, 6), (4, 3))))
    with pytest.raises(ValueError, match="a level of 8 x 6 cannot be upsampled by 2 to 16 x 13: expected"):
        build(kind)(pyramid(((16, 13), (8, 6), (4, 3))))
    x = torch.rand(1, 1, 2, 2)
    assert F.interpolate(x, size=(4, 4)).shape == (1, 1, 4, 4), "torch's function is itself again"
