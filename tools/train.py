# SPDX-License-Identifier: Apache-2.0
"""Train a detector; the command line is that of mmdet's tools/train.py."""

import argparse

from common import InputError, add_options, build_runner, check_checkpoint, check_data, load_config, run
from mmengine.device import get_device
from mmengine.runner.checkpoint import find_latest_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a detector")
    parser.add_argument("config", help="config file")
    add_options(parser)
    parser.add_argument("--amp", action="store_true", help="train with automatic mixed precision")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the newest one in the work directory",
    )
    return parser.parse_args()


def main() -> None:
    """Build the runner from the config and train."""
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        if get_device() == "cpu":
            raise InputError("--amp needs a GPU: mmengine's AmpOptimWrapper has no CPU mode; leave it out")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise InputError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    check_data(cfg, "train", "val")
    runner = build_runner(cfg)
    if args.resume:
        path = cfg.load_from or find_latest_checkpoint(runner.work_dir)
        if path is not None:
            check_checkpoint(runner.model, path)
    runner.train()


if __name__ == "__main__":
    run(main)
