# SPDX-License-Identifier: Apache-2.0
"""mmdet's other necks that upsample, able to select any upsampler; registered under mmdet's names."""

from collections.abc import Iterator, Sequence

from mmdet.models import necks
from mmdet.registry import MODELS
from torch import Tensor

from mmcarafe.selecting.replace_upsample import Place, ReplaceUpsample
from mmcarafe.selecting.select_upsample import SelectUpsample, Step

from .select_downsample import SelectDownsample


class SelectPAFPN(SelectUpsample):
    """Mixin: module i upsamples, reduced to the channels of input i, what joins that input."""

    replaces = "steps of the top-down path, which share one `nn.Upsample` in mmdet"
    guide = "the input that it joins"

    def upsample_steps(self) -> list[Step | None]:
        """State one step into each input but the last, with that input's channels."""
        levels = reversed(range(len(self.in_channels) - 1))
        return [Step(level, self.in_channels[level], 2, level) for level in levels]


@MODELS.register_module(force=True)
class YOLOXPAFPN(SelectDownsample, SelectPAFPN, necks.YOLOXPAFPN):
    """mmdet's YOLOXPAFPN with an upsampler of its own for each step.

    Args:
        upsample_cfg (dict): ``type`` and its arguments; without a type, mmdet's ``nn.Upsample``.
        downsample_cfg (dict, optional): what takes over the stride of the bottom-up path's convolutions.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.models import YOLOXPAFPN
        >>> neck = YOLOXPAFPN([8, 16], 4, num_csp_blocks=1, upsample_cfg=dict(type="CARAFE"))
        >>> [tuple(level.shape) for level in neck((torch.rand(2, 8, 24, 24), torch.rand(2, 16, 12, 12)))]
        [(2, 4, 24, 24), (2, 4, 12, 12)]
    """

    strided = ("downsamples",)


@MODELS.register_module(force=True)
class CSPNeXtPAFPN(SelectDownsample, SelectPAFPN, necks.CSPNeXtPAFPN):
    """RTMDet's neck with the ``upsample_cfg`` and ``downsample_cfg`` of :class:`YOLOXPAFPN`."""

    strided = YOLOXPAFPN.strided


@MODELS.register_module(force=True)
class YOLOV3Neck(SelectUpsample, necks.YOLOV3Neck):
    """mmdet's YOLOV3Neck with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "nearest-neighbour steps between its scales"
    guide = SelectPAFPN.guide

    def upsample_steps(self) -> list[Step | None]:
        """State one step from each scale to the next finer one."""
        finer = [self.num_scales - 2 - i for i in range(self.num_scales - 1)]
        return [
            Step(i, self.out_channels[i + 1], 2, finer[i], self.in_channels[i + 1])
            for i in range(self.num_scales - 1)
        ]


@MODELS.register_module(force=True)
class HRFPN(SelectUpsample, necks.HRFPN):
    """mmdet's HRFPN with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "bilinear steps by 2, 4 and 8 that bring all branches to the size of the first"
    guide = SelectPAFPN.guide

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each branch but the first."""
        return [
            Step(i - 1, self.in_channels[i], 2**i, 0, self.in_channels[0]) for i in range(1, self.num_ins)
        ]


@MODELS.register_module(force=True)
class BFP(SelectUpsample, necks.BFP):
    """Libra R-CNN's BFP with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`; max-pooling stays."""

    replaces = "nearest-neighbour steps from coarser levels to the refined one and from there to finer ones"
    guide = SelectPAFPN.guide

    def upsample_steps(self) -> list[Step | None]:
        """State the gathering steps, of which the refined level's own changes nothing, then the others."""
        gather = [(2**i, self.refine_level) for i in range(1, self.num_levels - self.refine_level)]
        scatter = [(2 ** (self.refine_level - i), i) for i in range(self.refine_level)]
        return [None, *(Step(i, self.in_channels, *step) for i, step in enumerate(gather + scatter))]


@MODELS.register_module(force=True)
class NASFCOS_FPN(SelectUpsample, necks.NASFCOS_FPN):  # noqa: N801  mmdet's name
    """mmdet's NASFCOS_FPN with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "steps by 2 and 4 into merge cells and outputs; what keeps or reduces the size stays"

    def upsample_steps(self) -> list[Step | None]:
        """State the cells c02, c36 and c61, then context and output of P3, P4 and P5."""
        c02, c36, c61, context, output = (
            Step(i, self.out_channels, scale) for i, scale in enumerate((4, 4, 2, 4, 4))
        )
        return [c02, c36, c61, context, None, output, None, None, None]


@MODELS.register_module(force=True)
class NASFPN(SelectUpsample, necks.NASFPN):
    """mmdet's NAS-FPN with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`.

    Levels have to differ by a factor of exactly 2: pad images to multiples of 128.
    """

    replaces = "in each stage the steps from P6 to P4, from P4 to P3 and from P7 to P6; pooling stays"

    def upsample_steps(self) -> list[Step | None]:
        """State three steps for each stage; a cell leaves the input that has its size as it is."""
        scales = (4, 2, 2) * self.stack_times
        return [Step(i, self.out_channels, scale) for i, scale in enumerate(scales)]


@MODELS.register_module(force=True)
class DyHead(SelectUpsample, necks.DyHead):
    """mmdet's DyHead with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`.

    A block has one upsampler for all its levels, as it has one convolution for them.
    """

    replaces = "in each block the bilinear step from each level to the finer one, before its attention"

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each block."""
        return [Step(i, self.out_channels, 2) for i in range(self.num_blocks)]

    def steps_of(self, levels: Sequence[Tensor]) -> list[Step | None]:
        """Repeat the step of each block for all levels but the coarsest."""
        return [step for step in self._steps for _ in levels[1:]]


@MODELS.register_module(force=True)
class CTResNetNeck(ReplaceUpsample, necks.CTResNetNeck):
    """CenterNet's neck with an ``upsample_cfg``; the norm and the activation behind each step stay.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's deconvolutions.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    replaces = "each deconvolution, with batch norm and ReLU behind it as in mmdet"

    def places(self) -> Iterator[Place]:
        """Yield the convolution of every second module."""
        for module in self.deconv_layers[1::2]:
            yield Place(module, "conv", module.out_channels, 2)
