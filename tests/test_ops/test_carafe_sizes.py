# SPDX-License-Identifier: Apache-2.0
"""Sizes beyond 31 and 63 bits: shapes without memory, refusals, and addresses in a map of 4 GiB."""

import pytest
import torch
from torch import Tensor

from mmcarafe.ops import carafe, implementations, use_implementation

OPS = torch.ops.mmcarafe
COMPILED = implementations("cpu")[:-1]


def view(device: str, *size: int) -> Tensor:
    """A tensor of any size on one element of memory."""
    return torch.ones((), device=device).expand(size)


@pytest.mark.parametrize(
    ("channels", "side"), [(64, 2**12), (1, 2**29)], ids=["2**32 elements", "2**60 elements"]
)
def test_large_shapes_on_meta(channels, side):
    features = view("meta", 1, channels, side, side).requires_grad_()
    masks = view("meta", 1, 1, 2 * side, 2 * side).requires_grad_()
    out = carafe(features, masks, 1, 1, 2)
    assert out.shape == (1, channels, 2 * side, 2 * side)
    grads = torch.autograd.grad(out, (features, masks), out.detach())
    assert [g.shape for g in grads] == [features.shape, masks.shape]


TOO_LARGE = {
    "2**63 elements": ((1, 4, 2**29, 2**30), 2),
    "2**63 bytes": ((1, 2**61, 1, 1), 1),
    "2**62 channels of one pixel": ((1, 2**62, 1, 1), 4),
    "an empty batch whose strides overflow": ((0, 1, 1, 2**40), 2**20),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(("size", "scale"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_output_that_no_tensor_can_hold_is_refused(size, scale, device):
    N, C, H, W = size
    masks = view(device, N, 1, scale * H, scale * W)
    with pytest.raises(ValueError, match=r"output: expected at most 2\*\*63 - 1 bytes, got shape ") as error:
        carafe(view(device, *size), masks, 1, 1, scale)
    assert str((N, C, scale * H, scale * W)) in str(error.value)


@pytest.mark.parametrize("number", [2**31 + 1, 2**32 + 1, 2**62 + 1, 2**63 + 1, 2**200 + 1])
@pytest.mark.parametrize("name", ["kernel_size", "group_size", "scale_factor"])
@pytest.mark.parametrize("batch", [0, 1])
def test_a_huge_number_is_refused_by_name(name, number, batch):
    args = {"kernel_size": 1, "group_size": 1, "scale_factor": 1, name: number}
    message = "group_size: expected a divisor" if name == "group_size" else "masks: expected shape"
    with pytest.raises(ValueError, match=message):
        carafe(torch.ones(batch, 1, 4, 4), torch.ones(batch, 1, 4, 4), **args)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_ops_refuse_products_that_wrap_around_to_a_size_that_fits(name):
    four, none = torch.zeros(1, 1, 4, 4), torch.zeros(1, 0, 1, 1)
    # 9 * groups is 1 to 9, modulo 2**64
    groups = next(g for n in range(1, 10) if (g := n * pow(9, -1, 2**64) % 2**64) < 2**63)
    with use_implementation("cpu", name):
        for op, first, second, *args in (
            (OPS.carafe, four, four, 1, 1, 2**62 + 1),
            (OPS.carafe_grad_features, none, none, 3, groups, 1),
            (OPS.carafe_grad_masks, none, none, 3, groups, 1),
            (OPS.carafe_grad_masks, none, none, 2**32 + 1, 1, 1),
            (OPS.carafe_grad_masks, four, four, 1, 1, 2**62 + 1),
        ):
            with pytest.raises(ValueError, match=r"a size does not fit 64 bits"):
                op(first, second, *args)


def free_memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_addresses_beyond_31_bits(layout):
    """33 x 8192 x 8192 output pixels: 2.2e9 elements, 4.4e9 bytes."""
    if free_memory() < 8 * 2**30:
        pytest.skip("less than 8 GiB of memory are free")
    # filling the output with NaN first takes as long as computing it
    torch.use_deterministic_algorithms(False)
    C, side = 33, 8192
    row = (torch.arange(side) % 4).bfloat16()
    features = row[::2].expand(1, C, side // 2, side // 2).contiguous(memory_format=layout)
    ones = torch.ones((), dtype=torch.bfloat16).expand(1, 1, side, side)
    last = (0, C - 1, side - 1)
    out = carafe(features, ones, 1, 1, 2)
    assert out.numel() > 2**31
    assert out[last].equal(row[::2].repeat_interleave(2))
    out.copy_(row)  # now the gradient
    grad_masks = OPS.carafe_grad_masks(out, features, 1, 1, 2)
    assert grad_masks[0, 0, -1].equal(C * row * row[::2].repeat_interleave(2))
    grad_features = OPS.carafe_grad_features(out, ones, 1, 1, 2)
    assert grad_features[0, -1, -1].equal(2 * (row[::2] + row[1::2]))
