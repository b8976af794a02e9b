# SPDX-License-Identifier: Apache-2.0
"""Train a detector; the command line is that of mmdet's tools/train.py."""

import argparse

from mmengine import runner as mmengine_runner
from mmengine.config import Config
from mmengine.dist import all_gather_object

from mmcarafe.apis.config import load_config
from mmcarafe.checkpoint.resuming import check_fit, checkpoint_to_resume
from mmcarafe.checkpoint.state_dict import check_finite, check_some_match, read_state_dict
from mmcarafe.datasets.configured import check_data
from mmcarafe.engine.runner import Runner, build_runner
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a detector")
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


def check_start(runner: mmengine_runner.Runner, cfg: Config, checkpoint: dict | None) -> dict:
    """Return the checkpoint that training starts from, which is read unless it is given.

    Raises:
        InputError: it does not fit the run, or it is none.
    """
    knows_model = isinstance(runner, mmengine_runner.Runner)  # a FlexibleRunner builds its model later
    if cfg.get("resume") and knows_model:
        check_fit(runner, cfg.load_from, checkpoint)
        return checkpoint
    checkpoint, state = read_state_dict(cfg.load_from)
    check_finite(cfg.load_from, state)
    if knows_model:
        check_some_match(runner.model, cfg.load_from, state)
    return checkpoint


def main(argv: list[str] | None = None) -> None:
    """Build the runner from the config and train."""
    args = parse_args(argv)
    cfg = load_config(args)
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise InputError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        if (cfg.get("strategy") or {}).get("type") == "FSDPStrategy":
            raise InputError(
                "--resume is not possible with FSDPStrategy: mmengine's cannot load an optimizer's state; to "
                "start a new training from a checkpoint's weights give --cfg-options load_from=path"
            )
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    check_data(cfg, "train", "val")
    checkpoint, notes = None, []
    if cfg.get("resume"):
        cfg.load_from, checkpoint, notes = checkpoint_to_resume(cfg)
        cfg.resume = cfg.load_from is not None
        if not cfg.resume:
            notes = [f"{cfg.work_dir} holds no checkpoint to resume from: training starts at the beginning"]
    runner = build_runner(cfg)
    checkpoints = set(all_gather_object(cfg.load_from))
    if len(checkpoints) > 1:
        raise InputError(
            f"the processes find different checkpoints to start from ({', '.join(map(str, checkpoints))}): "
            f"every machine must see the same work directory, {cfg.work_dir}"
        )
    for note in notes:
        runner.logger.warning(note)
    if cfg.get("load_from"):
        checkpoint = check_start(runner, cfg, checkpoint)
        if isinstance(runner, Runner):
            runner.checkpoint = checkpoint
        del checkpoint  # so that it is gone when it has been loaded
    runner.register_hook(dict(type="NumClassCheckHook"))
    runner.train()


if __name__ == "__main__":
    run(main)
