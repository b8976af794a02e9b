# SPDX-License-Identifier: Apache-2.0
"""Train a detector; the command line is that of mmdet's tools/train.py."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from common import (
    InputError,
    add_options,
    build_runner,
    check_checkpoint,
    check_data,
    check_finite,
    load_config,
    read_state_dict,
    run,
)
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn


def parse_args() -> argparse.Namespace:
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
    return parser.parse_args()


def written_checkpoints(work_dir: Path) -> list[Path]:
    """The checkpoints of a work directory's last run, newest first.

    mmengine writes the name of the newest one to ``last_checkpoint``. Files with higher numbers were left by
    an earlier run, unless they are younger than that note: then the run was killed before it could write it.
    """
    note = work_dir / "last_checkpoint"
    newest = Path(note.read_text().strip()) if note.is_file() else Path()
    if not newest.is_file():  # the folder was moved, or the run killed before the note was written
        newest = work_dir / (newest.name or "none")
    steps = {}
    for path in newest.parent.glob("*.pth"):
        if found := re.fullmatch(r"(?!best_)(.*_)(\d+)\.pth", path.name):
            steps[path] = found[1], int(found[2])
    if newest in steps:
        kind, last = steps[newest]
        written = note.stat().st_mtime_ns
        steps = {
            path: step
            for path, step in steps.items()
            if step[0] == kind and (step[1] <= last or path.stat().st_mtime_ns > written)
        }
    return sorted(steps, key=lambda path: steps[path][1], reverse=True)


def check_training_state(path: str) -> None:
    """Raise InputError unless training can go on from a checkpoint."""
    checkpoint, state = read_state_dict(path)
    parts = ("meta", "message_hub", "optimizer")
    missing = [part for part in parts if not isinstance(checkpoint.get(part), dict)]
    if missing or checkpoint is state:
        raise InputError(
            f"checkpoint {path} cannot be resumed from, it holds no {', '.join(missing) or 'state_dict'}: to "
            f"start a new training from its weights give --cfg-options load_from={path} without --resume"
        )
    meta = checkpoint["meta"]
    if not all(type(meta.get(name)) is int and meta[name] >= 0 for name in ("epoch", "iter")):
        raise InputError(f"checkpoint {path} cannot be resumed from, its meta has no numbers epoch and iter")
    if "config" in meta:  # what mmengine writes is called cfg
        raise InputError(
            f"checkpoint {path} has a meta.config, which mmengine would run as Python when it resumes; if "
            "you trust where it comes from, remove that entry and save it again"
        )


def check_optimizer(runner: Runner, path: str) -> None:
    """Raise InputError unless a checkpoint's optimizer is of the config's kind and parameter groups."""
    saved = read_state_dict(path)[0]["optimizer"]
    ours = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(ours, OptimWrapper):  # of several models, which mmengine loads one by one
        return
    try:
        ours.load_state_dict(saved)
        problem = [name for name in ours.optimizer.defaults for g in ours.param_groups if name not in g]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = [str(error)]
    if problem:
        raise InputError(
            f"checkpoint {path} holds the state of another optimizer than the config's "
            f"{type(ours.optimizer).__name__} ({problem[0]}): use the optim_wrapper it was trained with, or "
            f"start a new training from its weights with --cfg-options load_from={path} without --resume"
        )


def checkpoint_to_resume(cfg: Config) -> tuple[str | None, list[str]]:
    """The checkpoint given, or the newest one that is whole; and what is wrong with each that is newer."""
    if cfg.get("load_from"):
        check_training_state(cfg.load_from)
        return cfg.load_from, []
    refused = []
    for path in map(str, written_checkpoints(Path(cfg.work_dir))):
        try:
            check_training_state(path)
        except InputError as error:
            refused.append(str(error))
        else:
            return path, refused
    if refused:
        raise InputError(
            f"none of the {len(refused)} checkpoints in {cfg.work_dir} can be resumed from; the newest: "
            f"{refused[0]}"
        )
    return None, []


def pretrained_files(cfg: object) -> Iterator[str]:
    """Files that parts of a model are to be initialised from."""
    if isinstance(cfg, dict):
        path = cfg.get("checkpoint")
        if cfg.get("type") == "Pretrained" and isinstance(path, str) and "://" not in path:
            yield path
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            yield from pretrained_files(part)


def main() -> None:
    """Build the runner from the config and train."""
    args = parse_args()
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
    for path in pretrained_files(cfg.model):
        check_finite(path, read_state_dict(path)[1])
    notes = []
    if cfg.get("resume"):
        cfg.load_from, notes = checkpoint_to_resume(cfg)
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
    if cfg.get("resume") and isinstance(runner.model, nn.Module):  # a FlexibleRunner builds it later
        check_checkpoint(runner.model, cfg.load_from)
        check_optimizer(runner, cfg.load_from)
    elif cfg.get("load_from"):
        check_finite(cfg.load_from, read_state_dict(cfg.load_from)[1])
    runner.train()


if __name__ == "__main__":
    run(main)
