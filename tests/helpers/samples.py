# SPDX-License-Identifier: Apache-2.0
"""The operator as loops, the inputs it is checked on, and how close each dtype has to come."""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mmcarafe.ops import carafe, carafe_downsample, implementations

# The inputs are exact in every dtype. Results are: accumulated in float32 or better, then rounded once.
TOLERANCE = {
    torch.float64: dict(rtol=1e-12, atol=1e-12),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.float16: dict(rtol=2**-10, atol=1e-5),
    torch.bfloat16: dict(rtol=2**-7, atol=1e-5),
}


def assert_close(actual: Tensor, expected: Tensor, **tolerance) -> None:
    """Compare with float64 values, as closely as the dtype of ``actual`` allows."""
    tolerance = tolerance or TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected.double(), **tolerance)


def loop(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    """The operator read off its formula: one product at a time, terms outside the map left out."""
    return _loop(features, masks, k, groups, lambda target: target // scale)


def loop_downsample(features: Tensor, masks: Tensor, k: int, groups: int, stride: int) -> Tensor:
    """The same of the downsampling operator."""
    return _loop(features, masks, k, groups, lambda target: stride * target)


def _loop(features: Tensor, masks: Tensor, k: int, groups: int, centre: Callable[[int], int]) -> Tensor:
    N, C, H, W = features.shape
    r, target = k // 2, masks.shape[2:]
    out = features.new_zeros(N, C, *target)
    for c, i, j in product(range(C), *map(range, target)):
        total = features.new_zeros(N)
        for dy, dx in product(range(-r, r + 1), repeat=2):
            y, x = centre(i) + dy, centre(j) + dx
            if 0 <= y < H and 0 <= x < W:
                kernel = c // (C // groups) * k * k + (dy + r) * k + (dx + r)
                total = total + masks[:, kernel, i, j] * features[:, c, y, x]
        out[:, c, i, j] = total
    return out


class Sample(NamedTuple):
    """Sizes of one call of the operator."""

    N: int
    C: int
    H: int
    W: int
    k: int
    groups: int
    scale: int

    operator = staticmethod(carafe)
    loop = staticmethod(loop)

    def __str__(self) -> str:
        return f"{self.N}x{self.C}x{self.H}x{self.W}-k{self.k}-g{self.groups}-s{self.scale}"

    @property
    def args(self) -> tuple[int, int, int]:
        return self.k, self.groups, self.scale

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of features, masks and output."""
        N, C, H, W, k, groups, s = self
        return (N, C, H, W), (N, groups * k * k, s * H, s * W), (N, C, s * H, s * W)

    def tensors(self, dtype=torch.float64, device="cpu", requires_grad=False) -> list[Tensor]:
        """Features, masks and a gradient of the output, the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(sum(self))
        return [
            torch.randn(shape, generator=generator).bfloat16().to(device, dtype).requires_grad_(requires_grad)
            for shape in self.shapes
        ]

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output and gradients of features and masks, from the loop in float64."""
        return _expected(self)


class Downsample(Sample):
    """The same of the downsampling operator: scale is the stride, and H and W are sizes of the output."""

    operator = staticmethod(carafe_downsample)
    loop = staticmethod(loop_downsample)

    def __str__(self) -> str:
        return f"{super().__str__()}-down"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of features, masks and output."""
        N, C, H, W, k, groups, s = self
        return (N, C, s * H, s * W), (N, groups * k * k, H, W), (N, C, H, W)


@lru_cache(maxsize=None, typed=True)
def _expected(sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    features, masks, grad = sample.tensors(requires_grad=True)
    out = sample.loop(features, masks, *sample.args)
    if out.grad_fn is None:  # nothing was multiplied
        return out, torch.zeros_like(features), torch.zeros_like(masks)
    return out.detach(), *torch.autograd.grad(out, (features, masks), grad)


SAMPLES = [
    Sample(2, 4, 3, 5, k=3, groups=1, scale=2),
    Sample(1, 4, 5, 3, k=5, groups=2, scale=2),
    Sample(1, 8, 4, 3, k=3, groups=4, scale=2),
    Sample(2, 3, 4, 5, k=1, groups=1, scale=2),
    Sample(1, 1, 6, 7, k=7, groups=1, scale=1),
    Sample(2, 2, 5, 4, k=3, groups=2, scale=1),
    Sample(1, 2, 3, 4, k=3, groups=2, scale=3),
    Sample(1, 3, 3, 2, k=3, groups=1, scale=4),
    Sample(1, 4, 1, 1, k=5, groups=2, scale=2),  # one pixel
    Sample(3, 2, 1, 6, k=3, groups=1, scale=2),  # one row
    Sample(1, 2, 2, 3, k=7, groups=1, scale=2),  # the kernel reaches over the whole map
    Sample(2, 1, 4, 5, k=3, groups=1, scale=2),  # one channel
    # sizes around those that compiled kernels work in: lanes, rows, channels
    Sample(1, 4, 2, 37, k=3, groups=2, scale=2),
    Sample(1, 1, 2, 19, k=3, groups=1, scale=3),
    Sample(1, 2, 9, 35, k=5, groups=1, scale=1),
    Sample(1, 67, 2, 3, k=3, groups=1, scale=2),
    Sample(1, 2, 4, 3, k=9, groups=1, scale=2),
    Sample(0, 4, 3, 5, k=3, groups=1, scale=2),
    Sample(2, 4, 0, 5, k=3, groups=1, scale=2),
    Sample(2, 4, 3, 0, k=3, groups=2, scale=2),
    Sample(2, 0, 3, 4, k=3, groups=1, scale=2),
]

DOWNSAMPLES = [Downsample(*sample) for sample in SAMPLES if sample.scale > 1]

every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
every_operators_sample = pytest.mark.parametrize("sample", SAMPLES + DOWNSAMPLES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
# Compiled kernels where they are built, and always the reference.
every_implementation = pytest.mark.parametrize("implementation", implementations("cpu"), indirect=True)
fastest_and_reference = pytest.mark.parametrize(
    "implementation", dict.fromkeys([implementations("cpu")[0], "reference"]), indirect=True
)
# Where Triton's kernels run: on a GPU, or in Triton's interpreter.
TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the interpreter of earlier ones makes numbers of arrays, which numpy 2.4 refuses
needs_triton = pytest.mark.needs(triton="3.4" if TRITON_DEVICE == "cuda" else "3.6")
# What differs between devices is checked on both; what needs a GPU is skipped visibly without one.
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
