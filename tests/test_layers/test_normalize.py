# SPDX-License-Identifier: Apache-2.0
"""The softmax over the taps of kernels, in each memory format."""

import pytest
import torch
from samples import assert_close

from mmcarafe.layers.normalize import normalize_kernels

FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("groups", [1, 2])
def test_each_kernel_is_a_softmax_of_its_taps_in_the_format_of_the_logits(groups, memory_format):
    logits = (5 * torch.randn(2, groups * 9, 3, 4)).to(memory_format=memory_format).requires_grad_()
    kernels = normalize_kernels(logits, groups)
    exponents = logits.detach().double().exp().reshape(2, groups, 9, 3, 4)
    expected = (exponents / exponents.sum(2, keepdim=True)).reshape(2, groups * 9, 3, 4)
    assert_close(kernels, expected)
    assert kernels.is_contiguous(memory_format=memory_format)
    grad = torch.randn(2, groups * 9, 3, 4).contiguous(memory_format=memory_format)
    kernels.backward(grad)
    weighted = (grad.double() * expected).reshape(2, groups, 9, 3, 4).sum(2, keepdim=True)
    weighted = weighted.expand(-1, -1, 9, -1, -1).reshape_as(grad)
    assert_close(logits.grad, expected * (grad.double() - weighted))
    assert logits.grad.is_contiguous(memory_format=memory_format)
