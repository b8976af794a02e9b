# SPDX-License-Identifier: Apache-2.0
"""State dicts of upsamplers under the names that their authors use elsewhere are loaded."""

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmcarafe.layers import FADE

# of FADE(channels, guide_channels) in the authors' FADE_L2H.py and their forks of mmdet and mmsegmentation
LATER = {
    "kernel_generator.conv1_en.weight": "ker_generator.compressor_en.weight",
    "kernel_generator.conv1_en.bias": "ker_generator.compressor_en.bias",
    "kernel_generator.conv1_de.weight": "ker_generator.compressor_de.weight",
    "kernel_generator.conv2_kernels": "ker_generator.content_encoder.weight",
    "kernel_generator.conv2_bias": "ker_generator.content_encoder.bias",
}


@pytest.mark.parametrize("lite", [False, True])
def test_fades_later_names(lite):
    source, target = FADE(8, 8, lite=lite), nn.Sequential(FADE(8, 8, lite=lite))
    theirs = {f"0.{LATER.get(name, name)}": value for name, value in source.state_dict().items()}
    assert len(theirs) == 7 and sum("ker_generator" in name for name in theirs) == 5
    target.load_state_dict(theirs)
    maps = torch.rand(1, 8, 5, 6), torch.rand(1, 8, 10, 12)
    assert target[0](*maps).equal(source(*maps))
    assert "0.ker_generator.compressor_en.weight" in theirs, "the state dict is left as it was"
    another = nn.Sequential(FADE(8, 8, lite=lite))
    load_state_dict(another, theirs, strict=True)  # as mmengine loads it
    assert another[0](*maps).equal(source(*maps))
