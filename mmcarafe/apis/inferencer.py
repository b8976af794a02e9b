# SPDX-License-Identifier: Apache-2.0
"""The detector of the demo, and the names of the classes that its labels stand for."""

import mmcv
import numpy as np
from mmdet.apis import DetInferencer
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmdet.models import RPN
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import nn

from mmcarafe.apis.config import BUILDERS, absence_named, build_detector, read_config
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.datasets.configured import innermost_datasets
from mmcarafe.deploy.detectors import predicting
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_pipeline
from mmcarafe.visualization import image_pipeline


class Inferencer(DetInferencer):
    """mmdet's inferencer, with weights that fit and the classes they were trained for.

    mmdet takes the names from the checkpoint whatever they are, and COCO's where it holds none. Images are
    given as the first step of the config's test pipeline, ``load``, or :meth:`take` makes them.

    Raises:
        InputError: config and checkpoint do not belong together, or give no names for the model's labels.
    """

    def __init__(self, config: str, checkpoint: str, device: str):
        cfg = read_config(config)
        check_pipeline(cfg, config)
        # it draws, and what it drew is written by the demo
        cfg.visualizer = dict(cfg.get("visualizer") or dict(type="DetLocalVisualizer"), vis_backends=None)
        self.files = config, checkpoint
        with absence_named(f"config {config} cannot be used", BUILDERS):
            super().__init__(cfg, checkpoint, device=device, show_progress=False)

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        checkpoint, state = read_state_dict(weights)
        model = build_detector(cfg)
        check_instances(model, self.files[0])
        check_state(model, weights, state)
        classes = choose_classes(cfg, checkpoint, *self.files)
        check_count(model, classes, *self.files)
        meta = dict(dataset_meta=dict(classes=classes))
        self._load_weights_to_model(model, dict(state_dict=state, meta=meta), cfg)
        palette = model.dataset_meta["palette"]
        if isinstance(palette, list) and len(palette) < len(classes):  # a data set's own, for other classes
            model.dataset_meta["palette"] = "random"
        return model.to(device)

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load, change = image_pipeline(cfg)
        return change

    def take(self, frame: np.ndarray) -> dict:
        """Return BGR pixels as the config's test pipeline would have loaded them from a file."""
        step = self.load.transforms[0]
        if getattr(step, "color_type", "color").startswith("grayscale"):
            frame = mmcv.bgr2gray(frame)
        return LoadImageFromNDArray(to_float32=getattr(step, "to_float32", False))(dict(img=frame))


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
    """Raise InputError where the model gives a panoptic segmentation or proposals, and no objects."""
    model = predicting(model)
    if isinstance(model, RPN):
        raise InputError(
            f"config {config} builds an RPN, whose proposals have no classes; the demo needs objects"
        )
    fusion = getattr(model, "panoptic_fusion_head", None)  # Mask2Former has one for objects too
    if fusion is not None and not (fusion.test_cfg or {}).get("instance_on"):
        raise InputError(f"config {config} builds a panoptic model; the demo needs one that gives objects")


def check_count(model: nn.Module, classes: tuple[str, ...], config: str, path: str) -> None:
    """Raise InputError unless each label of the model has a name."""
    model = predicting(model)
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
    """Return that of a data set as mmdet would build it: names can be in a file, or come with the type."""
    return DATASETS.build({**dataset, "lazy_init": True, "pipeline": []}).metainfo


def _trained_for(checkpoint: dict) -> object:
    """Return what a checkpoint holds as classes: of mmdet 3 in its data set's meta, of mmdet 2 beside it."""
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


def _few(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
