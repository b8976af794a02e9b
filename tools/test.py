# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint; the command line is that of mmdet's tools/test.py."""

import argparse
import os
from pathlib import Path

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config

from mmcarafe.apis.config import load_config
from mmcarafe.apis.test_time_augmentation import check_boxes_alone, use_tta
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.datasets.configured import check_data
from mmcarafe.engine.hooks.distinct_visualization_hook import DistinctVisualizationHook
from mmcarafe.engine.runner import Runner, build_runner
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a detector")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_options(parser)
    parser.add_argument("--out", help="write the predictions to this pickle file, for offline evaluation")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument("--show-dir", help="write a picture of the predictions for each image there")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between shown pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args(argv)


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
        hook.type = DistinctVisualizationHook.__name__


def main(argv: list[str] | None = None) -> None:
    """Build the runner from the config, load the checkpoint and evaluate."""
    args = parse_args(argv)
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
    checkpoint, state = read_state_dict(args.checkpoint)
    check_state(runner.model, args.checkpoint, state)
    if isinstance(runner, Runner):
        runner.checkpoint = checkpoint
    del checkpoint, state  # so that they are gone when they have been loaded
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.register_hook(dict(type="NumClassCheckHook"))
    runner.test()


if __name__ == "__main__":
    run(main)
