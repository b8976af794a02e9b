# SPDX-License-Identifier: Apache-2.0
"""The reference functions themselves: cutting into blocks of any size."""

import pytest
import torch
from samples import Sample, assert_close, every_sample

from mmcarafe.ops import reference


def results(sample, dtype=torch.float64):
    features, masks, grad = sample.tensors(dtype)
    return (
        reference.carafe(features, masks, *sample.args),
        reference.grad_features(grad, masks, *sample.args),
        reference.grad_masks(grad, features, *sample.args),
    )


@pytest.mark.parametrize("block", [7, 64])
@every_sample
def test_blocks_of_any_size_give_the_loops_values(sample, block, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", block)
    for actual, expected in zip(results(sample), sample.expected(), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize(
    "sizes", [(5, 2, 3, 4), (3, 16, 40, 40), (1, 1, 1, 1), (0, 2, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str
)
@pytest.mark.parametrize("block", [1, 7, 64, 3000, 10**9])
def test_blocks_cover_every_row_of_every_image_once(sizes, block, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", block)
    N, C, H, W = sizes
    covered = torch.zeros(N, H, dtype=torch.int)
    for n, y, h in reference._blocks(N, C, H, W):
        covered[n, y : y + h] += 1
        rows = covered[n].shape[0] * h
        assert rows <= 1 or rows * C * W <= block
    assert covered.eq(1).all()


def test_a_map_larger_than_a_block_equals_one_block(monkeypatch):
    sample = Sample(2, 16, 90, 170, k=3, groups=2, scale=1)
    assert sample.C * sample.H * sample.W < reference._BLOCK < sample.N * sample.C * sample.H * sample.W
    default = results(sample, torch.float32)
    monkeypatch.setattr(reference, "_BLOCK", 10**9)
    for actual, expected in zip(default, results(sample, torch.float32), strict=True):
        assert_close(actual, expected)
