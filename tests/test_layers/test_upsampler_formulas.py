# SPDX-License-Identifier: Apache-2.0
"""Each learned upsampler equals its paper's formula, read off pixel by pixel in float64."""

from itertools import product

import pytest
import torch
from samples import assert_close, loop
from torch import Tensor, nn

from mmcarafe.layers import DLU, FADE, SAPA, DySample

SIZES = [(3, 4), (2, 1)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_scale = pytest.mark.parametrize("scale", [2, 3])


def lively(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double()


def linear(layer: nn.Module, pixel: Tensor) -> Tensor:
    """A 1 x 1 convolution or linear layer on one pixel's channels, Tensor[N, C]."""
    out = pixel @ layer.weight.flatten(1).T
    return out if layer.bias is None else out + layer.bias


def bilinear(x: Tensor, row: float, column: float) -> Tensor:
    """Pixels of Tensor[C, H, W] at a place between their centres; the border goes on outside."""
    _, H, W = x.shape
    row, column = min(max(row, 0), H - 1), min(max(column, 0), W - 1)
    total = 0
    for i, j in product(range(H), range(W)):
        total = total + max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) * x[:, i, j]
    return total


def at(x: Tensor, i: int, j: int) -> Tensor:
    """Pixels of Tensor[N, C, H, W], zero outside."""
    inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
    return x[:, :, i, j] if inside else x.new_zeros(x.shape[:2])


def convolve(x: Tensor, weight: Tensor, bias: Tensor, i: int, j: int, depthwise=False) -> Tensor:
    """One output pixel of a 3 x 3 convolution, Tensor[N, K]."""
    total = bias
    for dy, dx in product(range(3), repeat=2):
        pixel, tap = at(x, i + dy - 1, j + dx - 1), weight[:, :, dy, dx]
        total = total + (pixel * tap[:, 0] if depthwise else pixel @ tap.T)
    return total


@every_scale
@every_size
@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
@torch.no_grad()
def test_dysample(style, dyscope, size, scale):
    groups, C = 2, 2 * scale**2
    layer = lively(DySample(C, scale, style, groups, dyscope))
    x = torch.randn(2, C, *size, dtype=torch.float64)
    expected = x.new_zeros(2, C, scale * size[0], scale * size[1])
    for n, i, j, g in product(range(2), range(expected.shape[2]), range(expected.shape[3]), range(groups)):
        pixel, sub = x[n, :, i // scale, j // scale], i % scale * scale + j % scale
        if style == "lp":
            chosen = [(axis * groups + g) * scale**2 + sub for axis in range(2)]
        else:  # what pixel shuffle brings here
            pixel, chosen = pixel[sub :: scale**2], [axis * groups + g for axis in range(2)]
        move = linear(layer.offset, pixel)[chosen] * 0.25
        if dyscope:
            move = linear(layer.offset, pixel)[chosen] * linear(layer.scope, pixel)[chosen].sigmoid() * 0.5
        row, column = (i + 0.5) / scale - 0.5 + move[1].item(), (j + 0.5) / scale - 0.5 + move[0].item()
        channels = slice(g * C // groups, (g + 1) * C // groups)
        expected[n, channels, i, j] = bilinear(x[n, channels], row, column)
    assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_a_fresh_dysample_without_offsets_is_bilinear():
    layer, x = DySample(8), torch.rand(1, 8, 5, 6)
    nn.init.zeros_(layer.offset.weight)
    assert_close(
        layer(x), nn.functional.interpolate(x, scale_factor=2, mode="bilinear"), rtol=1e-5, atol=1e-5
    )


@every_scale
@every_size
@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_dlu(groups, size, scale):
    k = 3
    layer = lively(DLU(4, scale, k, groups, compressed_channels=3))
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    places = list(product(range(size[0]), range(size[1])))
    compressed = x.new_empty(2, 3, *size)
    kernels, offsets = x.new_empty(2, groups * k * k, *size), x.new_empty(2, 2 * groups * scale**2, *size)
    for i, j in places:
        compressed[:, :, i, j] = linear(layer.channel_compressor, x[:, :, i, j])
    for i, j in places:
        for out, conv in ((kernels, layer.kernel_space_generator), (offsets, layer.conv_offset)):
            out[:, :, i, j] = convolve(compressed, conv.weight, conv.bias, i, j)
        for g in range(groups):
            of_group = kernels[:, g * k * k : (g + 1) * k * k, i, j]
            of_group[:] = of_group.exp() / of_group.exp().sum(1, keepdim=True)
    masks = x.new_empty(2, groups * k * k, scale * size[0], scale * size[1])
    for n, i, j, g in product(range(2), range(masks.shape[2]), range(masks.shape[3]), range(groups)):
        sub = i % scale * scale + j % scale
        dx, dy = (
            offsets[n, (axis * groups + g) * scale**2 + sub, i // scale, j // scale].item()
            for axis in range(2)
        )
        of_group = slice(g * k * k, (g + 1) * k * k)
        masks[n, of_group, i, j] = bilinear(kernels[n, of_group], i // scale + dy, j // scale + dx)
    assert_close(layer(x), loop(x, masks, k, groups, scale), rtol=1e-6, atol=1e-6)


@every_scale
@every_size
@pytest.mark.parametrize("norm", ["layer", "group"])
@torch.no_grad()
def test_sapa(norm, size, scale):
    k, C, G = 3, 32, 64
    layer = lively(SAPA(C, G, scale, k, embedding_dim=5, norm=norm))
    x = torch.randn(2, C, *size, dtype=torch.float64)
    guide = torch.randn(2, G, scale * size[0], scale * size[1], dtype=torch.float64)

    def normalised(t, affine):
        if norm == "layer":
            mean, var = t.mean(1, keepdim=True), t.var(1, keepdim=True, correction=0)
        else:
            parts = t.unflatten(1, (32, -1))
            mean, var = parts.mean((2, 3, 4)), parts.var((2, 3, 4), correction=0)
            mean, var = (m.repeat_interleave(t.shape[1] // 32, 1)[:, :, None, None] for m in (mean, var))
        t = (t - mean) / (var + 1e-5).sqrt()
        return t * affine.weight[:, None, None] + affine.bias[:, None, None]

    normal_x, normal_guide = normalised(x, layer.norm_x), normalised(guide, layer.norm_y)
    logits = x.new_zeros(2, k * k, scale * size[0], scale * size[1])
    for i, j in product(range(logits.shape[2]), range(logits.shape[3])):
        query = linear(layer.q, normal_guide[:, :, i, j])
        for tap, (dy, dx) in enumerate(product(range(k), repeat=2)):
            row, column = i // scale + dy - 1, j // scale + dx - 1
            if 0 <= row < size[0] and 0 <= column < size[1]:
                logits[:, tap, i, j] = (query * linear(layer.k, normal_x[:, :, row, column])).sum(1)
    masks = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert_close(layer(x, guide), loop(x, masks, k, 1, scale))


@every_scale
@every_size
@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("lite", [False, True])
@torch.no_grad()
def test_fade(lite, gate, size, scale):
    k, C = 3, 4
    layer = lively(FADE(C, C, scale, k, compressed_channels=5, gate=gate, lite=lite))
    x = torch.randn(2, C, *size, dtype=torch.float64)
    guide = torch.randn(2, C, scale * size[0], scale * size[1], dtype=torch.float64)
    parts = layer.kernel_generator
    fine, coarse = (
        torch.stack([linear(conv, t.flatten(2)[..., p]) for p in range(t[0, 0].numel())], -1).unflatten(
            -1, t.shape[2:]
        )
        for conv, t in ((parts.conv1_en, guide), (parts.conv1_de, x))
    )
    masks, mixed = x.new_empty(2, k * k, *guide.shape[2:]), x.new_zeros(2, 1, *guide.shape[2:])
    for i, j in product(range(guide.shape[2]), range(guide.shape[3])):
        shared = parts.conv2_kernels, parts.conv2_bias
        logits = convolve(fine, *shared, i, j, lite) + convolve(coarse, *shared, i // scale, j // scale, lite)
        masks[:, :, i, j] = logits.exp() / logits.exp().sum(1, keepdim=True)
        if gate:
            mixed[:, :, i, j] = linear(layer.gate_generator.conv, x[:, :, i // scale, j // scale]).sigmoid()
    expected = mixed * guide + (1 - mixed) * loop(x, masks, k, 1, scale)
    assert_close(layer(x, guide), expected)
