# SPDX-License-Identifier: Apache-2.0
"""The layer's kernels from hostile logits, and the layer on hostile weights and sizes, drawn at random."""

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcarafe.layers import CARAFE
from mmcarafe.ops import carafe

# max_examples is the profile's
check = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FAR = 1e4  # exp(1e4) is infinite, exp(-1e4) zero


@st.composite
def layers(draw, up_kernels=(1, 3, 5, 7)):
    groups = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    return CARAFE(
        channels=groups * draw(st.integers(1, 3)),
        scale_factor=draw(st.integers(1, 4)),
        up_kernel=draw(st.sampled_from(up_kernels)),
        up_group=groups,
        encoder_kernel=draw(st.sampled_from([1, 3])),
        encoder_dilation=draw(st.integers(1, 2)),
        compressed_channels=draw(st.integers(1, 4)),
    )


def logits_of(layer: CARAFE, draw) -> Tensor:
    N, H, W = draw(st.integers(0, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    factor = draw(st.sampled_from([0.0, 1e-40, 1.0, 100.0, FAR]))
    t = torch.randn(N, layer.content_encoder.out_channels, H, W, dtype=torch.float64)
    return (t.sign() * FAR if factor == FAR else t * factor).to(draw(st.sampled_from(DTYPES)))


def kernel_view(layer: CARAFE, masks: Tensor) -> Tensor:
    """[N, G*k*k, s*H, s*W] -> [N, G, k*k, s*H, s*W]."""
    return masks.unflatten(1, (layer.up_group, layer.up_kernel**2))


def upsample(layer: CARAFE, features: Tensor, logits: Tensor) -> Tensor:
    return carafe(
        features, layer.kernel_normalizer(logits), layer.up_kernel, layer.up_group, layer.scale_factor
    )


@check
@given(layers(), st.data())
def test_kernels_are_weights_whatever_the_logits(layer, data):
    logits = logits_of(layer, data.draw).requires_grad_()
    masks = layer.kernel_normalizer(logits)
    kernels = kernel_view(layer, masks)
    assert ((kernels >= 0) & (kernels <= 1)).all()
    # each of the k*k weights is rounded to the dtype, by half of eps at most
    limit = (1 + layer.up_kernel**2) * torch.finfo(logits.dtype).eps
    assert ((kernels.double().sum(2) - 1).abs() <= limit).all()
    masks.backward(torch.randn_like(masks))
    assert logits.grad.isfinite().all()


@check
@given(layers(), st.sampled_from([0.0, 1.0, -3.5, FAR, -FAR]), st.data())
def test_equal_logits_give_the_average(layer, value, data):
    logits = torch.full_like(logits_of(layer, data.draw), value)
    kernels = layer.kernel_normalizer(logits)
    assert kernels.equal(torch.full_like(kernels, 1 / layer.up_kernel**2))


@check
@given(layers(up_kernels=(3, 5)), st.data())
def test_a_logit_of_minus_infinity_is_a_weight_of_zero(layer, data):
    logits = logits_of(layer, data.draw)
    # the taps of a pixel lie s*s channels apart; at least one of the k*k stays
    taps = layer.up_kernel**2
    out = data.draw(st.lists(st.integers(0, taps - 1), max_size=taps - 1, unique=True))
    masked = logits.unflatten(1, (layer.up_group, taps, -1)).clone()
    masked[:, :, out] = -math.inf
    kernels = kernel_view(layer, layer.kernel_normalizer(masked.flatten(1, 3).requires_grad_()))
    assert (kernels[:, :, out] == 0).all()
    limit = (1 + taps) * torch.finfo(logits.dtype).eps
    assert ((kernels.double().sum(2) - 1).abs() <= limit).all()


@check
@given(layers(), st.data())
def test_logits_that_are_all_minus_infinity_are_nan_in_their_own_pixel_only(layer, data):
    """A softmax over nothing is 0 / 0: the pixel has no kernel, which the output shows."""
    logits = logits_of(layer, data.draw)
    N, _, H, W = logits.shape
    if not N:
        return
    s, groups, size = layer.scale_factor, layer.up_group, layer.channels // layer.up_group
    sizes = (N, groups, s * s, H, W)
    n, g, b, y, x = (data.draw(st.integers(0, size - 1)) for size in sizes)
    features = torch.randn(N, layer.channels, H, W).to(logits.dtype)
    before = upsample(layer, features, logits)
    emptied = logits.unflatten(1, (groups, -1, s * s)).clone()
    emptied[n, g, :, b, y, x] = -math.inf
    after = upsample(layer, features, emptied.flatten(1, 3))
    spoilt = torch.zeros_like(after, dtype=torch.bool)
    spoilt[n, g * size : (g + 1) * size, y * s + b // s, x * s + b % s] = True
    assert after.isnan().equal(spoilt)
    assert after[~spoilt].equal(before[~spoilt])


@check
@given(layers(), st.sampled_from([0.0, 1.0, 1e4, 1e10]), st.data())
def test_any_weights_keep_the_output_in_the_range_of_the_input_and_gradients_finite(layer, factor, data):
    """Kernels are weights and the frame is zero, so that zero and the input's extremes bound the output."""
    N, H, W = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * factor)
    x = torch.randn(N, layer.channels, H, W, requires_grad=True)
    out = layer(x)
    s = layer.scale_factor
    assert out.shape == (N, layer.channels, s * H, s * W)
    assert out.isfinite().all()
    if N:
        high, low = (t.clamp(min=0) * (1 + 1e-5) for t in (x.max(), -x.min()))
        assert out.max() <= high and -out.min() <= low
    out.backward(torch.randn_like(out))
    assert x.grad.shape == x.shape
    for t in (x, *layer.parameters()):
        assert t.grad.isfinite().all()
