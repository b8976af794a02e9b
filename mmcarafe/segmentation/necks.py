# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's FPN, able to select any upsampler; registered under its name."""

from mmseg.models import necks
from mmseg.registry import MODELS

from mmcarafe.selecting.select_upsample import SelectTopDown


@MODELS.register_module(force=True)
class FPN(SelectTopDown, necks.FPN):
    """mmsegmentation's FPN whose ``upsample_cfg`` may name an upsampler, as :class:`mmcarafe.models.FPN`.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    any_size = True
