# SPDX-License-Identifier: Apache-2.0
"""Choose the checkpoint that a training goes on from, and see that all of it can be gone on from."""

import os
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmcarafe.checkpoint.random_state import check_random_state, is_epoch_complete
from mmcarafe.checkpoint.schedule import LOADING_ERRORS, check_schedule
from mmcarafe.checkpoint.state_dict import check_state, is_state_dict, read_state_dict
from mmcarafe.errors import InputError


def checkpoint_folder(cfg: Config) -> Path:
    """Return where the hook of a config writes its checkpoints."""
    return output_folder(cfg.work_dir, _hook_settings(cfg).get("out_dir"))


def output_folder(work_dir: str, out_dir: str | Path | None) -> Path:
    """Return where mmengine's hook writes: the work directory, or a folder of its name in ``out_dir``."""
    absolute = os.path.abspath(work_dir)
    # mmengine compares them as they are written
    return Path(work_dir) if out_dir in (None, absolute) else Path(out_dir) / Path(absolute).name


def _hook_settings(cfg: Config) -> dict:
    """Return the arguments of the CheckpointHook, which a config can leave out or set to None."""
    return (cfg.get("default_hooks") or {}).get("checkpoint") or {}


def written_checkpoints(cfg: Config) -> list[Path]:
    """List the checkpoints of a work directory's last run, newest first.

    mmengine writes the name of the newest one to ``last_checkpoint``. Files with higher numbers were left by
    an earlier run, unless they are younger than that note: then the run was killed before it could write it.
    A note that is empty or cut tells nothing, and the youngest file is taken as the newest.
    """
    note, folder = Path(cfg.work_dir, "last_checkpoint"), checkpoint_folder(cfg)
    names = r"(.*_)(\d+)\.pth"
    if template := _hook_settings(cfg).get("filename_tmpl"):  # "epoch{:03d}.pth"
        names = re.sub(r"^(.*?)\\\{.*?\\\}", r"(\1)(\\d+)", re.escape(template)) + "|" + names
    steps = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if found := re.fullmatch(f"(?!best_)(?:{names})", path.name):
            kind, step = (part for part in found.groups() if part is not None)
            steps[path] = kind, int(step)
    if not note.is_file():
        return sorted(steps, key=lambda path: steps[path][1], reverse=True)
    # only its name: the folder may have been moved, or be a copy of one that still exists
    newest = folder / Path(note.read_text(errors="replace").strip()).name
    if newest not in steps:
        return sorted(steps, key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    (kind, last), written = steps[newest], note.stat().st_mtime_ns
    last_run = [
        path
        for path, step in steps.items()
        if step[0] == kind and (step[1] <= last or path.lstat().st_mtime_ns > written)
    ]
    return sorted(last_run, key=lambda path: steps[path][1], reverse=True)


def read_training_state(path: str) -> dict:
    """Read a checkpoint; InputError unless it holds all that training goes on from."""
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
    if "mmcarafe" in meta:
        try:
            check_random_state(meta["mmcarafe"])
        except LOADING_ERRORS as error:
            raise InputError(
                f"checkpoint {path} cannot be resumed from: its meta.mmcarafe is no random state"
            ) from error
    return checkpoint


def checkpoint_to_resume(cfg: Config) -> tuple[str | None, dict | None, list[str]]:
    """Read the newest checkpoint of a work directory that is whole.

    Returns:
        Its path, what it holds, and what is wrong with each newer one; None, None and nothing where the work
        directory has none.

    Raises:
        InputError: none of those in the work directory can be resumed from.
    """
    refused = []
    for path in map(str, written_checkpoints(cfg)):
        try:
            return path, read_training_state(path), refused
        except InputError as error:
            refused.append(str(error))
    if refused:
        raise InputError(
            f"none of the {len(refused)} checkpoints in {cfg.work_dir} can be resumed from; the newest: "
            f"{refused[0]}"
        )
    return None, None, []


def epochs_done(meta: dict) -> int:
    """Return how many epochs were complete when a checkpoint was written.

    One that is written by iterations at the end of an epoch is written before mmengine counts that epoch.
    """
    return meta["epoch"] + is_epoch_complete(meta.get("mmcarafe") or {})


def check_fit(runner: Runner, path: str, checkpoint: dict) -> None:
    """Raise InputError unless a checkpoint's state is of the run's model, optimizer and schedule."""
    check_state(runner.model, path, checkpoint["state_dict"])
    if "ema_state_dict" in checkpoint:
        averaged = checkpoint["ema_state_dict"]
        if not is_state_dict(averaged):
            raise InputError(f"checkpoint {path}: its ema_state_dict is no state dict")
        # the averaged model is the module of a wrapper that counts its steps
        model = {k.removeprefix("module."): v for k, v in averaged.items() if k.startswith("module.")}
        check_state(runner.model, path, model)
        if not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise InputError(
                f"checkpoint {path} holds an average of the model (EMA), and the config has no EMAHook: "
                "training would go on from the average; keep the hook in custom_hooks, or start a new "
                f"training from it with --cfg-options load_from={path} without --resume"
            )
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(wrapper, OptimWrapperDict):  # of several models, which mmengine loads one by one
        check_schedule(runner, path, checkpoint, wrapper)
    epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
    name, planned = ("max_epochs", runner.max_epochs) if epochs else ("max_iters", runner.max_iters)
    done = epochs_done(checkpoint["meta"]) if epochs else checkpoint["meta"]["iter"]
    if done >= planned:
        runner.logger.warning(f"nothing is left to train: {path} was written at {done}, {name} is {planned}")
