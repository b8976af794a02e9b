# SPDX-License-Identifier: Apache-2.0
"""mmdet's FPG, whose transitions upsample, able to select any upsampler; registered under mmdet's name."""

from mmdet.models import necks
from mmdet.models.necks import fpg
from mmdet.registry import MODELS
from torch import nn

from mmcarafe.layers import UpsampleConfigError
from mmcarafe.selecting.select_upsample import InitUpsamplers, SelectUpsample, Step


class UpInterpolationConv(SelectUpsample, fpg.UpInterpolationConv):
    """The transition of :class:`FPG` that enlarges a level."""

    component = "FPG"

    def upsample_steps(self) -> list[Step | None]:
        """State the interpolation in front of the convolution."""
        return [Step(0, self.in_channels, self.scale_factor)]


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
        """List the upsamplers of all transitions."""
        transitions = [m for m in self.modules() if isinstance(m, UpInterpolationConv)]
        return [upsample for transition in transitions for upsample in transition.upsample_modules]

    def build_trans(self, cfg: dict, in_channels: int, out_channels: int, **extra_args):
        """Build mmdet's transition; an ``interpolation_conv`` takes the selected upsampler."""
        if self.upsample_cfg and cfg["type"] == "interpolation_conv":
            extra_args["upsample_cfg"] = self.upsample_cfg
        return super().build_trans(cfg, in_channels, out_channels, **extra_args)
