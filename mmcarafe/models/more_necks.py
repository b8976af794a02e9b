# SPDX-License-Identifier: Apache-2.0
"""mmdet's other necks that upsample, able to select any upsampler; registered under mmdet's names."""

from mmdet.models import necks
from mmdet.models.necks import fpg
from mmdet.registry import MODELS
from torch import nn

from mmcarafe.layers import UpsampleConfigError

from .upsample import InitUpsamplers, SelectUpsample


class SelectPAFPN(SelectUpsample):
    """Mixin: module i upsamples, reduced to the channels of input i, what joins that input."""

    replaces = "steps of the top-down path, which share one `nn.Upsample` in mmdet"
    top_down = True

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step into each input but the last, with that input's channels."""
        return [(channels, 2) for channels in reversed(self.in_channels[:-1])]


@MODELS.register_module(force=True)
class YOLOXPAFPN(SelectPAFPN, necks.YOLOXPAFPN):
    """mmdet's YOLOXPAFPN with an upsampler of its own for each step.

    Args:
        upsample_cfg (dict): ``type`` and its arguments; without a type, mmdet's ``nn.Upsample``.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.models import YOLOXPAFPN
        >>> neck = YOLOXPAFPN([8, 16], 4, num_csp_blocks=1, upsample_cfg=dict(type="CARAFE"))
        >>> [tuple(level.shape) for level in neck((torch.rand(2, 8, 24, 24), torch.rand(2, 16, 12, 12)))]
        [(2, 4, 24, 24), (2, 4, 12, 12)]
    """


@MODELS.register_module(force=True)
class CSPNeXtPAFPN(SelectPAFPN, necks.CSPNeXtPAFPN):
    """RTMDet's neck with the ``upsample_cfg`` of :class:`YOLOXPAFPN`."""


@MODELS.register_module(force=True)
class YOLOV3Neck(SelectUpsample, necks.YOLOV3Neck):
    """mmdet's YOLOV3Neck with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "nearest-neighbour steps between its scales"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step from each scale to the next finer one."""
        return [(channels, 2) for channels in self.out_channels[1:]]


@MODELS.register_module(force=True)
class HRFPN(SelectUpsample, necks.HRFPN):
    """mmdet's HRFPN with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "bilinear steps by 2, 4 and 8 that bring all branches to the size of the first"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """One step for each branch but the first."""
        return [(self.in_channels[i], 2**i) for i in range(1, self.num_ins)]


@MODELS.register_module(force=True)
class BFP(SelectUpsample, necks.BFP):
    """Libra R-CNN's BFP with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`; max-pooling stays."""

    replaces = "nearest-neighbour steps from coarser levels to the refined one and from there to finer ones"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """Gathering steps, of which the refined level's own changes nothing, then scattering steps."""
        gather = [(self.in_channels, 2**i) for i in range(1, self.num_levels - self.refine_level)]
        scatter = [(self.in_channels, 2 ** (self.refine_level - i)) for i in range(self.refine_level)]
        return [None, *gather, *scatter]


@MODELS.register_module(force=True)
class NASFCOS_FPN(SelectUpsample, necks.NASFCOS_FPN):  # noqa: N801  mmdet's name
    """mmdet's NASFCOS_FPN with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "steps by 2 and 4 into merge cells and outputs; what keeps or reduces the size stays"

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """The cells c02, c36 and c61, then context and output of P3, P4 and P5."""
        by_2, by_4 = (self.out_channels, 2), (self.out_channels, 4)
        cells = [by_4, by_4, by_2]
        return [*cells, by_4, None, by_4, None, None, None]


class UpInterpolationConv(SelectUpsample, fpg.UpInterpolationConv):
    """The transition of :class:`FPG` that enlarges a level."""

    def upsample_steps(self) -> list[tuple[int, int] | None]:
        """The interpolation in front of the convolution."""
        return [(self.in_channels, self.scale_factor)]


@MODELS.register_module(force=True)
class FPG(InitUpsamplers, necks.FPG):
    """mmdet's FPG with an ``upsample_cfg`` for its transitions of type ``interpolation_conv``.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's interpolation.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments, or there is no such
            transition.
    """

    replaces = "the interpolation of every transition of type `interpolation_conv`"
    transition_types = {**necks.FPG.transition_types, "interpolation_conv": UpInterpolationConv}  # noqa: RUF012

    def __init__(self, *args, upsample_cfg: dict | None = None, **kwargs) -> None:
        self.upsample_cfg = upsample_cfg  # the constructor builds the transitions
        super().__init__(*args, **kwargs)
        if (upsample_cfg or {}).get("type") is not None and not self.upsample_modules:
            raise UpsampleConfigError(
                f"FPG: upsample_cfg {upsample_cfg} has no effect without a transition of type "
                "interpolation_conv; set across_down_trans or same_down_trans to one"
            )

    @property
    def upsample_modules(self) -> list[nn.Module]:
        """The upsamplers of all transitions."""
        transitions = [m for m in self.modules() if isinstance(m, UpInterpolationConv)]
        return [upsample for transition in transitions for upsample in transition.upsample_modules]

    def build_trans(self, cfg: dict, in_channels: int, out_channels: int, **extra_args):
        """mmdet's transition; an ``interpolation_conv`` takes the selected upsampler."""
        if self.upsample_cfg and cfg["type"] == "interpolation_conv":
            extra_args["upsample_cfg"] = self.upsample_cfg
        return super().build_trans(cfg, in_channels, out_channels, **extra_args)
