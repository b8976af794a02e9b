# SPDX-License-Identifier: Apache-2.0
"""Serve the commands with configs of mmsegmentation's, by the names of :mod:`mmcarafe.apis.detection`."""

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmcv.transforms import LoadAnnotations
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.models import BaseSegmentor
from mmseg.registry import HOOKS, MODELS, TRANSFORMS
from torch import nn

import mmcarafe.segmentation  # noqa: F401  registers everything
from mmcarafe.apis.config import BUILDERS, absence_named
from mmcarafe.apis.map_inferencer import Inferencer
from mmcarafe.apis.map_results import Maps as Output
from mmcarafe.datasets.configured import innermost_datasets
from mmcarafe.engine.hooks.map_visualization_hook import MapVisualizationHook
from mmcarafe.errors import InputError
from mmcarafe.segmentation import LoadCocoMap
from mmcarafe.utils.pretrained import drop_pretrained
from mmcarafe.utils.registry import class_of

__all__ = ["Dump", "Inferencer", "Output", "build", "check_tta", "show_predictions", "use_tta"]


class Dump(DumpResults):
    """mmengine's DumpResults without the scores of each pixel, which are many times larger than the maps."""

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the maps of a batch."""
        kept = [
            {key: value for key, value in sample.items() if key != "seg_logits"} for sample in data_samples
        ]
        super().process(data_batch, kept)


def build(cfg: Config) -> nn.Module:
    """Build the segmentor of a config without pretrained weights, in evaluation mode.

    Raises:
        InputError: the model is no segmentor that takes an image alone, or cannot be built.
    """
    init_default_scope("mmseg")
    settings = deepcopy(cfg.model)
    kind = settings.get("type")
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    name = getattr(known, "__name__", kind)
    if not (isinstance(known, type) and issubclass(known, BaseSegmentor)):
        raise InputError(
            f"the config's model, {name}, is no segmentor, which extends mmsegmentation's BaseSegmentor; use "
            "the config of the segmentor alone"
        )
    if "text_encoder" in settings:
        raise InputError(f"the config's model, {name}, takes a text besides the image; no tool here gives it")
    drop_pretrained(settings)
    with absence_named(f"the config's model, {name}, cannot be built", BUILDERS):
        model = MODELS.build(settings)
    return revert_sync_batchnorm(model).eval()


def show_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the hook for pictures; those of --show-dir are in this folder itself."""
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if not hook:
        raise InputError(
            "--show and --show-dir: the config has no default_hooks.visualization, which draws the pictures; "
            "add visualization=dict(type='SegVisualizationHook')"
        )
    if class_of(hook.type, HOOKS) is SegVisualizationHook:
        hook.type = f"mmseg.{MapVisualizationHook.__name__}"
        if args.show_dir:
            Path(args.show_dir).mkdir(parents=True, exist_ok=True)
            hook.test_out_dir = args.show_dir
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time


def use_tta(cfg: Config) -> None:
    """Wrap the model for the config's own test-time augmentation.

    Raises:
        InputError: it has none.
    """
    for name in ("tta_pipeline", "tta_model"):
        if not cfg.get(name):
            raise InputError(
                f"--tta: the config has no {name}; mmsegmentation's are in mmseg::_base_/datasets/ and "
                "mmseg::_base_/default_runtime.py"
            )
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        maps = (step for step in dataset.pipeline if class_of(step["type"], TRANSFORMS) is LoadCocoMap)
        loading = next(maps, None)
        dataset.pipeline = loading_maps(cfg.tta_pipeline, loading) if loading else cfg.tta_pipeline
    cfg.test_dataloader.batch_size = 1  # views are merged of one image
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def loading_maps(part: object, loading: dict) -> object:
    """Put what loads the maps of a test into a tta_pipeline, or a part of it, for maps of files."""
    if isinstance(part, list):
        return [loading_maps(step, loading) for step in part]
    if isinstance(part, dict):
        own = class_of(part.get("type"), TRANSFORMS)
        if isinstance(own, type) and issubclass(own, LoadAnnotations):
            return loading
        return {name: loading_maps(value, loading) for name, value in part.items()}
    return part


def check_tta(model: nn.Module) -> None:
    """Accept any segmentor: the scores of its views are averaged."""
