# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module: shapes, the same network as mmcv's CARAFEPack, dtypes, copies and errors."""

import copy
import importlib
import pickle

import pytest
import torch
from mmcv.ops import CARAFEPack
from samples import assert_close

from mmcarafe.layers import CARAFE

layer_module = importlib.import_module("mmcarafe.layers.carafe")
OPTIONS = {
    "default": {},
    "scale_1": dict(scale_factor=1),
    "scale_3": dict(scale_factor=3),
    "scale_4": dict(scale_factor=4),
    "groups": dict(up_group=4),
    "groups_scale_3": dict(up_group=2, scale_factor=3, up_kernel=3),
    "up_kernel_1": dict(up_kernel=1),
    "up_kernel_7": dict(up_kernel=7),
    "encoder_kernel_1": dict(encoder_kernel=1),
    "encoder_kernel_5": dict(encoder_kernel=5, compressed_channels=3),
    "dilation": dict(encoder_dilation=3),
    "dilated_5": dict(encoder_kernel=5, encoder_dilation=2),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
NORM_ACT = dict(norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))


def randomised(layer):
    """Kernels far from the near-uniform ones of a fresh layer."""
    torch.nn.init.normal_(layer.content_encoder.weight, std=0.5)
    torch.nn.init.normal_(layer.content_encoder.bias)
    return layer


@every_option
@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 1)], ids=str)
def test_output_size(options, size):
    out = CARAFE(8, **options)(torch.rand(2, 8, *size))
    scale = options.get("scale_factor", 2)
    assert out.shape == (2, 8, scale * size[0], scale * size[1])


def test_empty_batch_gives_empty_output_and_zero_gradients():
    layer, x = CARAFE(8), torch.rand(0, 8, 3, 4, requires_grad=True)
    out = layer(x)
    assert out.shape == (0, 8, 6, 8)
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad.eq(0).all() for p in layer.parameters())


@every_option
def test_state_dict_is_mmcvs(options):
    ours, theirs = CARAFE(8, **options), CARAFEPack(8, **{"scale_factor": 2, **options})
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@every_option
@pytest.mark.usefixtures("mmcv_on_cpu")
def test_output_and_gradients_are_mmcvs(options):
    theirs = randomised(CARAFEPack(4, **{"scale_factor": 2, **options, "compressed_channels": 6})).double()
    ours = CARAFE(4, **{**options, "compressed_channels": 6}).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (ours, theirs):
        out = layer(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, *layer.parameters()))))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_sizes_of_the_paper():
    layer = CARAFE(256)
    assert sum(p.numel() for p in layer.parameters()) == 74_148
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "channel_compressor.weight": (64, 256, 1, 1),
        "channel_compressor.bias": (64,),
        "content_encoder.weight": (100, 64, 3, 3),
        "content_encoder.bias": (100,),
    }


@every_option
def test_every_kernel_sums_to_one(options):
    layer = CARAFE(8, **options)
    k, groups = layer.up_kernel**2, layer.up_group
    logits = 5 * torch.randn(2, groups * k * layer.scale_factor**2, 3, 4)
    kernels = layer.kernel_normalizer(logits)
    scale = layer.scale_factor
    assert kernels.shape == (2, groups * k, 3 * scale, 4 * scale)
    assert kernels.min() >= 0
    sums = kernels.unflatten(1, (groups, k)).sum(2)
    assert_close(sums, torch.ones_like(sums))


def test_kernels_of_one_output_pixel_come_from_one_source_pixel():
    """A pixel shuffle: pixel (i, j) takes channel (kernel * s + i % s) * s + j % s of (i // s, j // s)."""
    logits = torch.zeros(1, 9 * 4, 2, 3)
    logits[0, (5 * 2 + 1) * 2 + 0, 1, 2] = 100
    kernels = CARAFE(8, up_kernel=3).kernel_normalizer(logits)
    assert_close(kernels[0, :, 3, 4], torch.eye(9)[5])
    others = torch.ones(4, 6, dtype=torch.bool)
    others[3, 4] = False
    assert_close(kernels[0, :, others], torch.full((9, 23), 1 / 9))


def test_the_interior_of_a_constant_map_stays_constant():
    layer = randomised(CARAFE(8, up_group=2))
    out = layer(torch.full((1, 8, 7, 9), 3.0))
    assert_close(out[..., 4:-4, 4:-4], torch.full((1, 8, 6, 10), 3.0))
    assert out[..., 0, 0].lt(3).all(), "the frame of zeros is part of the average"


@pytest.mark.parametrize(
    "options", [{}, NORM_ACT, dict(up_group=2, **NORM_ACT)], ids=["plain", "bn", "bn_g2"]
)
def test_gradients_reach_input_and_all_parameters(options):
    layer, x = CARAFE(8, **options), torch.randn(2, 8, 4, 5, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"input": x, **dict(layer.named_parameters())}.items():
        # batch normalisation takes out what the bias in front of it adds
        before_norm = options and name in ("channel_compressor.bias", "content_encoder.bias")
        assert tensor.grad is not None, name
        assert before_norm or tensor.grad.abs().max() > 0, name


def test_norm_and_activation_follow_both_convolutions():
    layer = CARAFE(8, **NORM_ACT)
    kinds = [type(m).__name__ for m in layer.modules() if not list(m.children())]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU"]
    seen = []
    layer.kernel_normalizer = lambda logits: seen.append(logits) or CARAFE.kernel_normalizer(layer, logits)
    x = torch.randn(2, 8, 4, 5)
    layer(x)
    assert seen[0].min() == 0, "the activation has clipped the logits"
    assert layer(x).ne(layer.eval()(x)).any(), "batch statistics in training, running ones in evaluation"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    layer, x = randomised(CARAFE(8)), torch.randn(1, 8, 4, 5)
    expected = layer(x)
    out = layer.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert_close(
        out, expected, rtol=0, atol={torch.float64: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.1}[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    layer, x = CARAFE(8), torch.randn(1, 8, 4, 5)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
    assert out.dtype == dtype
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert_close(out, layer(x), rtol=0, atol=0.05)


def test_channels_last_stays_channels_last():
    layer = CARAFE(8).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 4, 5)
    out = layer(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_are_equal_and_independent(duplicate):
    layer, x = CARAFE(8, up_group=2, **NORM_ACT).eval(), torch.randn(1, 8, 4, 5)
    twin = duplicate(layer)
    expected = layer(x)
    assert twin(x).equal(expected)
    torch.nn.init.ones_(twin.content_encoder.weight)
    assert layer(x).equal(expected)
    assert twin(x).ne(expected).any()


def test_repr_names_the_sizes():
    text = repr(CARAFE(8, up_kernel=3))
    assert "channels=8, scale_factor=2, up_kernel=3, up_group=1, encoder_kernel=3, encoder_dilation=1" in text
