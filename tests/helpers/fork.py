# SPDX-License-Identifier: Apache-2.0
"""CARAFE as other implementations have it, whose weights are converted."""

import torch
from torch import nn

from mmcarafe.layers import CARAFE

X = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0)).double()
# the names in the copies of a module of a blog
COPY = "KPModule.channel_compressor.compressor_conv {}KPModule.context_encoder.encoder_conv"
COMPRESSOR_BN = "KPModule.channel_compressor.compressor_bn "


class Fork:
    """The operator as public PyTorch modules compute it; a layout has the paths of its layers, in order."""

    def __init__(self, layout="comp.conv comp.bn enc.conv enc.bn", bias=False, eps=1e-5, affine=True):
        self.layers, channels, sizes = {}, 6, iter([(4, 1), (36, 3)])
        for path in layout.split():
            name = path.rsplit(".", 1)[-1]
            if "bn" in name or name in ("norm", "1"):
                self.layers[path] = nn.BatchNorm2d(channels, eps, affine=affine)
            elif "act" in name:
                self.layers[path] = nn.ReLU()
            else:
                before, (channels, kernel) = channels, next(sizes)
                self.layers[path] = nn.Conv2d(before, channels, kernel, padding=kernel // 2, bias=bias)
        for layer in self.layers.values():
            for tensor in layer.state_dict().values():
                tensor.abs_().add_(1) if tensor.ndim == 0 else nn.init.normal_(tensor)
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_var, 0.1, 2)
            layer.double().eval()

    def state_dict(self, prefix=""):
        return {
            f"{prefix}{path}.{key}": value
            for path, layer in self.layers.items()
            for key, value in layer.state_dict().items()
        }

    @torch.no_grad()
    def __call__(self, x):
        masks = x
        for layer in self.layers.values():
            masks = layer(masks)
        masks = nn.functional.pixel_shuffle(masks, 2).softmax(1)
        enlarged = nn.functional.interpolate(x, scale_factor=2)
        neighbours = nn.functional.unfold(enlarged, 3, dilation=2, padding=2)
        return (neighbours.view(*x.shape[:2], 9, *enlarged.shape[2:]) * masks[:, None]).sum(2)


def ours(state, prefix="", **options):
    layer = CARAFE(6, up_kernel=3, compressed_channels=4, **options).double().eval()
    layer.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()}, strict=True)
    return layer
