# SPDX-License-Identifier: Apache-2.0
"""mmdet's backbones that upsample, able to select any upsampler; registered under mmdet's names."""

from collections.abc import Iterator

from mmdet.models import backbones
from mmdet.registry import MODELS
from torch import nn

from mmcarafe.selecting.replace_upsample import Place, ReplaceUpsample
from mmcarafe.selecting.select_upsample import SelectUpsample, Step

from .select_downsample import SelectDownsample


@MODELS.register_module(force=True)
class HourglassNet(SelectUpsample, backbones.HourglassNet):
    """mmdet's HourglassNet with an ``upsample_cfg``.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's interpolation.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    replaces = "nearest-neighbour steps back to each resolution, in every stack"
    guide = "the branch that kept the resolution"

    def upsample_steps(self) -> list[Step | None]:
        """State the steps of each stack from the innermost module outwards."""
        steps = []
        for stack, module in enumerate(self.hourglass_modules):
            for depth in reversed(range(module.depth)):
                branch = f"hourglass_modules.{stack}{'.low2' * depth}.up1"
                steps.append(Step(len(steps), self.get_submodule(branch)[-1].conv2.out_channels, 2, branch))
        return steps


@MODELS.register_module(force=True)
class HRNet(ReplaceUpsample, backbones.HRNet):
    """mmdet's HRNet with the ``upsample_cfg`` of :class:`HourglassNet`."""

    replaces = "nearest-neighbour steps by 2, 4 and 8 into each finer branch, behind convolution and norm"

    def places(self) -> Iterator[Place]:
        """Yield each ``nn.Upsample``, which ends a sequence that begins with a convolution."""
        for layers in self.modules():
            if isinstance(layers, nn.Sequential) and len(layers) and isinstance(layers[-1], nn.Upsample):
                yield Place(
                    layers, str(len(layers) - 1), layers[0].out_channels, int(layers[-1].scale_factor)
                )


@MODELS.register_module(force=True)
class ResNet(SelectDownsample, backbones.ResNet):
    """mmdet's ResNet with a ``downsample_cfg`` for the strided 3x3 convolution of a stage.

    The shortcut beside it stays mmdet's. With ``style="caffe"`` a bottleneck's strided convolution is 1x1:
    nothing can be selected. Downsamplers in ``frozen_stages`` do not learn either: with 2 and more, start
    from weights that hold them.

    Args:
        downsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's strides.

    Raises:
        DownsampleConfigError: the type is not known or does not take the arguments, or has no effect.
    """

    strided = ("layer1", "layer2", "layer3", "layer4")
