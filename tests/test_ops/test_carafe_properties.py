# SPDX-License-Identifier: Apache-2.0
"""What the mathematics promises for every input, on inputs drawn at random."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import Downsample, Sample, assert_close, fastest_and_reference

from mmcarafe import carafe
from mmcarafe.ops import carafe_downsample

pytestmark = [fastest_and_reference, pytest.mark.usefixtures("implementation")]
check = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    # the fixtures seed torch and fill memory; neither has to start again for each example
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@st.composite
def samples(draw, max_batch=2, kernels=(1, 3, 5)):
    groups = draw(st.sampled_from([1, 2, 3]))
    return Sample(
        N=draw(st.integers(1, max_batch)),
        C=groups * draw(st.integers(1, 3)),
        H=draw(st.integers(1, 6)),
        W=draw(st.integers(1, 6)),
        k=draw(st.sampled_from(kernels)),
        groups=groups,
        scale=draw(st.integers(1, 3)),
    )


def repeat_pixels(t, scale):
    return t.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


@check
@given(samples())
def test_uniform_mask_is_the_box_mean_over_a_zero_frame(sample):
    features, masks, _ = sample.tensors()
    uniform = torch.full_like(masks, 1 / sample.k**2)
    mean = F.avg_pool2d(features, sample.k, stride=1, padding=sample.k // 2, count_include_pad=True)
    assert_close(carafe(features, uniform, *sample.args), repeat_pixels(mean, sample.scale))


@check
@given(samples(kernels=[1]))
def test_scale_1_kernel_1_with_ones_is_the_identity(sample):
    features, _, _ = sample.tensors()
    ones = torch.ones(sample.N, sample.groups, sample.H, sample.W, dtype=features.dtype)
    assert carafe(features, ones, 1, sample.groups, 1).equal(features)


@check
@given(samples(), st.floats(-3, 3))
def test_linear_in_features_and_in_masks(sample, a):
    x, m, _ = sample.tensors()
    y, n = torch.randn_like(x), torch.randn_like(m)
    args = sample.args
    assert_close(carafe(a * x + y, m, *args), a * carafe(x, m, *args) + carafe(y, m, *args))
    assert_close(carafe(x, a * m + n, *args), a * carafe(x, m, *args) + carafe(x, n, *args))


@check
@given(samples(), st.randoms(use_true_random=False))
def test_channels_of_a_group_are_interchangeable(sample, random):
    features, masks, _ = sample.tensors()
    size = sample.C // sample.groups
    order = [
        group * size + channel
        for group in range(sample.groups)
        for channel in random.sample(range(size), size)
    ]
    permuted = carafe(features[:, order], masks, *sample.args)
    assert permuted.equal(carafe(features, masks, *sample.args)[:, order])


@check
@given(samples())
def test_groups_are_separate_calls(sample):
    features, masks, _ = sample.tensors()
    parts = [
        carafe(f, m, sample.k, 1, sample.scale)
        for f, m in zip(features.chunk(sample.groups, 1), masks.chunk(sample.groups, 1), strict=True)
    ]
    assert_close(carafe(features, masks, *sample.args), torch.cat(parts, 1))


@check
@given(samples(max_batch=4))
def test_images_of_a_batch_are_separate_calls(sample):
    features, masks, _ = sample.tensors()
    images = [carafe(f[None], m[None], *sample.args) for f, m in zip(features, masks, strict=True)]
    assert_close(carafe(features, masks, *sample.args), torch.cat(images))


@check
@given(samples(kernels=[1, 3]), st.integers(0, 3), st.integers(0, 3))
def test_a_crop_of_the_output_needs_a_crop_of_the_input_and_its_surround(sample, top, left):
    larger = sample._replace(H=sample.H + 6, W=sample.W + 7)
    features, masks, _ = larger.tensors()
    k, _, s = sample.args
    r, (bottom, right) = k // 2, (top + sample.H + 2, left + sample.W + 2)
    part = carafe(
        features[:, :, top:bottom, left:right],
        masks[:, :, top * s : bottom * s, left * s : right * s],
        *sample.args,
    )
    whole = carafe(features, masks, *sample.args)[:, :, top * s : bottom * s, left * s : right * s]
    inside = (..., slice(r * s, (bottom - top - r) * s), slice(r * s, (right - left - r) * s))
    assert part[inside].numel() > 0
    assert_close(part[inside], whole[inside])


@check
@given(samples())
def test_the_three_ops_are_adjoint(sample):
    """<carafe(x, m), g> = <x, grad_features(g, m)> = <m, grad_masks(g, x)>: all are one trilinear form."""
    features, masks, grad = sample.tensors()
    ops = torch.ops.mmcarafe
    form = (carafe(features, masks, *sample.args) * grad).sum()
    assert_close((features * ops.carafe_grad_features(grad, masks, *sample.args)).sum(), form)
    assert_close((masks * ops.carafe_grad_masks(grad, features, *sample.args)).sum(), form)


@check
@given(samples())
def test_downsampling_is_every_stride_th_pixel_of_scale_1(sample):
    """Sizes that are no multiples of the stride included; and so are its gradients."""
    k, groups, stride = sample.args
    features, masks, _ = sample._replace(scale=1).tensors(requires_grad=True)
    every = (..., slice(None, None, stride), slice(None, None, stride))
    results = []
    for out in (
        carafe_downsample(features, masks[every], *sample.args),
        carafe(features, masks, k, groups, 1)[every],
    ):
        results.append((out, *torch.autograd.grad(out.square().sum(), (features, masks))))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected)


@check
@given(samples())
def test_uniform_mask_of_downsampling_is_average_pooling(sample):
    k, groups, stride = sample.args
    features, _, _ = sample.tensors()
    mean = F.avg_pool2d(features, k, stride, k // 2, count_include_pad=True)
    masks = torch.full((sample.N, groups * k * k, *mean.shape[2:]), 1 / k**2, dtype=features.dtype)
    assert_close(carafe_downsample(features, masks, *sample.args), mean)


@check
@given(samples())
def test_the_three_ops_of_downsampling_are_adjoint(sample):
    features, masks, grad = Downsample(*sample).tensors()
    ops = torch.ops.mmcarafe
    form = (carafe_downsample(features, masks, *sample.args) * grad).sum()
    assert_close((features * ops.carafe_downsample_grad_features(grad, masks, *sample.args)).sum(), form)
    assert_close((masks * ops.carafe_downsample_grad_masks(grad, features, *sample.args)).sum(), form)
