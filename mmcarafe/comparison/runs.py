# SPDX-License-Identifier: Apache-2.0
"""The runs of a comparison: what is planned, what each is trained with, and the file of their results."""

import json
import os
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmcarafe.comparison import variants
from mmcarafe.comparison.arms import Arm, arm_config, fingerprint
from mmcarafe.comparison.same_start_hook import SameStartHook
from mmcarafe.errors import InputError

RESULTS = "runs.jsonl"


@dataclass(frozen=True)
class Run:
    """An arm trained with a seed."""

    arm: Arm
    seed: int
    recipe: str
    """Fingerprint of the config without an arm, which says how the weights begin that arms share."""
    settings: str
    """Fingerprint of the arm's whole config: results of other settings are other results."""
    folder: Path
    """The folder of its config, log, checkpoints and result."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Return what no other run has."""
        return self.recipe, self.settings, self.seed

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"


def plan(cfg: Config, arms: list[Arm], seeds: list[int], out: Path) -> list[Run]:
    """Return all runs, seed by seed, so that all arms can be compared before the last seed is done.

    Raises:
        InputError: the model lacks a place that an arm needs.
    """
    if not (cfg.get("val_dataloader") and cfg.get("val_evaluator") and cfg.get("train_dataloader")):
        raise InputError("the config needs train_dataloader, val_dataloader and val_evaluator")
    recipe, settings = fingerprint(cfg), {arm: fingerprint(arm_config(cfg, arm)) for arm in arms}
    runs = []
    for seed in dict.fromkeys(seeds):  # each once, also where it is named twice
        for arm in dict.fromkeys(arms):
            folder = run_folder(out, arm.name, settings[arm], seed)
            runs.append(Run(arm, seed, recipe, settings[arm], folder))
    return runs


def run_folder(out: Path, arm: str, settings: str, seed: int) -> Path:
    """Return the folder of a run in that of its comparison."""
    name = re.sub(r"[^\w.=-]+", "-", arm)
    return out / f"{name}_{settings}" / f"seed-{seed}"


def run_config(cfg: Config, run: Run) -> Config:
    """Return what a run is trained with: the arm's config, its seed and the start that all arms share.

    ``{seed}`` in ``load_from`` stands for the seed, so that each goes on from a training of its own.
    """
    common = deepcopy(cfg.model)
    cfg = arm_config(cfg, run.arm)
    cfg.work_dir = str(run.folder)
    cfg.launcher = "none"
    if cfg.get("load_from"):
        cfg.load_from = cfg.load_from.replace("{seed}", str(run.seed))
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": run.seed}
    hook = dict(type="SameStartHook", model=common, progress=str(run.folder / "progress"))
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]
    imports = cfg.setdefault("custom_imports", ConfigDict(imports=[], allow_failed_imports=False))
    given = [imports.imports] if isinstance(imports.imports, str) else imports.imports
    # for other commands, which take this config too
    imports.imports = [*given, SameStartHook.__module__, variants.__name__]
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    checkpoint.setdefault("max_keep_ckpts", 2)
    return cfg


def result_line(name: str, run: Run) -> dict:
    """Return a finished run's line of the file: what it was, and what it measured."""
    measured = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    what = dict(config=name, recipe=run.recipe, settings=run.settings, arm=run.arm.name)
    return what | dict(upsampler=run.arm.upsampler, where=run.arm.where, seed=run.seed) | measured


def read_results(path: Path) -> list[dict]:
    """Return the lines of a file of results; none where it does not exist."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is no file of results, one JSON object a line: {error}") from error


def add_result(path: Path, line: dict) -> None:
    """Add a line; whenever the process is killed, the file holds it whole or not at all."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    write_whole(path, f"{before}{json.dumps(line)}\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, flush it to the disk and rename it."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
