# SPDX-License-Identifier: Apache-2.0
"""Every learned upsampler in each of its published forms, derived from the table of types, and its inputs."""

import pytest
import torch
from torch import nn

from mmcarafe.layers import TYPES, build_upsample

FORMS = {
    "-".join([kind, *(f"{name}={value}" for name, value in options.items())]): dict(type=kind, **options)
    for kind, row in TYPES.items()
    if row.module and kind not in ("carafe", "pixel_shuffle")  # the same module, and not ours
    for options in row.variants
}
every_form = pytest.mark.parametrize("name", FORMS)
one_of_each = pytest.mark.parametrize("name", [name for name, cfg in FORMS.items() if len(cfg) == 1])
guided = pytest.mark.parametrize("name", [name for name, cfg in FORMS.items() if TYPES[cfg["type"]].guided])


def lively(name, channels=32, scale=2):
    """An upsampler whose weights are far from zero, where a fresh one's say little."""
    torch.manual_seed(0)
    upsample = build_upsample(FORMS[name], channels, scale, guide_channels=channels)
    for parameter in upsample.parameters():
        nn.init.normal_(parameter, std=0.3)
    return upsample


def inputs(upsample, size=(5, 3), batch=2, **options):
    """The map, and the guide of a guided one."""
    s, c = upsample.scale_factor, upsample.channels
    maps = [torch.randn(batch, c, *size, **options)]
    if upsample.guided:
        maps.append(torch.randn(batch, upsample.guide_channels, s * size[0], s * size[1], **options))
    return maps
