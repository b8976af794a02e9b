# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint; the command line is that of mmdet's tools/test.py."""

import argparse
from copy import deepcopy
from pathlib import Path

from common import InputError, add_options, build_runner, check_data, load_config, run
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from weights import check_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a detector")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_options(parser)
    parser.add_argument("--out", help="write the predictions to this pickle file, for offline evaluation")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument("--show-dir", help="write pictures of the predictions there")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between shown pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's own, or with and without a flip."""
    if cfg.model.get("roi_head", {}).get("mask_head") or cfg.model.get("mask_head"):
        raise InputError(
            "--tta: mmdet merges the boxes of augmented images but not their masks; leave it out"
        )
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_pipeline" not in cfg:
        pack = dict(
            type="PackDetInputs",
            meta_keys=(
                "img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction"
            ),
        )  # fmt: skip
        flips = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = deepcopy(dataset.pipeline)
        cfg.tta_pipeline[-1] = dict(type="TestTimeAug", transforms=[flips, [pack]])
    if "tta_model" not in cfg:
        cfg.tta_model = dict(
            type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


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
        cfg = trigger_visualization_hook(cfg, args)
    if args.tta:
        use_tta(cfg)
    check_data(cfg, "test")
    runner = build_runner(cfg)
    check_checkpoint(runner.model, args.checkpoint)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == "__main__":
    run(main)
