# SPDX-License-Identifier: Apache-2.0
"""COCO data sets: reading them, checking them, drawing one; importing it registers what reads them."""

from .coco import CocoDataset, CocoMetric
from .transforms import Resize

__all__ = ["CocoDataset", "CocoMetric", "Resize"]
