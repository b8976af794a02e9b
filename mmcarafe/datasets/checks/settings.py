# SPDX-License-Identifier: Apache-2.0
"""Settings of a config that data depend on, read from the data sets and transforms that training builds."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmcv.transforms import BaseTransform, LoadImageFromFile, RandomFlip, Resize
from mmdet import datasets
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import init_default_scope

from mmcarafe.datasets.class_counts import class_counts, labelled_datasets
from mmcarafe.datasets.coco import CocoDataset
from mmcarafe.datasets.configured import walk_datasets
from mmcarafe.errors import InputError
from mmcarafe.utils.pretrained import drop_pretrained

KNOWN_PACKAGES = ("mmcarafe", "mmcv", "mmdet", "mmengine")
READING = ("load_data_list", "parse_data_info", "filter_data")


@dataclass(frozen=True)
class Settings:
    """Settings of a config that data depend on; the defaults are those of the configs for COCO with masks."""

    classes: tuple[str, ...] | None = None
    with_mask: bool = True
    poly2mask: bool = True
    filter_empty: bool = True
    min_size: int = 32
    scale: tuple[int, int] | None = (1333, 800)
    flips_unresized: bool = False
    loader: LoadImageFromFile = field(default_factory=LoadImageFromFile)
    source: str = ""
    problems: tuple[tuple[str, str], ...] = ()


class Part(NamedTuple):
    """A data set of a config, without its annotations, its path there, and the steps of its pipelines."""

    path: str
    dataset: BaseDataset
    steps: list[BaseTransform | Callable]

    def having(self, kind: type) -> list[BaseTransform]:
        """Return the steps of a type."""
        return [step for step in self.steps if isinstance(step, kind)]


def read_settings(cfg: Config, ann_file: str = "") -> Settings:
    """Read what a config does with a file: as the data set that reads it, else as the first learnt."""
    if cfg.get("default_scope") == "mmseg":
        raise InputError(
            f"config {cfg.filename} is of mmsegmentation, whose maps train.py checks while they are read; "
            "the checks here are of COCO's files"
        )
    init_default_scope(cfg.get("default_scope") or "mmdet")
    train, val, test = ([*_parts(cfg, f"{split}_dataloader")] for split in ("train", "val", "test"))
    if not train:
        raise InputError(f"config {cfg.filename} has no train_dataloader with a dataset")
    every, file = [*train, *val, *test], Path(ann_file).resolve()
    reading = [part for part in every if Path(part.dataset.ann_file or "").resolve() == file]
    part = (reading or train)[0]
    trained = part if part in train else train[0]
    if isinstance(part.dataset, datasets.LVISV05Dataset | datasets.CocoPanopticDataset):
        raise InputError(
            f"{part.path} is a {type(part.dataset).__name__}, whose files have other fields than COCO's of "
            "instances, and an evaluation of their own: the checks here are of COCO's files of instances"
        )
    classes, filters = part.dataset.metainfo.get("classes"), trained.dataset.filter_cfg or {}
    classes = None if classes is None or isinstance(classes, str) else tuple(classes)
    count = "no list of" if classes is None else len(classes)
    source = f"{part.path}, {type(part.dataset).__name__} of {part.dataset.ann_file}, {count} classes"
    masks = [step for step in trained.having(LoadAnnotations) if step.with_mask]
    loader = [*trained.having(LoadImageFromFile), LoadImageFromFile()][0]
    # one inside a random Resize has no scale of its own
    resizes = [step for step in (val or train)[0].having(Resize) if step.scale and min(step.scale) > 0]
    return Settings(
        classes=classes,
        with_mask=bool(masks),
        poly2mask=all(step.poly2mask for step in masks),
        filter_empty=filters.get("filter_empty_gt", False),
        min_size=filters.get("min_size", 0),
        scale=tuple(resizes[0].scale) if resizes and resizes[0].keep_ratio else None,
        flips_unresized=bool(trained.having(RandomFlip)) and not trained.having(Resize),
        loader=LoadImageFromFile(color_type=loader.color_type, imdecode_backend=loader.imdecode_backend),
        source=source if reading else f"{source}; no data set of the config reads this file",
        problems=(*_unknown(part, trained), *_class_problems(cfg, every)),
    )


def _parts(cfg: Config, loader: str) -> Iterator[Part]:
    """Build the innermost data sets of a loader, and the pipelines of their wrappers."""
    for path, dataset, outer in walk_datasets((cfg.get(loader) or {}).get("dataset"), f"{loader}.dataset"):
        built = DATASETS.build({**dataset, "lazy_init": True})
        yield Part(path, built, [*_steps(built.pipeline), *_steps(Compose(outer))])


def _steps(part: object) -> Iterator[BaseTransform | Callable]:
    """Yield the transforms of a pipeline, and those that they consist of."""
    if isinstance(part, Compose):  # can hold any function
        yield from (step for step in part.transforms if not isinstance(step, BaseTransform))
    elif isinstance(part, BaseTransform):
        yield part
    parts = vars(part) if isinstance(part, (BaseTransform, Compose)) else part
    if isinstance(parts, (list, tuple, dict)):
        for inner in parts.values() if isinstance(parts, dict) else parts:
            yield from _steps(inner)


def _unknown(part: Part, trained: Part) -> Iterator[tuple[str, str]]:
    """Find classes other than mmdet's, which decide what the checks cannot know."""
    kind = type(part.dataset)
    known = [getattr(base, name) for base in (datasets.CocoDataset, CocoDataset) for name in READING]
    own = [name for name in READING if getattr(kind, name) not in known]
    if own:
        yield "dataset-unknown", f"{part.path}: {kind.__name__} has its own {', '.join(own)}"
    for step in trained.steps:
        if type(step).__module__.split(".")[0] not in KNOWN_PACKAGES:
            yield "step-unknown", f"{trained.path}: {type(step).__name__}"
    if not trained.having(LoadImageFromFile):
        yield "step-unknown", f"{trained.path}: no LoadImageFromFile"


def _class_problems(cfg: Config, parts: list[Part]) -> Iterator[tuple[str, str]]:
    """Compare the heads of the model with the classes of every data set."""
    settings = deepcopy(cfg.model)
    drop_pretrained(settings)
    model, seen = MODELS.build(settings), set()
    for path, dataset, _ in parts:
        for labelled in labelled_datasets(dataset):
            classes = labelled.metainfo.get("classes")
            if isinstance(classes, str):
                yield "classes-string", f"{path}: {classes!r}"
            for count in class_counts(model, labelled.metainfo):
                if count.number != count.expected and count not in seen:
                    seen.add(count)
                    yield "class-count", f"{count.setting} is {count.number}, {path} has {count.expected}"
