# SPDX-License-Identifier: Apache-2.0
"""Values: output and both gradients against the loop, in every dtype and memory layout."""

import pytest
import torch
from samples import (
    SAMPLES,
    Downsample,
    Sample,
    assert_close,
    every_dtype,
    every_implementation,
    every_operators_sample,
    fastest_and_reference,
    loop,
)
from torch.utils._python_dispatch import TorchDispatchMode

from mmcarafe import carafe


def strided(t):
    """The same values at every second row and column of a larger tensor."""
    larger = torch.full((*t.shape[:2], 2 * t.shape[2], 2 * t.shape[3]), float("nan"), dtype=t.dtype)
    larger[:, :, ::2, 1::2] = t.detach()
    return larger[:, :, ::2, 1::2]


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "strided": strided,
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "batch_inside": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def run(features, masks, grad, args, operator=carafe):
    """Output and gradients of the operator for leaves with these values and strides."""
    features, masks = (t.detach().requires_grad_() for t in (features, masks))
    out = operator(features, masks, *args)
    out.backward(grad)
    return out.detach(), features.grad, masks.grad


@pytest.mark.usefixtures("implementation")
@every_implementation
@every_dtype
@every_operators_sample
def test_output_and_gradients_equal_the_loop(sample, dtype):
    results = run(*sample.tensors(dtype), sample.args, sample.operator)
    for actual, expected in zip(results, sample.expected(), strict=True):
        assert actual.dtype == dtype
        assert_close(actual, expected)


def test_the_loop_itself_on_numbers_done_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]])
    right, below = torch.eye(9)[5], torch.eye(9)[7]  # weight 1 on (dy, dx) = (0, 1) and on (1, 0)
    masks = torch.cat([right, below]).view(1, 18, 1, 1).expand(1, 18, 2, 2)
    expected = torch.tensor([[[[2.0, 0.0], [4.0, 0.0]], [[30.0, 40.0], [0.0, 0.0]]]])
    assert loop(features, masks, 3, 2, 1).equal(expected)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@every_layout
@every_operators_sample
def test_layout_of_each_tensor_changes_no_value(sample, layout):
    features, masks, grad = sample.tensors(torch.float32)
    for which in range(3):
        tensors = [features, masks, grad]
        tensors[which] = layout(tensors[which])
        for actual, expected in zip(
            run(*tensors, sample.args, sample.operator), sample.expected(), strict=True
        ):
            assert_close(actual, expected)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", [Sample, Downsample])
@every_dtype
def test_output_has_dtype_and_memory_format_of_features(dtype, kind, memory_format):
    sample = kind(2, 4, 3, 5, k=3, groups=1, scale=2)
    features, masks, _ = sample.tensors(dtype)
    for masks_format in (torch.contiguous_format, torch.channels_last):
        out = sample.operator(
            features.contiguous(memory_format=memory_format),
            masks.contiguous(memory_format=masks_format),
            *sample.args,
        )
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
def test_output_of_strided_features_is_contiguous():
    features, masks, _ = Sample(2, 4, 3, 5, k=3, groups=1, scale=2).tensors()
    assert carafe(strided(features), masks, 3, 1, 2).is_contiguous()


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@pytest.mark.parametrize("kind", [Sample, Downsample])
def test_gradients_keep_the_layout_of_a_channels_last_network(kind):
    sample = kind(2, 4, 3, 5, 3, 1, 2)
    features, masks, grad = map(LAYOUTS["channels_last"], sample.tensors())
    for result in run(features, masks, grad, sample.args, sample.operator):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
def test_gradient_of_a_sum_whose_strides_are_zero():
    features, masks, _ = Sample(2, 4, 3, 5, k=3, groups=2, scale=2).tensors(requires_grad=True)
    out = carafe(features, masks, 3, 2, 2)
    summed = torch.autograd.grad(out.sum(), (features, masks), retain_graph=True)
    for actual, expected in zip(
        summed, torch.autograd.grad(out, (features, masks), torch.ones_like(out)), strict=True
    ):
        assert_close(actual, expected)


class Called(TorchDispatchMode):
    """Collects the names of this package's ops that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mmcarafe":
            self.names.append(func._opname)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("wanted", "op"),
    [
        (["features"], "carafe_grad_features"),
        (["masks"], "carafe_grad_masks"),
        (["features", "masks"], "carafe_backward"),
    ],
    ids=["features", "masks", "both"],
)
def test_a_gradient_that_is_not_asked_for_is_not_computed(wanted, op):
    sample = SAMPLES[0]
    features, masks, grad = sample.tensors()
    tensors = dict(features=features, masks=masks)
    for name in wanted:
        tensors[name].requires_grad_()
    out = carafe(features, masks, *sample.args)
    kept = [tensor for tensor in out.grad_fn.saved_tensors if tensor is not None]
    assert len(kept) == len(wanted), "each gradient needs the other tensor alone"
    with Called() as called:
        out.backward(grad)
    assert called.names == [op]
    for name, expected in zip(tensors, sample.expected()[1:], strict=True):
        if name in wanted:
            assert_close(tensors[name].grad, expected)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
def test_inputs_are_left_as_they_were():
    sample = SAMPLES[0]
    tensors = sample.tensors()
    run(*tensors, sample.args)
    assert all(after.equal(before) for after, before in zip(tensors, sample.tensors(), strict=True))


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("implementation")
def test_half_precision_is_accumulated_in_float32(dtype):
    """In half precision a sum of ones stops at 2048 (float16) or 256 (bfloat16)."""
    ones = torch.ones(1, 4096, 1, 1, dtype=dtype)
    assert torch.ops.mmcarafe.carafe_grad_masks(ones, ones, 1, 1, 1).item() == 4096
    k = 47
    features, masks = torch.ones(1, 1, k, k, dtype=dtype), torch.ones(1, k * k, k, k, dtype=dtype)
    for op in (torch.ops.mmcarafe.carafe, torch.ops.mmcarafe.carafe_grad_features):
        assert op(features, masks, k, 1, 1)[0, 0, k // 2, k // 2] == torch.tensor(k * k).to(dtype)
