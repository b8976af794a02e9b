# SPDX-License-Identifier: Apache-2.0
"""FPN with CARAFE compiled, exported and traced, and the pieces that answer its interpolations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from samples import assert_close
from torch import nn

from mmcarafe.models import FPN
from mmcarafe.selecting.interpolate import Answer, InterpolateWith, upsample_to

INPUTS = (torch.rand(1, 4, 13, 11), torch.rand(1, 8, 7, 6))


@pytest.fixture
def neck():
    neck = FPN([4, 8], 4, num_outs=3, upsample_cfg=dict(type="CARAFE", compressed_channels=4))
    nn.init.normal_(neck.upsample_modules[0].content_encoder.weight)
    return neck


def assert_same(program, neck, inputs=INPUTS):
    for actual, expected in zip(program(inputs), neck(inputs), strict=True):
        assert_close(actual, expected)


@pytest.mark.needs(torch="2.7")
def test_compiled_without_graph_break_equals_eager(neck):
    torch.compiler.reset()
    twin = copy.deepcopy(neck)
    compiled = torch.compile(neck, fullgraph=True, backend="aot_eager")
    assert_same(compiled, twin)
    for network in (compiled, twin):
        sum(o.square().sum() for o in network(INPUTS)).backward()
    for actual, expected in zip(neck.parameters(), twin.parameters(), strict=True):
        assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.needs(torch="2.7")
def test_one_compilation_serves_all_sizes(neck):
    torch.compiler.reset()
    compiled = torch.compile(neck, fullgraph=True, dynamic=True, backend="aot_eager")
    # mmdet pads images to multiples of 32, so the levels halve exactly
    for i, (h, w) in enumerate(((12, 10), (20, 18), (8, 32))):
        inputs = torch.rand(1, 4, h, w), torch.rand(1, 8, h // 2, w // 2)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            outs = compiled(inputs)
        for actual, expected in zip(outs, neck(inputs), strict=True):
            assert_close(actual, expected)


@pytest.mark.needs(torch="2.7")
def test_exported_with_dynamic_height_and_width(neck):
    h, w = torch.export.Dim("h", min=3, max=99), torch.export.Dim("w", min=3, max=99)
    even = (torch.rand(1, 4, 12, 10), torch.rand(1, 8, 6, 5))
    program = torch.export.export(neck, (even,), dynamic_shapes=(({2: 2 * h, 3: 2 * w}, {2: h, 3: w}),))
    assert_same(program.module(), neck, even)
    assert_same(program.module(), neck, (torch.rand(1, 4, 30, 44), torch.rand(1, 8, 15, 22)))


@pytest.mark.needs(torch="2.7")
def test_exported_equals_eager(neck):
    program = torch.export.export(neck, (INPUTS,))
    assert torch.ops.mmcarafe.carafe.default in [node.target for node in program.graph.nodes]
    assert_same(program.module(), neck)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_equals_eager(neck):
    traced = torch.jit.trace(neck, (INPUTS,))
    assert_same(traced, neck)
    assert_same(traced, neck, tuple(torch.cat([x, x + 1]) for x in INPUTS))


DOUBLE, TRIPLE = nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=3)


def test_an_odd_size_is_cropped_at_the_bottom_and_right():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert upsample_to(DOUBLE, 2, x, (3, 4)).tolist() == [[[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]]]
    assert upsample_to(DOUBLE, 2, x, (4, 4)).equal(DOUBLE(x))
    assert upsample_to(DOUBLE, 2, x[..., :1, :1], (1, 1)).equal(x[..., :1, :1])


@pytest.mark.parametrize("size", [(3, 4), (1, 1)], ids=str)
def test_a_level_of_the_same_size_is_left_as_it_is_and_every_parameter_has_a_gradient(size):
    x = torch.rand(1, 4, *size, dtype=torch.bfloat16)
    upsample = nn.ConvTranspose2d(4, 4, 2, 2)
    out = upsample_to(upsample, 2, x, size)
    assert out.equal(x)
    assert out.dtype is x.dtype
    out.sum().backward()
    assert all(parameter.grad.eq(0).all() for parameter in upsample.parameters())


@pytest.mark.parametrize("size", [(7, 8), (6, 9), (4, 8), (6, 6), (3, 8), (2, 4)], ids=str)
def test_any_other_size_is_refused_with_both_sizes(size):
    message = rf"a level of 3 x 4 cannot be upsampled by 2 to {size[0]} x {size[1]}: .* 5\.\.6 x 7\.\.8,"
    with pytest.raises(ValueError, match=message):
        upsample_to(DOUBLE, 2, torch.rand(1, 1, 3, 4), size)


def test_interpolations_are_answered_in_order_and_only_inside():
    x = torch.rand(1, 1, 2, 2)
    with InterpolateWith([Answer(DOUBLE, 2), Answer(TRIPLE, 3)]):
        sizes = [tuple(F.interpolate(x, size=(3, 3)).shape), tuple(F.interpolate(x, size=(6, 5)).shape)]
    assert sizes == [(1, 1, 3, 3), (1, 1, 6, 5)]
    assert F.interpolate(x, size=(9, 9)).shape == (1, 1, 9, 9)


@pytest.mark.parametrize(
    ("calls", "message"),
    [(0, "used 0 of its 2"), (1, "used 1 of its 2"), (3, "interpolates more often than its 2 upsamplers")],
)
def test_more_or_fewer_interpolations_than_upsamplers_are_an_error(calls, message):
    def interpolate():
        with InterpolateWith([Answer(DOUBLE, 2)] * 2):
            for _ in range(calls):
                F.interpolate(torch.rand(1, 1, 2, 2), size=(4, 4))

    with pytest.raises(RuntimeError, match=message):
        interpolate()


def test_an_error_inside_is_passed_on():
    with pytest.raises(KeyError, match="mine"), InterpolateWith([Answer(nn.Identity(), 1)]):
        raise KeyError("mine")


def test_a_size_may_be_one_number():
    with InterpolateWith([Answer(DOUBLE, 2)]):
        assert F.interpolate(torch.rand(1, 1, 2, 2), size=3).shape == (1, 1, 3, 3)
