# SPDX-License-Identifier: Apache-2.0
"""Check that a segmentor's heads, its data sets and the maps have the same classes."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmcarafe.checkpoint.state_dict import unwrap
from mmcarafe.errors import AnnotationError, DataError
from mmcarafe.utils.classes import is_a

OTHER_TARGETS = ("STDCHead", "VPDDepthHead")  # mmsegmentation's heads for boundaries, and for depth


class MapCheckHook(Hook):
    """Refuse maps of classes that the model lacks, at which mmsegmentation ends in a trace or looks away.

    Raises:
        DataError: before the first step, a head is for another number of classes than a data set has.
        AnnotationError: a map has a class index that is none.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data set that is learnt, and the one whose turn for validation comes later."""
        check_classes(runner, "train")
        if runner.val_loop is not None:
            check_classes(runner, "val")

    def before_test_epoch(self, runner: Runner) -> None:
        """Check the data set of the test."""
        check_classes(runner, "test")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Check the maps of the batch."""
        check_maps(unwrap(runner.model), data_batch)

    before_val_iter = before_test_iter = before_train_iter


def check_classes(runner: Runner, split: str) -> None:
    """Raise DataError unless each head has as many classes as the data set."""
    dataset, setting = getattr(runner, f"{split}_dataloader").dataset, f"{split}_dataloader.dataset"
    classes = dataset.metainfo.get("classes")
    for path, head in heads(unwrap(runner.model)) if classes else ():
        if head.num_classes != len(classes):
            raise DataError(
                f"{path}.num_classes is {head.num_classes}, and {setting} ({type(dataset).__name__}) has "
                f"{len(classes)} classes ({', '.join(classes[:3])}{', ...' * (len(classes) > 3)}); change "
                "this setting of the model, or metainfo.classes of the data set"
            )


def heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the heads of a segmentor and their paths in a config."""
    for name in ("decode_head", "auxiliary_head"):
        part = getattr(model, name, None)
        for head in part if isinstance(part, nn.ModuleList) else [part]:
            # the targets of some are not the classes of the maps
            others = is_a(head, "mmseg", *OTHER_TARGETS)
            if isinstance(getattr(head, "num_classes", None), int) and not others:
                yield f"model.{name}", head


def check_maps(model: nn.Module, batch: dict) -> None:
    """Raise AnnotationError where a map of a batch has a class index that the model does not know."""
    head = next((head for _, head in heads(model)), None)
    for sample in samples_of(batch.get("data_samples", ())) if head else ():
        if "gt_sem_seg" not in sample:
            continue
        indices = sample.gt_sem_seg.data
        wrong = indices[(indices >= head.num_classes) & (indices != head.ignore_index)]
        if len(wrong):
            raise AnnotationError(
                f"map {sample.metainfo.get('seg_map_path', 'of an image')} has the class index "
                f"{int(wrong.max())} in {len(wrong)} pixels, expected 0 to {head.num_classes - 1}, or "
                f"{head.ignore_index} where a pixel is not to count; correct the map, or num_classes and "
                "metainfo.classes"
            )


def samples_of(samples: object) -> Iterator[object]:
    """Yield the samples of a batch, those of test-time augmentation too, which are lists of views."""
    if isinstance(samples, list | tuple):
        for part in samples:
            yield from samples_of(part)
    else:
        yield samples
