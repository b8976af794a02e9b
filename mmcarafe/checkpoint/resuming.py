# SPDX-License-Identifier: Apache-2.0
"""Choose the checkpoint that a training goes on from, and see that all of it can be gone on from."""

import re
from pathlib import Path

from mmengine.config import Config
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmcarafe.checkpoint.random_state import check_random_state
from mmcarafe.checkpoint.schedule import LOADING_ERRORS, check_schedule
from mmcarafe.checkpoint.state_dict import check_state, is_state_dict, read_state_dict
from mmcarafe.errors import InputError


def checkpoint_folder(cfg: Config) -> Path:
    """Return where mmengine's hook writes: the work directory, or a folder of its name in ``out_dir``."""
    out_dir = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("out_dir")
    return Path(out_dir) / Path(cfg.work_dir).name if out_dir else Path(cfg.work_dir)


def written_checkpoints(work_dir: Path, folder: Path) -> list[Path]:
    """List the checkpoints of a work directory's last run, newest first; ``folder`` is where it wrote them.

    mmengine writes the name of the newest one to ``last_checkpoint``. Files with higher numbers were left by
    an earlier run, unless they are younger than that note: then the run was killed before it could write it.
    A note that is empty or cut tells nothing, and the youngest file is taken as the newest.
    """
    note = work_dir / "last_checkpoint"
    steps = {}
    for path in folder.glob("*.pth"):
        if found := re.fullmatch(r"(?!best_)(.*_)(\d+)\.pth", path.name):
            steps[path] = found[1], int(found[2])
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
    """Read the checkpoint given, or the newest one that is whole.

    Returns:
        Its path, what it holds, and what is wrong with each newer one; None, None and nothing where the work
        directory has none.

    Raises:
        InputError: the checkpoint given, or each in the work directory, cannot be resumed from.
    """
    if cfg.get("load_from"):
        return cfg.load_from, read_training_state(cfg.load_from), []
    refused = []
    for path in map(str, written_checkpoints(Path(cfg.work_dir), checkpoint_folder(cfg))):
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
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(wrapper, OptimWrapperDict):  # of several models, which mmengine loads one by one
        check_schedule(runner, path, checkpoint, wrapper)
    epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
    name, planned = ("max_epochs", runner.max_epochs) if epochs else ("max_iters", runner.max_iters)
    done = checkpoint["meta"]["epoch" if epochs else "iter"]
    if done >= planned:
        runner.logger.warning(f"nothing is left to train: {path} was written at {done}, {name} is {planned}")
