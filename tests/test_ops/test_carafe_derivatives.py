# SPDX-License-Identifier: Apache-2.0
"""Derivatives of every op against finite differences, and torch's own checks of a custom op."""

import pytest
import torch
from samples import SAMPLES, Downsample, Sample, fastest_and_reference
from torch.autograd import gradcheck, gradgradcheck

import mmcarafe.ops  # noqa: F401  registers the ops

# Finite differences call the op twice for each element.
few_samples = pytest.mark.parametrize(
    "sample",
    [Sample(1, 2, 2, 1, k=3, groups=2, scale=2), Sample(2, 2, 1, 2, k=3, groups=1, scale=1)],
    ids=str,
)
INPUTS = {
    "carafe": ("features", "masks"),
    "carafe_grad_features": ("grad", "masks"),
    "carafe_grad_masks": ("grad", "features"),
    "carafe_backward": ("grad", "features", "masks"),
    "carafe_downsample": ("features", "masks"),
    "carafe_downsample_grad_features": ("grad", "masks"),
    "carafe_downsample_grad_masks": ("grad", "features"),
}
every_op = pytest.mark.parametrize("name", INPUTS)
OPCHECKED = {
    "contiguous": (Sample(2, 4, 3, 5, k=3, groups=2, scale=2), torch.contiguous_format),
    "channels_last": (Sample(2, 4, 3, 5, k=3, groups=2, scale=2), torch.channels_last),
    "one_row": (Sample(1, 1, 1, 4, k=3, groups=1, scale=2), torch.contiguous_format),
    "batch_0": (Sample(0, 4, 3, 5, k=3, groups=1, scale=2), torch.contiguous_format),
    "height_0": (Sample(2, 4, 0, 5, k=3, groups=1, scale=2), torch.contiguous_format),
}


def call(name, sample, dtype=torch.float64, requires_grad=True):
    """An op with arguments that fit it."""
    if "downsample" in name:
        sample = Downsample(*sample)
    tensors = dict(
        zip(("features", "masks", "grad"), sample.tensors(dtype, requires_grad=requires_grad), strict=True)
    )
    op = getattr(torch.ops.mmcarafe, name).default
    return op, (*(tensors[t] for t in INPUTS[name]), *sample.args)


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@every_op
@few_samples
def test_first_derivatives(sample, name):
    assert gradcheck(*call(name, sample))


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@every_op
@few_samples
def test_second_derivatives(sample, name):
    assert gradgradcheck(*call(name, sample))


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@every_op
def test_what_an_op_returns_may_be_changed_in_place_as_by_a_relu(name):
    op, inputs = call(name, Sample(2, 4, 3, 5, k=3, groups=2, scale=2))
    outputs = op(*inputs)
    for output in outputs if isinstance(outputs, tuple) else [outputs]:
        output.relu_().sum().backward(retain_graph=True)
    assert all(tensor.grad is not None for tensor in inputs[:-3])


@every_op
def test_derivatives_of_an_empty_batch_are_empty(name):
    op, inputs = call(name, Sample(0, 4, 3, 5, k=3, groups=2, scale=2))
    outputs, tensors = op(*inputs), inputs[:-3]
    total = sum(t.sum() for t in outputs) if name == "carafe_backward" else outputs.sum()
    gradients = torch.autograd.grad(total, tensors, create_graph=True)
    assert [g.shape for g in gradients] == [t.shape for t in tensors]


@pytest.mark.usefixtures("implementation")
@fastest_and_reference
@every_op
@pytest.mark.parametrize(("sample", "memory_format"), OPCHECKED.values(), ids=OPCHECKED)
def test_opcheck(name, sample, memory_format):
    op, (first, *others) = call(name, sample, torch.float32)
    first = first.detach().contiguous(memory_format=memory_format).requires_grad_()
    torch.library.opcheck(op, (first, *others))


@every_op
def test_opcheck_of_a_half_precision_call_without_gradients(name):
    op, inputs = call(name, SAMPLES[0], torch.bfloat16, requires_grad=False)
    torch.library.opcheck(op, inputs)
