# SPDX-License-Identifier: Apache-2.0
"""Both operators on a GPU: every implementation's values, and what torch and CUDA ask of an op there."""

from contextlib import nullcontext

import pytest
import torch
from samples import TOLERANCE, Downsample, Sample, assert_close, every_dtype, every_operators_sample
from sweep import REFERENCE, Ops, check, sweep
from torch.autograd import gradcheck, gradgradcheck

from mmcarafe.ops import carafe, carafe_downsample, cuda, implementations, reference, use_implementation
from mmcarafe.ops.carafe_downsample import DOWNSAMPLE_KERNELS

pytestmark = pytest.mark.needs_cuda
SAMPLE = Sample(2, 6, 5, 7, k=3, groups=2, scale=2)
OPS = torch.ops.mmcarafe
every_kind = pytest.mark.parametrize("kind", [Sample, Downsample])
every_implementation = pytest.mark.parametrize("name", ["chosen", *implementations("cuda")])
every_format = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=str
)


@pytest.fixture
def run(name):
    """Calls the operator and its backward pass with one implementation, or skips what that one cannot do."""

    def values(features, masks, grad, sample):
        operator, args = sample.operator, sample.args
        features, masks = (t.detach().requires_grad_() for t in (features, masks))
        if name == "chosen":
            out = operator(features, masks, *args)
            return out.detach(), *torch.autograd.grad(out, (features, masks), grad)
        for op, tensors in (("carafe", (features, masks)), ("carafe_backward", (grad, features, masks))):
            if reason := cuda.IMPLEMENTATIONS[name].why_not(op, tensors, *args):
                pytest.skip(f"{name}: {reason}")
        with use_implementation("cuda", name):
            out = operator(features, masks, *args)
            return out.detach(), *torch.autograd.grad(out, (features, masks), grad)

    return values


@every_implementation
@every_format
@every_dtype
@every_operators_sample
def test_output_and_gradients_equal_the_loop(sample, dtype, memory_format, run):
    tensors = [t.contiguous(memory_format=memory_format) for t in sample.tensors(dtype, "cuda")]
    for actual, expected in zip(run(*tensors, sample), sample.expected(), strict=True):
        assert actual.is_cuda and actual.dtype == dtype
        assert_close(actual.cpu(), expected)


def test_sweep_equals_the_reference():
    ops = Ops(carafe, OPS.carafe_grad_features, OPS.carafe_grad_masks)
    sweep(lambda z: check(z, ops, "cuda", REFERENCE), examples=60)


def test_sweep_of_downsampling_equals_its_definition():
    ops = Ops(*(getattr(OPS, name) for name in DOWNSAMPLE_KERNELS))
    expected = Ops(*DOWNSAMPLE_KERNELS.values())
    sweep(lambda z: check(z, ops, "cuda", expected, downsample=True), examples=60)


@every_kind
@every_implementation
@pytest.mark.parametrize("wanted", ["features", "masks"])
def test_one_gradient_alone(wanted, run, name, kind):
    sample = kind(*SAMPLE)
    features, masks, grad = sample.tensors(torch.float32, "cuda")
    run(features, masks, grad, sample)  # skips where it cannot run
    leaf = features if wanted == "features" else masks
    leaf.requires_grad_()
    with nullcontext() if name == "chosen" else use_implementation("cuda", name):
        sample.operator(features, masks, *SAMPLE.args).backward(grad)
    assert_close(leaf.grad.cpu(), sample.expected()[1 if wanted == "features" else 2])


@every_kind
def test_derivatives_of_every_order(kind):
    sample = kind(1, 2, 2, 1, k=3, groups=2, scale=2)
    features, masks, _ = sample.tensors(device="cuda", requires_grad=True)
    assert gradcheck(lambda x, m: sample.operator(x, m, *sample.args), (features, masks))
    assert gradgradcheck(lambda x, m: sample.operator(x, m, *sample.args), (features, masks))


@every_kind
@every_implementation
def test_second_derivatives_equal_the_references(run, name, kind):
    """In float32, which the kernels serve; finite differences take float64, which only the reference does."""

    sample = kind(*SAMPLE)

    def second(device, dtype):
        features, masks, grad = sample.tensors(dtype, device, requires_grad=True)
        out = sample.operator(features, masks, *SAMPLE.args)
        first = torch.autograd.grad(out, (features, masks), grad, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), (features, masks, grad))

    run(*sample.tensors(torch.float32, "cuda"), sample)  # skips where it cannot run
    with nullcontext() if name == "chosen" else use_implementation("cuda", name):
        actual = second("cuda", torch.float32)
    for a, b in zip(actual, second("cpu", torch.float64), strict=True):
        assert_close(a.cpu(), b, rtol=1e-4, atol=1e-3)


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_kind
@pytest.mark.parametrize("sample", [SAMPLE, Sample(0, 4, 3, 5, k=3, groups=1, scale=2)], ids=str)
def test_opcheck(sample, dtype, memory_format, kind):
    sample = kind(*sample)
    features, masks, grad = (t.contiguous(memory_format=memory_format) for t in sample.tensors(dtype, "cuda"))
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if dtype == torch.float32:
        features.requires_grad_()
        utils.append("test_aot_dispatch_dynamic")
    op = OPS.carafe if kind is Sample else OPS.carafe_downsample
    torch.library.opcheck(op.default, (features, masks, *sample.args), test_utils=utils)
    if kind is Sample:
        inputs = (grad, features.detach(), masks, *sample.args)
        torch.library.opcheck(OPS.carafe_backward.default, inputs, test_utils=utils)


