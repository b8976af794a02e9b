# SPDX-License-Identifier: Apache-2.0
"""Calls of the three ops, of sizes, dtypes and layouts drawn at random, compared with the reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcarafe.ops import reference

# of the largest value: sums of up to 81 terms, or of the channels, in another order than the reference's
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

SIZES = dict(
    N=st.integers(0, 2),
    groups=st.integers(1, 3),
    per_group=st.sampled_from([1, 3, 4, 5, 17, 66]),
    H=st.integers(1, 9),
    W=st.sampled_from([1, 2, 7, 14, 15, 16, 17, 33]),
    k=st.sampled_from([1, 3, 5, 7, 9]),
    scale=st.integers(1, 4),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
    seed=st.integers(0, 2**16),
)


class Ops(NamedTuple):
    """The operator and the ops that give its gradients, by whatever implementation is tested."""

    carafe: Callable
    grad_features: Callable
    grad_masks: Callable


def draw(layout: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    t = torch.randn(*shape).to(dtype)
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last)
    return t.transpose(2, 3).contiguous().transpose(2, 3) if layout == "strided" else t


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    limit = TOLERANCE[theirs.dtype] * float(theirs.double().abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(ours.double().cpu(), theirs.double(), rtol=0, atol=limit)
    assert ours.dtype == theirs.dtype


REFERENCE = Ops(reference.carafe, reference.grad_features, reference.grad_masks)


def check(
    z: dict[str, Any], ops: Ops, device: str = "cpu", expected: Ops = REFERENCE, downsample: bool = False
) -> None:
    """Compare one call of each op with the reference on the CPU."""
    torch.manual_seed(z["seed"])
    N, H, W, k, G, s = (z[key] for key in ("N", "H", "W", "k", "groups", "scale"))
    C, args = G * z["per_group"], (k, G, s)
    source, target = (H, W), (s * H, s * W)
    if downsample:
        source, target = target, source
    x = draw(z["layout"], z["dtype"], N, C, *source)
    m = draw(z["layout"], z["dtype"], N, G * k * k, *target)
    grad = draw(z["layout"], z["dtype"], N, C, *target)
    dx, dm, dgrad = (t.to(device) for t in (x, m, grad))
    close(ops.carafe(dx, dm, *args), expected.carafe(x, m, *args))
    close(ops.grad_features(dgrad, dm, *args), expected.grad_features(grad, m, *args))
    close(ops.grad_masks(dgrad, dx, *args), expected.grad_masks(grad, x, *args))


def sweep(test: Callable[[dict], None], examples: int, **sizes: st.SearchStrategy) -> None:
    """Run a test on drawn sizes; ``sizes`` are added to SIZES or replace some of them."""
    drawn = given(st.fixed_dictionaries(SIZES | sizes))
    settings(max_examples=examples, deadline=None, derandomize=True, database=None)(drawn(test))()
