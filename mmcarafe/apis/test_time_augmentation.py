# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation of any config: views of an image whose boxes mmdet merges."""

from copy import copy

from mmcv.transforms import LoadAnnotations, LoadImageFromFile, RandomFlip, TestTimeAug
from mmdet.registry import TRANSFORMS
from mmengine.config import Config, ConfigDict
from torch import nn

from mmcarafe.datasets.configured import innermost_datasets
from mmcarafe.errors import InputError
from mmcarafe.utils.registry import class_of

# what models and the merging of views read of an image
META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's own, or with and without a flip.

    What is merged are boxes in the original image; metrics compare them with the objects of the first view.
    """
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        own = cfg.get("tta_pipeline")
        dataset.pipeline = load_objects_last(own) if own else flip(dataset.pipeline)
    if "tta_model" not in cfg:
        cfg.tta_model = dict(
            type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def check_boxes_alone(model: nn.Module) -> None:
    """Raise InputError where a detector finds masks too."""
    parts = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if found := parts & {"mask_head", "panoptic_head"}:
        raise InputError(
            "--tta: mmdet merges the boxes of augmented images but not their masks, which this model's "
            f"{found.pop()} finds; leave it out"
        )


def flip(pipeline: list[dict]) -> list[dict]:
    """Return two views of a test pipeline: as it is, and flipped before padding and loading of objects."""
    loaded = 1 + next((n for n, step in enumerate(pipeline) if is_a(step, LoadImageFromFile)), 0)
    *steps, pack = pipeline[loaded:]
    pack = changed(pack, meta_keys=tuple(dict.fromkeys((*pack.get("meta_keys", ()), *META_KEYS))))
    flips = [dict(type="mmdet.RandomFlip", prob=prob) for prob in (0.0, 1.0)]
    views = dict(type="TestTimeAug", transforms=[flips, *([step] for step in steps), [pack]])
    return [*pipeline[:loaded], views]


def load_objects_last(pipeline: list[dict]) -> list[dict]:
    """Change a tta_pipeline as mmdet writes them: load objects after the image was resized and flipped."""
    *steps, views = pipeline
    if not is_a(views, TestTimeAug):
        raise InputError(
            f"--tta: expected TestTimeAug at the end of the config's tta_pipeline, got {views['type']}"
        )
    *choices, pack = views["transforms"]
    choices = [sorted(choice, key=flips_image) for choice in choices]
    loading = [[step] for step in steps if is_a(step, LoadAnnotations)]
    loading += [choice for choice in choices if is_a(choice[0], LoadAnnotations)]
    choices = [choice for choice in choices if choice not in loading]
    steps = [step for step in steps if [step] not in loading]
    return [*steps, changed(views, transforms=[*choices, *loading, pack])]


def changed(step: dict, **settings: object) -> dict:
    """Return a copy of a step with other settings, whose class stays what mmengine can write to a file."""
    step = copy(step)
    step.update(settings)
    return step


def flips_image(step: dict) -> bool:
    """Tell whether a step of a pipeline flips images, or may."""
    return is_a(step, RandomFlip) and step.get("prob") != 0


def is_a(step: dict, kind: type) -> bool:
    """Tell whether a step of a pipeline is of a class or of one that extends it."""
    known = class_of(step["type"], TRANSFORMS)
    return isinstance(known, type) and issubclass(known, kind)
