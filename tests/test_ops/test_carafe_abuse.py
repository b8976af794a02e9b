# SPDX-License-Identifier: Apache-2.0
"""Hostile values, layouts and sizes, drawn at random, for every implementation this processor can run.

``--hypothesis-profile=long`` draws some thousands of cases of these tests; see docs/internals.md.
"""

from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcarafe.ops import carafe, implementations, reference, use_implementation

OPS = torch.ops.mmcarafe
# max_examples is the profile's
check = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Values that are denormal, and values far from 1 whose sums still do not overflow.
TINY = {torch.float64: 1e-310, torch.float32: 1e-40, torch.bfloat16: 1e-40, torch.float16: 1e-6}
HUGE = {torch.float64: 2.0**900, torch.float32: 2.0**100, torch.bfloat16: 2.0**100, torch.float16: 2.0**7}


def every_second(t: Tensor) -> Tensor:
    """The same values at an offset, and at every second row and column, of memory that is NaN elsewhere."""
    N, C, H, W = t.shape
    larger = torch.full((N + 1, C, 2 * H, 2 * W), float("nan"), dtype=t.dtype)
    larger[1:, :, ::2, 1::2] = t
    return larger[1:, :, ::2, 1::2]


LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "every_second": every_second,
    # one row for all: strides of zero
    "expanded": lambda t: t[:, :, :1].contiguous().expand_as(t),
}


class Call(NamedTuple):
    """Tensors of one call, in the layouts drawn."""

    features: Tensor
    masks: Tensor
    grad: Tensor
    args: tuple[int, int, int]


@st.composite
def calls(draw, scaled=True, dtypes=tuple(TINY)):
    groups, k = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 5, 7, 9]))
    scale, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(dtypes))
    N, C = draw(st.integers(0, 3)), groups * draw(st.sampled_from([1, 2, 3, 5, 17]))
    H, W = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 7, 9, 17, 19]))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    factors = st.sampled_from([1.0, 0.0, TINY[dtype], HUGE[dtype]]) if scaled else st.just(1.0)
    shapes = (N, C, H, W), (N, groups * k * k, scale * H, scale * W), (N, C, scale * H, scale * W)
    largest = draw(st.integers(0, 2))  # at most one of the three is scaled
    tensors = []
    for i, shape in enumerate(shapes):
        t = torch.randn(shape, generator=seed, dtype=torch.float64)
        t = (t * draw(factors) if i == largest else t).to(dtype)
        tensors.append(LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](t))
    return Call(*tensors, (k, groups, scale))


