# SPDX-License-Identifier: Apache-2.0
"""Serve the commands with configs of mmdet's; :mod:`mmcarafe.apis.segmentation` has the same names."""

import argparse
import os
from copy import deepcopy
from pathlib import Path

from mmdet import models
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults as Dump
from mmdet.models import BaseDetector, TwoStageDetector
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import mmcarafe.models  # noqa: F401  registers everything
from mmcarafe.apis.coco_results import Detections as Output
from mmcarafe.apis.config import BUILDERS, absence_named
from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.apis.test_time_augmentation import check_boxes_alone as check_tta
from mmcarafe.apis.test_time_augmentation import use_tta
from mmcarafe.engine.hooks.distinct_visualization_hook import DistinctVisualizationHook
from mmcarafe.errors import InputError
from mmcarafe.utils.pretrained import drop_pretrained
from mmcarafe.utils.registry import class_of

__all__ = ["Dump", "Inferencer", "Output", "build", "check_tta", "show_predictions", "use_tta"]


@MODELS.register_module(force=True)
class SSDHead(models.SSDHead):
    """Has the ``loss_cls`` that mmdet 3.3 reads of every dense head that predicts; mmdet's has none."""

    loss_cls = None


@MODELS.register_module(force=True)
class PISASSDHead(models.PISASSDHead):
    """As :class:`SSDHead`."""

    loss_cls = None


def build(cfg: Config) -> nn.Module:
    """Build the detector of a config without pretrained weights, in evaluation mode.

    Raises:
        InputError: the model is no detector that takes an image alone, or cannot be built.
    """
    init_default_scope("mmdet")
    settings = deepcopy(cfg.model)  # some detectors change what they are built from
    kind = settings.get("type")
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    name = getattr(known, "__name__", kind)
    if not (isinstance(known, type) and issubclass(known, BaseDetector)):
        raise InputError(
            f"the config's model, {name}, is no detector, which extends mmdet's BaseDetector and takes one "
            "image; use the config of the detector alone"
        )
    if "language_model" in settings:
        raise InputError(f"the config's model, {name}, takes a text besides the image; no tool here gives it")
    drop_pretrained(settings)
    with absence_named(f"the config's model, {name}, cannot be built", BUILDERS):
        model = MODELS.build(settings)
    if isinstance(model, TwoStageDetector) and not model.with_rpn:
        raise InputError(f"the config's model, {name}, takes proposals besides the image; no tool here does")
    model.eval()  # that of a detector with a teacher returns None
    return model


def show_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on mmdet's hook for pictures; those of --show-dir are in this folder itself."""
    if "visualization" not in cfg.get("default_hooks", {}):
        raise InputError(
            "--show and --show-dir: the config has no default_hooks.visualization, which draws the pictures; "
            "inherit mmdet::_base_/default_runtime.py"
        )
    if args.show_dir:
        Path(args.show_dir).mkdir(parents=True, exist_ok=True)
        args.show_dir = os.path.abspath(args.show_dir)  # mmdet puts a relative one below the work directory
    hook = trigger_visualization_hook(cfg, args).default_hooks.visualization
    if class_of(hook.type, HOOKS) is DetVisualizationHook:
        hook.type = f"mmdet.{DistinctVisualizationHook.__name__}"
