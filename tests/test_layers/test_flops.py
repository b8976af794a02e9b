# SPDX-License-Identifier: Apache-2.0
"""The counters of torch and mmengine agree with the paper on CARAFE, and with hand on every type."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.layers import CARAFE, TYPES, CARAFEDownsample, build_upsample, carafe_flops
from mmcarafe.layers.flops import carafe_bias_flops

LAYERS = {
    "paper": dict(channels=256),
    "groups": dict(channels=12, up_group=3, compressed_channels=8),
    "scale_3": dict(channels=6, scale_factor=3, up_kernel=3, compressed_channels=4),
    "wide_encoder": dict(channels=4, encoder_kernel=5, encoder_dilation=2, compressed_channels=4),
}
every_layer = pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)


def test_the_papers_numbers():
    """199k operations for each source pixel and 74k parameters at 256 channels (paper, section 3.3)."""
    layer = CARAFE(256)
    assert carafe_flops(layer) == 199_496
    assert sum(p.numel() for p in layer.parameters()) == 74_148


@every_layer
def test_torchs_counter_counts_all_but_the_biases(options):
    layer, x = CARAFE(**options), torch.rand(2, options["channels"], 5, 6)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() + carafe_bias_flops(layer, 60) == carafe_flops(layer, 60)


@every_layer
def test_mmengines_analyzer_counts_multiply_adds(options):
    layer, x = CARAFE(**options), torch.rand(2, options["channels"], 5, 6)
    analyzer = FlopAnalyzer(layer, x)
    assert 2 * analyzer.total() + carafe_bias_flops(layer, 60) == carafe_flops(layer, 60)
    assert "carafe" in analyzer.by_operator()
    assert not [op for op in analyzer.unsupported_ops() if "carafe" in op]


@pytest.mark.parametrize("options", [{}, dict(scale_factor=3, down_kernel=3, down_group=2)], ids=str)
def test_the_formula_of_a_downsampler(options):
    layer, x = CARAFEDownsample(8, **options), torch.rand(2, 8, 6, 7)
    with FlopCounterMode(display=False) as counter:
        target = layer(x)[:, 0].numel()
    assert counter.get_total_flops() + carafe_bias_flops(layer, 84, target) == carafe_flops(layer, 84, target)
    assert carafe_flops(layer, 36 * target) == carafe_flops(
        layer, 36 * target, 36 * target // layer.scale_factor**2
    )


def test_mmengines_report_of_a_module_that_has_the_layer():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), CARAFE(8, compressed_channels=4))
    report = get_model_complexity_info(network, input_shape=(3, 4, 5))
    flops = 20 * (3 * 8) + (carafe_flops(network[1], 20) - carafe_bias_flops(network[1], 20)) // 2
    assert report["flops"] == flops


# by hand, for each source pixel of 256 channels at scale 2 with a guide of 256 channels: s*s = 4 output
# pixels, kernels of k*k = 25, without biases; a multiply-add is two operations, and a point is four of them
REASSEMBLY = 2 * 4 * 25 * 256
POINTS = 2 * 4 * 4 * 256
BY_HAND = {
    "nearest": 0,
    "bilinear": POINTS,
    "deconv": 2 * 4 * 256 * 256,
    "pixel_shuffle": 2 * 9 * 256 * (4 * 256),
    "carafe": 2 * 256 * 64 + 2 * 9 * 64 * (4 * 25) + REASSEMBLY,
    "CARAFE": 2 * 256 * 64 + 2 * 9 * 64 * (4 * 25) + REASSEMBLY,
    "DySample": 2 * 256 * (2 * 4 * 4) + POINTS,
    "DySample, dyscope=True": 2 * 2 * 256 * (2 * 4 * 4) + POINTS,
    "DySample, style=pl": 2 * 4 * 64 * (2 * 4) + POINTS,
    "DySample, style=pl, dyscope=True": 2 * 2 * 4 * 64 * (2 * 4) + POINTS,
    # kernels and offsets at source size, four points for each of 25 taps
    "DLU": 2 * 256 * 64 + 2 * 9 * 64 * (25 + 2 * 4) + 2 * 4 * 4 * 25 + REASSEMBLY,
    # queries of the guide, keys of the map, their products
    "SAPA": 2 * 5 * 256 * 32 + 2 * 4 * 25 * 32 + REASSEMBLY,
    "SAPA, embedding_dim=64": 2 * 5 * 256 * 64 + 2 * 4 * 25 * 64 + REASSEMBLY,
    "SAPA, norm=group": 2 * 5 * 256 * 32 + 2 * 4 * 25 * 32 + REASSEMBLY,
    # guide and map, compressed and encoded, and the gate
    "FADE": 2 * 5 * 256 * 64 + 2 * 5 * 9 * 64 * 25 + REASSEMBLY + 2 * 256,
    "FADE, lite=True": 2 * 5 * 256 * 25 + 2 * 5 * 9 * 25 + REASSEMBLY + 2 * 256,
    "FADE, gate=False": 2 * 5 * 256 * 64 + 2 * 5 * 9 * 64 * 25 + REASSEMBLY,
}
FORMS = {
    ", ".join([kind, *(f"{name}={value}" for name, value in options.items())]): dict(type=kind, **options)
    for kind, row in TYPES.items()
    for options in row.variants
}


@pytest.mark.parametrize("name", FORMS)
def test_every_type_is_counted_as_by_hand(name):
    layer = build_upsample(FORMS[name], 256, 2, guide_channels=256)
    maps = [torch.rand(2, 256, 5, 6), torch.rand(2, 256, 10, 12)][: 1 + TYPES[FORMS[name]["type"]].guided]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(*maps)
    assert counter.get_total_flops() == 60 * BY_HAND[name]


def test_mmengines_analyzer_counts_points_alike():
    layer, x = build_upsample(dict(type="DySample"), 256, 2), torch.rand(2, 256, 5, 6)
    assert 2 * FlopAnalyzer(layer, x).total() == 60 * BY_HAND["DySample"]
