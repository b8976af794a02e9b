# SPDX-License-Identifier: Apache-2.0
"""The CARAFEDownsample module: sizes, values, dtypes, programs and errors."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.analysis import FlopAnalyzer
from samples import assert_close, loop_downsample
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.layers import CARAFEDownsample

OPTIONS = {
    "default": {},
    "stride_1": dict(scale_factor=1),
    "stride_3": dict(scale_factor=3),
    "groups": dict(down_group=4),
    "down_kernel_1": dict(down_kernel=1),
    "down_kernel_7": dict(down_kernel=7),
    "encoder_kernel_1": dict(encoder_kernel=1),
    "dilated_5": dict(encoder_kernel=5, encoder_dilation=2),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def randomised(**options):
    """A layer of 8 channels with kernels far from the near-uniform ones of a fresh one."""
    layer = CARAFEDownsample(8, **options)
    torch.nn.init.normal_(layer.content_encoder.weight, std=0.5)
    return layer


@every_option
@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 1)], ids=str)
def test_equals_the_formula(options, size):
    layer = randomised(**options).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    s, k, groups = layer.scale_factor, layer.down_kernel, layer.down_group
    encoder = layer.content_encoder
    compressed = F.conv2d(x, layer.channel_compressor.weight, layer.channel_compressor.bias)
    logits = F.conv2d(compressed, encoder.weight, encoder.bias, s, encoder.padding, encoder.dilation)
    masks = torch.cat([part.softmax(1) for part in logits.chunk(groups, 1)], 1)
    assert masks.shape == (2, groups * k * k, -(-size[0] // s), -(-size[1] // s))
    assert_close(layer(x), loop_downsample(x, masks, k, groups, s))


@pytest.mark.parametrize(("compressed", "parameters"), [(16, 7_737), (64, 30_873)])
def test_parameters_at_256_channels(compressed, parameters):
    layer = CARAFEDownsample(256, compressed_channels=compressed)
    assert sum(p.numel() for p in layer.parameters()) == parameters
    assert CARAFEDownsample(256).compressed_channels == 16


def test_a_fresh_layer_is_nearly_an_average():
    x = torch.randn(1, 8, 9, 6)
    assert_close(CARAFEDownsample(8)(x), F.avg_pool2d(x, 5, 2, 2), rtol=0, atol=0.01)


def test_initialisation_is_kept():
    layer = CARAFEDownsample(64)
    for _ in range(2):
        assert layer.content_encoder.bias.eq(0).all() and layer.channel_compressor.bias.eq(0).all()
        assert layer.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.1)
        layer.init_weights()


def test_empty_batch_gives_empty_output_and_zero_gradients():
    layer, x = CARAFEDownsample(8), torch.rand(0, 8, 3, 4, requires_grad=True)
    out = layer(x)
    assert out.shape == (0, 8, 2, 2)
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad.eq(0).all() for p in layer.parameters())


@every_option
def test_gradients_reach_input_and_all_parameters(options):
    layer, x = randomised(**options), torch.randn(2, 8, 5, 7, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"input": x, **dict(layer.named_parameters())}.items():
        # the softmax of one logit is 1
        assert (options.get("down_kernel") == 1 and name != "input") or tensor.grad.abs().max() > 0, name


def test_channels_last_stays_channels_last():
    layer = randomised().to(memory_format=torch.channels_last)
    for size in ((4, 6), (5, 7)):
        x = torch.randn(2, 8, *size)
        out = layer(x.contiguous(memory_format=torch.channels_last))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert_close(out, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    layer, x = randomised(), torch.randn(1, 8, 5, 4)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
    assert out.dtype == dtype
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert_close(out, layer(x), rtol=0, atol=0.1)


def test_one_program_serves_all_sizes():
    layer = randomised()
    sizes = {2: torch.export.Dim("height", min=3, max=64), 3: torch.export.Dim("width", min=3, max=64)}
    program = torch.export.export(layer, (torch.randn(2, 8, 10, 6),), dynamic_shapes=(sizes,))
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for i, size in enumerate(((10, 6), (5, 7), (16, 3), (31, 64))):
        x = torch.randn(2, 8, *size)
        assert_close(program.module()(x), layer(x))
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            assert_close(compiled(x), layer(x))
    torch.compiler.reset()


def test_counters_count_multiply_adds():
    layer, x = CARAFEDownsample(8, down_group=2), torch.rand(2, 8, 5, 6)
    source, target = 2 * 30, 2 * 9
    expected = source * 8 * 16 + target * (16 * 9 * 2 * 25 + 25 * 8)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * expected
    assert FlopAnalyzer(layer, x).total() == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(down_kernel=4), ValueError, "down_kernel: expected an odd number, got 4"),
        (dict(down_group=3), ValueError, "down_group: expected a divisor of the 8 channels, got 3"),
        (dict(scale_factor=0), ValueError, "scale_factor: expected 1 or more, got 0"),
        (dict(scale_factor=2.0), TypeError, r"scale_factor: expected an int, got 2\.0"),
    ],
    ids=str,
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        CARAFEDownsample(8, **options)


def test_wrong_input():
    with pytest.raises(ValueError, match=r"CARAFEDownsample: expected \[N, 8, H, W\], got \(1, 4, 5, 6\)"):
        CARAFEDownsample(8)(torch.rand(1, 4, 5, 6))
