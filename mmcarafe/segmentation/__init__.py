# SPDX-License-Identifier: Apache-2.0
"""Importing this registers components with mmsegmentation, which it needs; mmdet is not imported.

In a config: ``custom_imports=dict(imports=["mmcarafe.segmentation"])``.
"""

try:
    import mmseg.models
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"mmcarafe.segmentation needs mmsegmentation, ftfy and regex, which are not all there ({error}): "
        "pip install mmsegmentation ftfy regex",
        name=error.name,
    ) from error

from mmcarafe import checkpoint  # these register themselves
from mmcarafe.datasets import images
from mmcarafe.engine import segmentation
from mmcarafe.utils.registry import replace_given_classes

from .backbones import UNet
from .datasets import LoadCocoMap
from .heads import FPNHead, PSPHead, SegformerHead, UPerHead
from .necks import FPN

replace_given_classes(mmseg.registry)

__all__ = ["FPN", "FPNHead", "PSPHead", "SegformerHead", "UNet", "UPerHead"]
