# SPDX-License-Identifier: Apache-2.0
"""Train a detector or segmentor; the command line is that of mmdet's tools/train.py."""

import argparse

from mmcarafe.apis.config import load_config
from mmcarafe.apis.libraries import library_of
from mmcarafe.apis.training import prepare_training
from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a detector or segmentor")
    parser.add_argument("config", help="config file")
    add_options(parser)
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (on CPUs with bfloat16)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the newest whole one in the work directory",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the runner from the config and train."""
    args = parse_args(argv)
    cfg = load_config(args)
    library_of(cfg)  # registers everything
    if args.amp:
        # FSDPStrategy asks for this very name, which without a scope would be mmengine's own
        cfg.optim_wrapper.type = "AmpOptimWrapper" if cfg.get("default_scope") else "mmdet.AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise InputError(
                "--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the images of a step "
                "that its learning rate is for (8xb2 in the name of a config: 16)"
            )
        cfg.auto_scale_lr.enable = True
    if (args.resume or cfg.get("resume")) and (cfg.get("strategy") or {}).get("type") == "FSDPStrategy":
        raise InputError(
            "--resume is not possible with FSDPStrategy: mmengine's cannot load an optimizer's state; to "
            "start a new training from a checkpoint's weights give --cfg-options load_from=path"
        )
    check_data(cfg, "train", "val")
    prepare_training(cfg, args.resume).train()


if __name__ == "__main__":
    run(main)
