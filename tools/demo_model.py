# SPDX-License-Identifier: Apache-2.0
"""The detector of the demo, and the names of the classes that its labels stand for."""

from common import InputError, innermost_datasets, read_config
from mmdet.apis import DetInferencer
from mmdet.registry import DATASETS
from mmengine.config import Config
from torch import nn
from weights import check_checkpoint, read_state_dict


class Inferencer(DetInferencer):
    """mmdet's inferencer, with weights that fit and the classes they were trained for.

    mmdet takes the names from the checkpoint whatever they are, and COCO's where it holds none.

    Raises:
        InputError: config and checkpoint do not belong together, or give no names for the model's labels.
    """

    def __init__(self, config: str, checkpoint: str, device: str):
        cfg = read_config(config)
        if not innermost_datasets((cfg.get("test_dataloader") or {}).get("dataset")):
            raise InputError(f"config {config} has no test_dataloader with a dataset, whose pipeline is used")
        cfg.model.backbone.init_cfg = None
        read_state_dict(checkpoint)  # refuses what is no plain data, before mmdet reads it
        self.files = config, checkpoint
        super().__init__(cfg, checkpoint, device=device, show_progress=False)

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        check_checkpoint(model, self.files[1])
        classes = choose_classes(cfg, checkpoint, *self.files)
        check_instances(model, self.files[0])
        check_count(model, classes, *self.files)
        meta = dict(dataset_meta=dict(classes=classes))
        checkpoint = dict(state_dict=checkpoint.get("state_dict", checkpoint), meta=meta)
        super()._load_weights_to_model(model, checkpoint, cfg)
        palette = model.dataset_meta["palette"]
        if isinstance(palette, list) and len(palette) < len(classes):  # a data set's own, for other classes
            model.dataset_meta["palette"] = "random"


def choose_classes(cfg: Config, checkpoint: dict, config: str, path: str) -> tuple[str, ...]:
    """The config's own names of classes, else the checkpoint's, else those of the config's type of data set.

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
                f"checkpoint {path} was trained for other classes ({_few(theirs)}) than config {config} "
                f"names ({_few(ours)}); use the config it was trained with"
            )
        return ours
    classes = theirs or (_names(_metainfo(datasets[0]).get("classes")) if datasets else ())
    if not classes:
        raise InputError(
            f"neither config {config} nor checkpoint {path} names the classes; add "
            "metainfo=dict(classes=(...)) to the config's test_dataloader.dataset"
        )
    return classes


def check_instances(model: nn.Module, config: str) -> None:
    """Raise InputError where the model gives a panoptic segmentation, and no objects with boxes."""
    fusion = getattr(model, "panoptic_fusion_head", None)  # Mask2Former has one for objects too
    if fusion is not None and not (fusion.test_cfg or {}).get("instance_on"):
        raise InputError(f"config {config} builds a panoptic model; the demo needs one that gives objects")


def check_count(model: nn.Module, classes: tuple[str, ...], config: str, path: str) -> None:
    """Raise InputError unless each label of the model has a name."""
    part = getattr(model, "roi_head", model)
    heads = [getattr(part, name, None) for name in ("bbox_head", "mask_head", "panoptic_head")]
    head = next((head for head in heads if head is not None), None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    count = getattr(head, "num_classes", len(classes))
    if count != len(classes):
        raise InputError(
            f"the model has {count} classes, but config {config} and checkpoint {path} give names for "
            f"{len(classes)} ({_few(classes)}); set metainfo=dict(classes=(...)) of the config's "
            "test_dataloader.dataset to the classes of the training, in their order"
        )


def _metainfo(dataset: dict) -> dict:
    """That of a data set as mmdet would build it: names can be in a file, or come with the type."""
    return DATASETS.build({**dataset, "lazy_init": True, "pipeline": []}).metainfo


def _trained_for(checkpoint: dict) -> object:
    """What a checkpoint holds as classes: of mmdet 3 in its data set's meta, of mmdet 2 beside it."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict):
        return None
    dataset = meta.get("dataset_meta")
    names = {str(k).lower(): v for k, v in dataset.items()} if isinstance(dataset, dict) else {}
    return names.get("classes", meta.get("CLASSES"))


def _names(value: object) -> tuple[str, ...]:
    """The names, or nothing where this is no list of some."""
    named = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if named else ()


def _few(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
