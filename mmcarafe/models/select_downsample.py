# SPDX-License-Identifier: Apache-2.0
"""How a component of mmdet takes a downsampler for the stride of its convolutions, or for its pooling."""

from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn

from mmcarafe.layers import DownsampleConfigError, build_downsample
from mmcarafe.selecting.select_upsample import init_weights

STRIDED = (nn.Conv2d, DeformConv2d, ModulatedDeformConv2d)
"""Classes of convolutions that hand over their stride."""


def downsample_first(conv: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Give a convolution its downsampled input, as its forward pre-hook."""
    return (conv.downsample(args[0]),)


class SelectDownsample:
    """Mixin in front of a component: ``downsample_cfg`` selects what takes over a convolution's stride.

    The downsampler runs first, on the channels that come in; the convolution follows with stride 1, and keeps
    its weights, their names, normalisation and activation. So checkpoints of mmdet's load as before.
    """

    strided: tuple[str, ...] = ()
    """The modules that hold the convolutions, by name; the table of docs/components.md is made of these."""

    def __init__(self, *args, downsample_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.downsample_modules = []  # a plain list: the convolutions hold them
        if not downsample_cfg:
            return
        owners = [self.get_submodule(name) for name in self.strided]
        convs = [m for owner in owners for m in owner.modules() if isinstance(m, STRIDED)]
        for conv in convs:
            # a strided 1x1 convolution of a shortcut only leaves pixels out
            if conv.stride != (1, 1) and conv.kernel_size != (1, 1):
                conv.downsample = self.build_downsample(downsample_cfg, conv.in_channels, conv.stride[0])
                conv.stride = (1, 1)
                if hasattr(conv, "conv_offset"):  # predicts the points at which a deformable one reads
                    conv.conv_offset.stride = (1, 1)
                conv.register_forward_pre_hook(downsample_first)
        self.replace_pooling(downsample_cfg)
        if hasattr(self, "_freeze_stages"):  # mmdet's ResNet froze before there were downsamplers
            self._freeze_stages()
        if not self.downsample_modules:
            raise DownsampleConfigError(
                f"{type(self).__name__}: downsample_cfg {downsample_cfg} has no effect, as these "
                "arguments make nothing that halves a map"
            )

    def build_downsample(self, cfg: dict, channels: int, scale: int) -> nn.Module:
        """Build one downsampler and keep it in the list."""
        downsample = build_downsample(cfg, channels, scale, MODELS, component=type(self).__name__)
        self.downsample_modules.append(downsample)
        return downsample

    def replace_pooling(self, cfg: dict) -> None:
        """Build what takes the place of pooling; most components have none."""

    def init_weights(self) -> None:
        """Initialise as mmdet does, and the downsamplers as they say themselves."""
        init_weights(self, super().init_weights, self.downsample_modules)


class DownsampleExtraLevels(SelectDownsample):
    """Mixin in front of an FPN, whose extra levels come from strided convolutions or, by default, pooling."""

    strided = ("fpn_convs",)

    def replace_pooling(self, cfg: dict) -> None:
        """Build a downsampler for each level that mmdet pools."""
        pooled = range(self.num_outs - len(self.fpn_convs))
        self.extra_levels = ModuleList(self.build_downsample(cfg, self.out_channels, 2) for _ in pooled)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run mmdet's forward, and make the pooled levels anew."""
        outputs = super().forward(inputs)
        if not self.downsample_modules:
            return outputs
        outputs = list(outputs[: len(self.fpn_convs)])
        for downsample in self.extra_levels:
            outputs.append(downsample(outputs[-1]))
        return tuple(outputs)
