# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint; the command line is that of mmdet's tools/test.py."""

import argparse
import os
from pathlib import Path

from common import (
    InputError,
    add_options,
    build_runner,
    check_data,
    innermost_datasets,
    load_config,
    run,
)
from mmcv.transforms import LoadAnnotations, LoadImageFromFile, RandomFlip, TestTimeAug
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmdet.registry import TRANSFORMS
from mmengine.config import Config, ConfigDict
from torch import nn
from weights import check_checkpoint

from mmcarafe.models.visualization_hook import MirroredVisualizationHook

# what models and the merging of views read of an image
META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a detector")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_options(parser)
    parser.add_argument("--out", help="write the predictions to this pickle file, for offline evaluation")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument(
        "--show-dir", help="write pictures of the predictions there, in sub-folders as the images are"
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between shown pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


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
    if hook.type in ("DetVisualizationHook", "mmdet.DetVisualizationHook", DetVisualizationHook):
        hook.type = MirroredVisualizationHook.__name__


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's own, or with and without a flip.

    What is merged are boxes in the original image; metrics compare them with the objects of the first view.
    """
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        own = cfg.get("tta_pipeline")
        dataset.pipeline = load_objects_last(own) if own else flip(dataset.pipeline)
    if "tta_model" not in cfg:
        cfg.tta_model = dict(
            type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def check_boxes_alone(model: nn.Module) -> None:
    """Raise InputError where a detector finds masks too."""
    parts = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if found := parts & {"mask_head", "panoptic_head"}:
        raise InputError(
            "--tta: mmdet merges the boxes of augmented images but not their masks, which this model's "
            f"{found.pop()} finds; leave it out"
        )


def flip(pipeline: list[dict]) -> list[dict]:
    """Two views of a test pipeline: as it is, and flipped before padding and the loading of objects."""
    loaded = 1 + next((n for n, step in enumerate(pipeline) if is_a(step, LoadImageFromFile)), 0)
    *steps, pack = pipeline[loaded:]
    pack = dict(pack, meta_keys=tuple(dict.fromkeys((*pack.get("meta_keys", ()), *META_KEYS))))
    flips = [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)]
    views = dict(type="TestTimeAug", transforms=[flips, *([step] for step in steps), [pack]])
    return [*pipeline[:loaded], views]


def load_objects_last(pipeline: list[dict]) -> list[dict]:
    """A tta_pipeline as mmdet writes them: objects are loaded after the image was resized and flipped."""
    *steps, views = pipeline
    if not is_a(views, TestTimeAug):
        raise InputError(
            f"--tta: expected TestTimeAug at the end of the config's tta_pipeline, got {views['type']}"
        )
    *choices, pack = views["transforms"]
    choices = [sorted(choice, key=flips_image) for choice in choices]
    loading = [[step] for step in steps if is_a(step, LoadAnnotations)]
    loading += [choice for choice in choices if is_a(choice[0], LoadAnnotations)]
    choices = [choice for choice in choices if choice not in loading]
    steps = [step for step in steps if [step] not in loading]
    return [*steps, dict(views, transforms=[*choices, *loading, pack])]


def flips_image(step: dict) -> bool:
    """Whether a step of a pipeline flips images, or may."""
    return is_a(step, RandomFlip) and step.get("prob") != 0


def is_a(step: dict, kind: type) -> bool:
    """Whether a step of a pipeline is of a class or of one that extends it."""
    known = TRANSFORMS.get(step["type"]) if isinstance(step["type"], str) else step["type"]
    return known is not None and issubclass(known, kind)


def main() -> None:
    """Build the runner from the config, load the checkpoint and evaluate."""
    args = parse_args()
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise InputError(f"--out: expected a .pkl or .pickle file, got {args.out}")
    if args.out:  # before the evaluation, not after it
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    check_data(cfg, "test")
    runner = build_runner(cfg)
    if args.tta:
        check_boxes_alone(runner.model)
    check_checkpoint(runner.model, args.checkpoint)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.register_hook(dict(type="NumClassCheckHook"))
    runner.test()


if __name__ == "__main__":
    run(main)
