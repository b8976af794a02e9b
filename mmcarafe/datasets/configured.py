# SPDX-License-Identifier: Apache-2.0
"""Data sets that a config names: found in their wrappers, and checked to exist."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmcarafe.errors import InputError


def check_data(cfg: Config, *splits: str) -> None:
    """Raise InputError unless what the data sets and metrics of the splits (train, val, test) read exists.

    What is read by a file backend of mmengine's other than the local one is left to it.
    """
    for split in splits:
        for dataset in innermost_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            root = Path(dataset.get("data_root") or "")
            if any(map(_is_remote, (dataset, *(dataset.get("pipeline") or ())))):
                continue
            for part in (dataset.get("ann_file"), *(dataset.get("data_prefix") or {}).values()):
                if part:
                    _require(root / part, f"{split}_dataloader.dataset", str(root))
        evaluator = cfg.get(f"{split}_evaluator") or {}
        for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
            if metric.get("ann_file") and not _is_remote(metric):
                _require(Path(metric["ann_file"]), f"{split}_evaluator.ann_file")


def _is_remote(cfg: dict) -> bool:
    return (cfg.get("backend_args") or {}).get("backend", "local") != "local"


def _require(path: Path, setting: str, root: str = "") -> None:
    if ":/" not in str(path) and not path.exists():
        where = f"link your data set there (ln -s /path/to/it {root})" if root else "make it"
        raise InputError(f"{path} does not exist; {where}, or change {setting} with --cfg-options")


def innermost_datasets(dataset: dict | None) -> list[dict]:
    """Return the innermost data sets of wrappers such as RepeatDataset or ConcatDataset."""
    return [inner for _, inner, _ in walk_datasets(dataset)]


def walk_datasets(dataset: dict | None, path: str = "", steps: tuple = ()) -> Iterator[tuple]:
    """Yield (path, innermost data set, steps of the pipelines of the wrappers round it)."""
    if dataset is None:
        return
    if "datasets" in dataset:
        for number, part in enumerate(dataset["datasets"]):
            yield from walk_datasets(part, f"{path}.datasets.{number}", steps)
    elif "dataset" in dataset:
        outer = (*(dataset.get("pipeline") or ()), *steps)
        yield from walk_datasets(dataset["dataset"], f"{path}.dataset", outer)
    else:
        yield path, dataset, steps
