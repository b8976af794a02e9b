# SPDX-License-Identifier: Apache-2.0
"""Numbers of classes: those that the heads of a model are for, compared with those of its data sets."""

from collections.abc import Iterator
from typing import NamedTuple

from mmdet.datasets import MOTChallengeDataset
from mmdet.datasets.transforms import LoadEmptyAnnotations
from mmdet.models import RPN, ATSSVLFusionHead, FusedSemanticHead, GroundingDINOHead, SemiBaseDetector
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import nn

from mmcarafe.errors import DataError

# what tells objects from background, one person from another or ImageNet's classes, and what a head builds
# with its own number
_OTHER_PARTS = {"backbone", "rpn_head", "reid", "dn_query_generator", "segm_branch"}
# detectors, whose number is that of one of their heads; a head for maps, whose classes no metainfo names; and
# those whose classes are words of a prompt
_OTHER_TYPES = (BaseModel, FusedSemanticHead, ATSSVLFusionHead, GroundingDINOHead)
_SHOWN = 3


class ClassCount(NamedTuple):
    """Numbers of classes: that which a setting of a model is for, and that of a data set."""

    setting: str
    number: int
    expected: int


def class_counts(model: nn.Module, metainfo: dict) -> Iterator[ClassCount]:
    """Yield the number of classes of every head; none where the metainfo has no list of classes."""
    classes = metainfo.get("classes")
    if not isinstance(classes, list | tuple):
        return
    things, stuff = (len(metainfo.get(name, ())) for name in ("thing_classes", "stuff_classes"))
    panoptic = things + stuff == len(classes)
    for path, head in _heads(model):
        if "num_things_classes" not in vars(head):
            if panoptic or not things:  # else they are those of the data set's type, not of its own classes
                yield ClassCount(f"{path}.num_classes", head.num_classes, things or len(classes))
            continue
        if panoptic:
            yield ClassCount(f"{path}.num_things_classes", head.num_things_classes, things)
            yield ClassCount(f"{path}.num_stuff_classes", head.num_stuff_classes, stuff)
        else:
            total = head.num_things_classes + head.num_stuff_classes
            yield ClassCount(f"{path}.num_things_classes + num_stuff_classes", total, len(classes))
        weights = vars(head).get("class_weight")
        if isinstance(weights, list | tuple):  # one more is that of no object
            yield ClassCount(f"len({path}.loss_cls.class_weight)", len(weights), len(classes) + 1)


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts whose number of classes is to be set, and their paths in a config."""
    root = "model"
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if isinstance(model, SemiBaseDetector):
        root, model = "model.detector", model.student
    if isinstance(model, RPN):  # objects of one kind, whatever their classes
        return
    for path, part in model.named_modules(prefix=root):
        other = isinstance(part, _OTHER_TYPES) or _OTHER_PARTS & set(path.split("."))
        if isinstance(vars(part).get("num_classes"), int) and not other:
            yield path, part


def labelled_datasets(dataset: object) -> Iterator[object]:
    """Yield the innermost data sets of wrappers such as ConcatDataset whose labels are learnt or scored."""
    if hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from labelled_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from labelled_datasets(dataset.dataset)
    elif hasattr(dataset, "metainfo"):
        steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
        unlabelled = any(isinstance(step, LoadEmptyAnnotations) for step in steps)
        # of the thirteen classes of its files a tracker knows one
        if not unlabelled and not isinstance(dataset, MOTChallengeDataset):
            yield dataset


def check_class_counts(model: nn.Module, dataset: object, setting: str) -> None:
    """Raise DataError unless every head has as many classes as the data set that ``setting`` describes."""
    for part in labelled_datasets(dataset):
        classes = part.metainfo.get("classes")
        if isinstance(classes, str):
            raise DataError(
                f"metainfo.classes of {setting} is {classes!r}, which is no file of names: expected a list, "
                f"in which a single name has a comma behind it, classes=({classes!r},)"
            )
        wrong = [count for count in class_counts(model, part.metainfo) if count.number != count.expected]
        if wrong:
            names = ", ".join([*map(str, classes[:_SHOWN]), *["..."] * (len(classes) > _SHOWN)])
            counts = ", ".join(f"{name} is {number} (expected {right})" for name, number, right in wrong)
            raise DataError(
                f"{counts}: {setting} ({type(part).__name__}) has {len(classes)} classes ({names}); change "
                "these settings of the model, or metainfo.classes of the data set"
            )
