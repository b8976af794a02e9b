# SPDX-License-Identifier: Apache-2.0
"""The names of the classes that a model's labels stand for: the config's, or the checkpoint's."""

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmcarafe.datasets.configured import innermost_datasets
from mmcarafe.errors import InputError


def choose_classes(cfg: Config, checkpoint: dict, config: str, path: str) -> tuple[str, ...]:
    """Return the config's names of classes, else the checkpoint's, else those of the type of data set.

    Raises:
        InputError: config and checkpoint name different classes, or nothing names any.
    """
    datasets = [
        dataset
        for split in ("test", "val", "train")
        for dataset in innermost_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset"))
    ]
    own = [dataset for dataset in datasets if "classes" in (dataset.get("metainfo") or {})]
    theirs = _names(_trained_for(checkpoint))
    if own:
        ours = _names(given := _metainfo(own[0])["classes"])
        if not ours:
            raise InputError(
                f"config {config} has metainfo.classes={repr(given)[:40]}, expected a list of names"
            )
        if theirs and ours != theirs:
            raise InputError(
                f"checkpoint {path} was trained for other classes ({few(theirs)}) than config {config} "
                f"names ({few(ours)}); use the config it was trained with"
            )
        return ours
    classes = theirs or (_names(_metainfo(datasets[0]).get("classes")) if datasets else ())
    if not classes:
        raise InputError(
            f"neither config {config} nor checkpoint {path} names the classes; add "
            "metainfo=dict(classes=(...)) to the config's test_dataloader.dataset"
        )
    return classes


def _metainfo(dataset: dict) -> dict:
    """Return that of a data set as it would be built: names can be in a file, or come with the type."""
    return DATASETS.build({**dataset, "lazy_init": True, "pipeline": []}).metainfo


def _trained_for(checkpoint: dict) -> object:
    """Return what a checkpoint holds as classes: in its data set's meta, or of mmdet 2 beside it."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict):
        return None
    dataset = meta.get("dataset_meta")
    names = {str(k).lower(): v for k, v in dataset.items()} if isinstance(dataset, dict) else {}
    return names.get("classes", meta.get("CLASSES"))


def _names(value: object) -> tuple[str, ...]:
    """Return the names, or nothing where this is no list of some."""
    named = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if named else ()


def few(names: tuple[str, ...]) -> str:
    """Return how many names there are, and the first."""
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
