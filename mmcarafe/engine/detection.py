# SPDX-License-Identifier: Apache-2.0
"""What a training of mmdet's needs beside :mod:`mmcarafe.engine`; importing it registers both with mmdet."""

from mmdet import registry
from mmdet.models.dense_heads import TOODHead, VFNetHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.losses import FocalLoss
from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor

from mmcarafe import engine

from .amp_optim_wrapper import FLOAT32_METHODS, MIXED_METHODS
from .hooks.distinct_visualization_hook import DistinctVisualizationHook
from .hooks.num_class_check_hook import NumClassCheckHook

__all__ = ["DistinctVisualizationHook", "NumClassCheckHook"]

FLOAT32_METHODS += [
    (SingleRoIExtractor, "forward"),
    (GenericRoIExtractor, "forward"),
    (BaseDenseHead, "predict_by_feat"),  # an RPN's proposals and their NMS
    (TOODHead, "deform_sampling"),
    (FocalLoss, "forward"),  # mmcv's kernel on a GPU
]
MIXED_METHODS += [(VFNetHead, "loss_by_feat")]  # writes IoUs into a tensor of the scores' dtype

engine.register(registry)