def run(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients."""
    features, masks = call.features.detach().requires_grad_(), call.masks.detach().requires_grad_()
    out = carafe(features, masks, *call.args)
    return out.detach(), *torch.autograd.grad(out, (features, masks), call.grad)


def each_implementation(call: Call):
    for name in implementations("cpu"):
        with use_implementation("cpu", name):
            yield name, run(call)


def exact(call: Call, prepare=Tensor.double) -> tuple[Tensor, Tensor, Tensor]:
    x, m, g = map(prepare, call[:3])
    return (
        reference.carafe(x, m, *call.args),
        reference.grad_features(g, m, *call.args),
        reference.grad_masks(g, x, *call.args),
    )


def bounds(call: Call) -> list[Tensor]:
    """How far a sum of n products may be off: n + 2 roundings of the sum of their absolute values.

    One more rounding, to the dtype, follows; and what lies below the smallest denormal is lost.
    """
    k, groups, scale = call.args
    dtype = call.features.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    terms = k * k, k * k * scale * scale, call.features.shape[1] // groups
    smallest = [torch.finfo(t).smallest_normal * torch.finfo(t).eps for t in (acc, dtype)]
    return [
        # twice: in float64 the values compared with are no better
        2 * (n + 2) * torch.finfo(acc).eps * size + torch.finfo(dtype).eps * size + (n + 1) * smallest[0]
        + smallest[1]
        for n, size in zip(terms, exact(call, lambda t: t.double().abs()), strict=True)
    ]  # fmt: skip


@check
@given(calls())
def test_output_and_gradients_within_the_bound_of_their_sums(call):
    expected, limits = exact(call), bounds(call)
    for name, results in each_implementation(call):
        for actual, right, limit in zip(results, expected, limits, strict=True):
            assert actual.dtype == call.features.dtype
            assert actual.shape == right.shape
            assert ((actual.double() - right).abs() <= limit).all(), name


@check
@given(calls(), st.data())
def test_one_hot_kernels_copy_a_pixel_bit_for_bit(call, data):
    k, _, scale = call.args
    r = k // 2
    dy, dx = (data.draw(st.integers(-r, r)) for _ in range(2))
    masks = torch.zeros_like(call.masks, memory_format=torch.contiguous_format)
    masks[:, (dy + r) * k + dx + r :: k * k] = 1
    _, _, H, W = call.features.shape
    shifted = torch.nn.functional.pad(call.features, [r] * 4)[..., r + dy : r + dy + H, r + dx : r + dx + W]
    copied = shifted.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    for name, (out, _, _) in each_implementation(call._replace(masks=masks)):
        assert out.equal(copied), name


@check
@given(calls(scaled=False), st.integers(-3, 3))
def test_powers_of_two_pass_through_exactly(call, exponent):
    if call.features.dtype == torch.float16:  # a narrow range: results near its ends would round
        call = call._replace(**{name: getattr(call, name).float() for name in ("features", "masks", "grad")})
    factor = 2.0**exponent
    for name in implementations("cpu"):
        with use_implementation("cpu", name):
            out, grad_features, grad_masks = run(call)
            of_features = run(call._replace(features=call.features * factor))
            of_masks = run(call._replace(masks=call.masks * factor))
        assert of_features[0].equal(out * factor) and of_masks[0].equal(out * factor), name
        assert of_features[1].equal(grad_features) and of_features[2].equal(grad_masks * factor), name
        assert of_masks[1].equal(grad_features * factor) and of_masks[2].equal(grad_masks), name


@check
@given(calls(scaled=False), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_a_bad_pixel_spoils_its_windows_and_nothing_else(call, value, data):
    """A weight of zero does not hide it: 0 * inf and 0 * NaN are NaN."""
    k, groups, scale = call.args
    N, C, H, W = call.features.shape
    if not N:
        return
    n, c, y, x = (data.draw(st.integers(0, size - 1)) for size in (N, C, H, W))
    features = call.features.clone(memory_format=torch.preserve_format)
    features[n, c, y, x] = value
    masks = call.masks.clone(memory_format=torch.preserve_format)
    if data.draw(st.booleans()):
        masks.zero_()
    spoilt, spoilt_masks = torch.zeros(N, C, scale * H, scale * W), torch.zeros(masks.shape)
    for i in range(max(0, y - k // 2), min(H, y + k // 2 + 1)):
        for j in range(max(0, x - k // 2), min(W, x + k // 2 + 1)):
            rows, columns = slice(scale * i, scale * (i + 1)), slice(scale * j, scale * (j + 1))
            spoilt[n, c, rows, columns] = 1
            tap = (y - i + k // 2) * k + x - j + k // 2
            spoilt_masks[n, c // (C // groups) * k * k + tap, rows, columns] = 1
    good = dict(each_implementation(call._replace(masks=masks)))
    for name, results in each_implementation(call._replace(features=features, masks=masks)):
        assert results[0].isfinite().logical_not().equal(spoilt.bool()), name
        assert results[1].equal(good[name][1]), name
        assert results[2].isfinite().logical_not().equal(spoilt_masks.bool()), name
        for actual, right, bad in zip(results[::2], good[name][::2], (spoilt, spoilt_masks), strict=True):
            assert actual[bad == 0].equal(right[bad == 0]), name
        if not masks.any() or value != value:
            assert results[0][spoilt == 1].isnan().all(), name


@check
@given(calls(scaled=False), st.data())
def test_a_bad_kernel_spoils_its_output_pixel_and_nothing_else(call, data):
    k, groups, _ = call.args
    N, C, sH, sW = call.grad.shape
    if not N:
        return
    n, g, i, j = (data.draw(st.integers(0, size - 1)) for size in (N, groups, sH, sW))
    masks = call.masks.clone(memory_format=torch.preserve_format)
    masks[n, g * k * k : (g + 1) * k * k, i, j] = float("nan")
    spoilt = torch.zeros(N, C, sH, sW, dtype=torch.bool)
    spoilt[n, g * (C // groups) : (g + 1) * (C // groups), i, j] = True
    good = dict(each_implementation(call))
    for name, (out, _, grad_masks) in each_implementation(call._replace(masks=masks)):
        assert out.isnan().equal(spoilt), name
        assert out[~spoilt].equal(good[name][0][~spoilt]), name
        assert grad_masks.equal(good[name][2]), name


@check
@given(st.integers(1, 3), st.integers(1, 40), st.sampled_from([9, 16, 17]), st.sampled_from([3, 5]))
def test_same_bits_twice_and_for_any_number_of_threads(N, C, size, k):
    shapes = (N, C, size, size), (N, k * k, 2 * size, 2 * size), (N, C, 2 * size, 2 * size)
    call = Call(*map(torch.randn, shapes), (k, 1, 2))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(dict(each_implementation(call)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, tensors in other.items():
            assert all(a.equal(b) for a, b in zip(tensors, results[0][name], strict=True)), name


@pytest.mark.parametrize("name", implementations("cpu"))
def test_an_empty_batch_has_an_output_and_gradients(name):
    call = Call(torch.rand(0, 4, 3, 5), torch.rand(0, 9, 6, 10), torch.rand(0, 4, 6, 10), (3, 1, 2))
    with use_implementation("cpu", name):
        assert [t.shape for t in run(call)] == [(0, 4, 6, 10), (0, 4, 3, 5), (0, 9, 6, 10)]
