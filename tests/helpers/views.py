# SPDX-License-Identifier: Apache-2.0
"""Views of chains of CARAFE modules on random features, without a detector."""

import numpy as np
import torch

from mmcarafe.analysis import record
from mmcarafe.layers import CARAFE, CARAFEDownsample
from mmcarafe.visualization import View


def view(
    levels=2, size=(6, 9), k=5, groups=1, spread=3.0, box=None, image=(96, 144), cut=0, down=False
) -> View:
    """A chain of modules on random features, over a random image, or one downsampler.

    Each module may have channel groups of its own; a row and a column are ``cut`` off between two modules.
    """
    each = (groups,) * levels if isinstance(groups, int) else groups
    layers = torch.nn.Sequential(*(CARAFE(4, up_kernel=k, up_group=count) for count in each))
    if down:
        layers = torch.nn.Sequential(CARAFEDownsample(4, down_kernel=k, down_group=groups))
    for layer in layers:
        torch.nn.init.normal_(layer.content_encoder.weight, std=spread)
    with record(layers) as calls, torch.no_grad():
        x = torch.randn(1, 4, *size)
        for layer in layers:
            x = layer(x)
            x = x[:, :, : x.shape[2] - cut, : x.shape[3] - cut]
    pixels = np.random.randint(0, 256, (*image, 3), dtype=np.uint8)
    box = box or (0, 0, image[1], image[0])
    return View("neck", pixels, calls[-1].chain(), 0, box, (1.0, 1.0), False)
