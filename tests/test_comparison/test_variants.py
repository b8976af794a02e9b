# SPDX-License-Identifier: Apache-2.0
"""Variants of CARAFE differ from it in the part that their names say, and in nothing else."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.comparison.variants import CARAFELinear, CARAFEUncompressed, CARAFEXavier
from mmcarafe.layers import CARAFE, build_upsample, carafe_flops
from mmcarafe.layers.flops import carafe_bias_flops

VARIANTS = [CARAFELinear, CARAFEUncompressed, CARAFEXavier]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_variant_is_selected_by_its_name_and_learns(variant):
    layer = build_upsample(dict(type=variant.__name__, up_kernel=3), channels=8, scale_factor=2)
    layer.init_weights()
    assert type(layer) is variant and layer.up_kernel == 3
    layer(torch.rand(2, 8, 5, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_only_the_encoder_starts_from_another_distribution():
    torch.manual_seed(0)
    layers = CARAFE(64), CARAFEXavier(64)
    for layer in layers:
        layer.init_weights()
    ours, theirs = (
        [conv.weight.detach() for conv in (layer.channel_compressor, layer.content_encoder)]
        for layer in layers
    )
    assert ours[0].std() == pytest.approx(theirs[0].std().item(), rel=0.1)
    # Xavier's standard deviation is sqrt(2 / (fan in + fan out))
    expected = (2 / (9 * 64 + 9 * 100)) ** 0.5
    assert theirs[1].std().item() == pytest.approx(expected, rel=0.02)
    assert ours[1].std().item() == pytest.approx(0.001, rel=0.02)


def test_without_a_compressor_the_encoder_reads_the_input():
    layer, x = CARAFEUncompressed(6), torch.rand(1, 6, 4, 5)
    names = {name for name, _ in layer.named_parameters()}
    assert names == {"content_encoder.weight", "content_encoder.bias"}
    same = CARAFE(6, compressed_channels=6)
    same.content_encoder = layer.content_encoder
    torch.nn.init.dirac_(same.channel_compressor.weight)
    torch.testing.assert_close(layer(x), same(x))
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert carafe_flops(layer, 20) == counter.get_total_flops() + carafe_bias_flops(layer, 20)


def test_without_a_softmax_kernels_are_the_encoders_output_and_start_as_an_average():
    layer, x = CARAFELinear(4, up_kernel=3), torch.rand(1, 4, 6, 7)
    average = interpolate(avg_pool2d(x, 3, stride=1, padding=1), scale_factor=2)
    for prepare in (lambda: None, layer.init_weights):
        prepare()
        torch.nn.init.zeros_(layer.content_encoder.weight)
        torch.testing.assert_close(layer(x), average)
    with torch.no_grad():
        layer.content_encoder.bias.zero_().view(9, 4)[4] = 2.0
    torch.testing.assert_close(layer(x), 2 * interpolate(x, scale_factor=2))
    with pytest.raises(ValueError, match="start: expected 'average'"):
        CARAFELinear(4, start="nearest")
