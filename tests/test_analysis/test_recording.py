# SPDX-License-Identifier: Apache-2.0
"""Recorded kernels are the ones that ran, and a trace is what the output pixel is made of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmcarafe.analysis import Reassembly, entropy, record, trace
from mmcarafe.layers import CARAFE, CARAFEDownsample
from mmcarafe.models import FPN


def one_hot(rows: int, columns: int, taken: int, k: int = 3, dtype=torch.float64) -> torch.Tensor:
    """Kernels that all copy one neighbour, counted row by row."""
    kernels = torch.zeros(1, k * k, rows, columns, dtype=dtype)
    kernels[:, taken] = 1
    return kernels


def fpn(**upsample) -> FPN:
    """A float64 neck of three odd levels whose kernels are far from uniform."""
    neck = FPN([4, 8, 12], 6, num_outs=3, upsample_cfg=dict(type="CARAFE", **upsample)).double()
    for layer in neck.upsample_modules:
        nn.init.normal_(layer.content_encoder.weight)
    return neck


def pyramid() -> list[torch.Tensor]:
    sizes = ((25, 37), (13, 19), (7, 10))
    return [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip((4, 8, 12), sizes, strict=True)]


def recorded(neck: nn.Module) -> list[Reassembly]:
    with record(neck) as calls, torch.no_grad():
        neck(pyramid())
    return calls


def test_recording_changes_nothing_and_leaves_no_hook():
    neck, maps = fpn(), pyramid()
    before = neck(maps)
    with record(neck) as calls:
        during = neck(maps)
    after = neck(maps)
    assert len(calls) == 2
    for outputs in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, outputs, strict=True))
    assert not any(m._forward_hooks for m in neck.modules())
    assert torch.autograd.grad(during[0].sum(), neck.lateral_convs[2].conv.weight)[0].abs().sum() > 0


@pytest.mark.parametrize(
    "layer", [CARAFE(6, up_group=2), CARAFEDownsample(6, down_group=2, down_kernel=3)], ids=str
)
def test_what_is_recorded_makes_the_output(layer):
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with record(layer) as calls:
        layer(torch.randn(2, 6, 5, 7))
    assert calls[0].name == ""
    assert torch.equal(calls[0].output(), seen[0])


def test_the_top_down_path_of_an_fpn_is_one_chain():
    coarse, fine = recorded(fpn())
    assert [call.name for call in fine.chain()] == ["upsample_modules.0", "upsample_modules.1"]
    assert coarse.source is None
    # 14 x 20 cropped to 13 x 19
    assert coarse.output().shape[2:] == (14, 20)
    assert fine.features.shape[2:] == (13, 19)


def test_a_module_shared_by_levels_is_recorded_each_time():
    neck = fpn()
    neck.upsample_modules[1] = neck.upsample_modules[0]
    coarse, fine = recorded(neck)
    assert coarse.name == fine.name
    assert fine.source is coarse
    assert coarse.kernels.shape[2:] == (14, 20)
    assert fine.kernels.shape[2:] == (26, 38)


@pytest.mark.parametrize(
    ("between", "linked"),
    [
        (lambda x: x[:, :, :7, :9] + 1, True),
        (lambda x: x[..., :7, :9], True),
        (lambda x: torch.add(x, x.detach() * 0, alpha=1), True),
        (lambda x: x[:, :, 2:, 2:], False),
        (lambda x: x[..., ::2, ::2], False),
        (lambda x: x[:1], False),
        (lambda x: x[:, [1, 0, 3, 2]], False),
        (lambda x: x[:, np.arange(4), :, :], False),
        (lambda x: torch.add(torch.zeros_like(x), x, alpha=0.5), False),
    ],
    ids=["crop and add", "ellipsis", "add", "shift", "stride", "image", "channels", "array", "scaled"],
)
def test_calls_are_linked_by_crops_and_sums_alone(between, linked):
    first, second = CARAFE(4), CARAFE(4)
    with record(nn.ModuleList([first, second])) as calls, torch.no_grad():
        second(between(first(torch.randn(2, 4, 4, 5))))
    assert (calls[1].source is calls[0]) == linked


def test_a_module_called_by_keyword_is_recorded():
    layer = CARAFE(4)
    with record(layer) as calls, torch.no_grad():
        out = layer(x=torch.randn(2, 4, 4, 5))
    torch.testing.assert_close(calls[0].output(), out)


def test_a_convolution_between_two_modules_ends_the_chain():
    layers = nn.Sequential(CARAFE(4), nn.Conv2d(4, 4, 1), CARAFE(4), CARAFE(4))
    with record(layers) as calls:
        layers(torch.randn(1, 4, 3, 3))
    assert [call.source for call in calls] == [None, None, calls[1]]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_trace_is_how_the_pixel_answers_to_every_source_pixel(groups):
    """Adding d to a source pixel of the coarsest map adds weight times d to the output."""
    coarse, fine = recorded(fpn(up_group=groups))
    row, column, index = 11, 20, 1

    def pixel(x):
        up = Reassembly("", x, coarse.kernels, 5, groups, 2).output()
        x = up[:, :, :13, :19] + fine.features
        return Reassembly("", x, fine.kernels, 5, groups, 2).output()[index, :, row, column]

    near, far = trace(fine, row, column, index)
    assert near.shape == (groups, 13, 19)
    assert far.shape == (groups, 7, 10)
    before = pixel(coarse.features)
    for r in range(7):
        for c in range(10):
            x = coarse.features.clone()
            x[:, :, r, c] += 3
            expected = before + 3 * far[:, r, c].repeat_interleave(6 // groups)
            torch.testing.assert_close(pixel(x), expected, rtol=0, atol=1e-12)


def test_weights_sum_to_one_away_from_the_border():
    calls = recorded(fpn())
    for weights in trace(calls[1], 12, 18):
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(1, dtype=torch.float64))
    near, _ = trace(calls[1], 0, 0)
    assert near.sum() < 0.99


def test_a_trace_through_a_downsampler_by_hand():
    """Pixel (1, 2), centred on (2, 4), copies the one at its right, (2, 5)."""
    call = Reassembly("", torch.zeros(1, 2, 5, 7).double(), one_hot(3, 4, taken=5), 3, 1, 2, downsamples=True)
    assert call.output().shape == (1, 2, 3, 4)
    (weights,) = trace(call, 1, 2)
    assert weights.nonzero().tolist() == [[0, 2, 5]]
    assert weights.sum() == 1


def test_downsamplers_are_recorded_and_not_linked():
    layers = nn.Sequential(CARAFE(4), CARAFEDownsample(4), CARAFEDownsample(4), CARAFE(4))
    with record(layers) as calls:
        layers(torch.randn(1, 4, 3, 3))
    assert [call.name for call in calls] == ["0", "1", "2", "3"]
    assert [call.source for call in calls] == [None] * 4
    assert [tuple(call.output().shape[2:]) for call in calls] == [(6, 6), (3, 3), (2, 2), (4, 4)]


def test_a_trace_by_hand():
    """Pixel (5, 9), over (2, 4), copies the one above that, (1, 4), which over (0, 2) copied (1, 3)."""
    coarse = Reassembly("", torch.zeros(1, 2, 3, 4).double(), one_hot(6, 8, taken=8), 3, 1, 2)
    fine = Reassembly("", torch.zeros(1, 2, 5, 7).double(), one_hot(10, 14, taken=1), 3, 1, 2, coarse)
    near, far = trace(fine, 5, 9)
    assert near.nonzero().tolist() == [[0, 1, 4]]
    assert far.nonzero().tolist() == [[0, 1, 3]]
    assert near.sum() == far.sum() == 1


def test_a_trace_tells_groups_apart_that_differ_between_levels():
    kernels = torch.cat([one_hot(6, 6, taken=3), one_hot(6, 6, taken=5)], dim=1)  # left, right
    coarse = Reassembly("", torch.zeros(1, 6, 3, 3).double(), kernels, 3, 2, 2)
    kernels = torch.cat([one_hot(12, 12, taken=t) for t in (1, 4, 7)], dim=1)  # above, itself, below
    fine = Reassembly("", torch.zeros(1, 6, 6, 6).double(), kernels, 3, 3, 2, coarse)
    near, far = trace(fine, 5, 5)
    assert [near[c].nonzero().tolist() for c in range(6)] == [[[r, 2]] for r in (1, 1, 2, 2, 3, 3)]
    assert [far[c].nonzero().tolist() for c in range(6)] == [
        [[r, c]] for r, c in ((0, 0), (0, 0), (1, 0), (1, 2), (1, 2), (1, 2))
    ]


def test_a_pixel_outside_the_output_is_refused():
    call = Reassembly("", torch.zeros(1, 2, 3, 4).double(), one_hot(6, 8, taken=4), 3, 1, 2)
    for row, column in ((6, 0), (0, 8), (-1, 0)):
        with pytest.raises(IndexError, match="6 rows and 8 columns"):
            trace(call, row, column)


def test_entropy_is_1_for_uniform_kernels_and_0_for_a_copy():
    uniform = torch.full((1, 25, 2, 2), 1 / 25)
    torch.testing.assert_close(entropy(uniform), torch.ones(1, 1, 2, 2))
    assert entropy(one_hot(2, 2, taken=4)).abs().max() == 0
    two = torch.zeros(1, 25, 1, 1)
    two[:, :2] = 0.5
    both = entropy(torch.cat([two, uniform[:, :, :1, :1]], dim=1), groups=2)
    torch.testing.assert_close(both.flatten(), torch.tensor([2.0, 25.0]).log() / torch.tensor(25.0).log())
    assert torch.equal(entropy(torch.ones(1, 1, 2, 2)), torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match="expected a divisor of 25 channels, got 2"):
        entropy(uniform, groups=2)


def test_trained_kernels_differ_from_nearest():
    """What the recorded chain gives is not what nearest gives, or a picture of it would show nothing."""
    _, fine = recorded(fpn())
    assert (fine.output() - F.interpolate(fine.features, scale_factor=2)).abs().max() > 0.1