@every_kind
@every_format
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_compiled_without_graph_break_equals_eager(dtype, memory_format, kind):
    torch.compiler.reset()
    sample = kind(*SAMPLE)

    def function(x, m):
        return sample.operator(x * 2, m, *SAMPLE.args).relu()

    pair = [
        t.contiguous(memory_format=memory_format).requires_grad_() for t in sample.tensors(dtype, "cuda")[:2]
    ]
    results = []
    for run in (torch.compile(function, fullgraph=True), function):
        out = run(*pair)
        results.append((out, *torch.autograd.grad(out.sum(), pair)))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_computes_in_its_dtype(dtype, kind):
    sample = kind(*SAMPLE)
    features, masks, grad = sample.tensors(torch.float32, "cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=dtype):
        out = sample.operator(features, masks, *SAMPLE.args)
    assert out.dtype == dtype
    out.backward(grad.to(dtype))
    assert features.grad.dtype == masks.grad.dtype == torch.float32
    actual = (out, features.grad, masks.grad)
    for result, expected in zip(actual, sample.expected(), strict=True):
        assert_close(result.cpu(), expected, rtol=2**-7, atol=1e-5)


@every_kind
@every_implementation
def test_no_synchronisation_and_a_cuda_graph_replays(run, name, kind):
    sample = kind(*SAMPLE)
    if kind is Downsample and cuda.IMPLEMENTATIONS.get(name) and name != "triton":
        pytest.skip("without a kernel of its own downsampling copies the numbers of taps to the GPU")
    features, masks, grad = sample.tensors(torch.float32, "cuda")
    expected = run(features, masks, grad, sample)  # compiles what is compiled at first use
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(features, masks, grad, sample)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph, static = torch.cuda.CUDAGraph(), [torch.zeros_like(t) for t in (features, masks, grad)]
    with torch.cuda.graph(graph):
        captured = run(*static, sample)
    for t, value in zip(static, (features, masks, grad), strict=True):
        t.copy_(value)
    graph.replay()
    assert all(a.equal(b) for a, b in zip(captured, expected, strict=True))


@every_kind
@every_implementation
def test_the_same_bits_again(run, kind):
    sample = kind(2, 70, 19, 21, k=5, groups=1, scale=2)
    tensors = sample.tensors(torch.float32, "cuda")
    first, second = (run(*tensors, sample) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    features, masks, grad = SAMPLE.tensors(torch.float32, "cuda:1", requires_grad=True)
    assert torch.cuda.current_device() == 0
    out = carafe(features, masks, *SAMPLE.args)
    out.backward(grad)
    for result, expected in zip((out, features.grad, masks.grad), SAMPLE.expected(), strict=True):
        assert result.device == torch.device("cuda:1")
        assert_close(result.cpu(), expected)


def memory_at_least(gigabytes: float) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 2**30:
        pytest.skip(f"{gigabytes} GiB of free GPU memory needed, {free / 2**30:.0f} found")


def test_more_target_pixels_than_32_bit_launch_counts_allow(monkeypatch):
    """Past 2.68 million, mmcv's backward launch overflows."""
    memory_at_least(6)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    features, masks = torch.randn(1, 8, 900, 900, device="cuda"), torch.rand(1, 25, 1800, 1800, device="cuda")
    grad = torch.randn(1, 8, 1800, 1800, device="cuda")
    assert cuda.choose("carafe_backward", (grad, features, masks), 5, 1, 2) == "triton"
    d_features, d_masks = OPS.carafe_backward(grad, features, masks, 5, 1, 2)
    expected = reference.grad_features(grad, masks, 5, 1, 2)
    torch.testing.assert_close(d_features, expected, rtol=1e-4, atol=1e-4)
    expected = reference.grad_masks(grad, features, 5, 1, 2)
    torch.testing.assert_close(d_masks, expected, rtol=1e-4, atol=1e-4)


def test_outputs_of_more_than_2_to_the_31_elements(monkeypatch):
    memory_at_least(12)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    size = 2048
    features = torch.randn(1, 136, size, size, device="cuda", dtype=torch.bfloat16)
    masks = torch.rand(1, 9, 2 * size, 2 * size, device="cuda", dtype=torch.bfloat16)
    assert cuda.choose("carafe", (features, masks), 3, 1, 2) == "triton"
    out = carafe(features, masks, 3, 1, 2)
    assert out.numel() > 2**31
    corner = (slice(None), slice(-8, None), slice(-9, None), slice(-9, None))
    expected = reference.carafe(features[corner], masks[..., -18:, -18:], 3, 1, 2)
    assert_close(out[:, -8:, -16:, -16:], expected[..., 2:, 2:])


def test_features_of_more_than_2_to_the_31_elements_are_downsampled(monkeypatch):
    memory_at_least(12)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    size = 2048
    features = torch.randn(1, 136, 2 * size, 2 * size, device="cuda", dtype=torch.bfloat16)
    masks = torch.rand(1, 9, size, size, device="cuda", dtype=torch.bfloat16)
    assert cuda.choose("carafe_downsample", (features, masks), 3, 1, 2) == "triton"
    assert features.numel() > 2**31
    out = carafe_downsample(features, masks, 3, 1, 2)
    corner = features[:, -8:, -36:, -36:].contiguous(), masks[..., -18:, -18:].contiguous()
    expected = DOWNSAMPLE_KERNELS["carafe_downsample"](*corner, 3, 1, 2)
    assert_close(out[:, -8:, -16:, -16:], expected[..., 2:, 2:])
    to_features = OPS.carafe_downsample_grad_features(out, masks, 3, 1, 2)
    corner = out[:, -8:, -18:, -18:].contiguous(), corner[1]
    expected = DOWNSAMPLE_KERNELS["carafe_downsample_grad_features"](*corner, 3, 1, 2)
    assert_close(to_features[:, -8:, -32:, -32:], expected[..., 4:, 4:])
