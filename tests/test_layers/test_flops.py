# SPDX-License-Identifier: Apache-2.0
"""The paper's formula, and the counters of torch and mmengine, agree on a CARAFE module."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.layers import CARAFE, carafe_flops
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


def test_mmengines_report_of_a_module_that_has_the_layer():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), CARAFE(8, compressed_channels=4))
    report = get_model_complexity_info(network, input_shape=(3, 4, 5))
    flops = 20 * (3 * 8) + (carafe_flops(network[1], 20) - carafe_bias_flops(network[1], 20)) // 2
    assert report["flops"] == flops
