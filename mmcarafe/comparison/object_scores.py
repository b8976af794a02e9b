# SPDX-License-Identifier: Apache-2.0
"""Score how well each object of an image is found; choose the images where an arm gains and loses most.

An object's score is its IoU with the mask that fits it best, of those of its class that are found with a
confidence of at least CONFIDENCE; an image's score is the mean over its objects. The objects of a semantic
map are its classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as rle

from mmcarafe.errors import InputError

CONFIDENCE = 0.3
"""Detections below it count for nothing, and are not drawn."""

MIN_OBJECTS = 5
"""Images with fewer are left out, unless all have fewer: one object missed would be much of their mean."""

IGNORED = 255
"""The number that mmsegmentation gives pixels of no class."""


class Masks(NamedTuple):
    """Objects of an image, or the classes of a map."""

    labels: np.ndarray
    """int [N]"""
    rles: list[dict]
    """N masks of the size of the image, as pycocotools encodes them."""

    @classmethod
    def of(cls, labels: np.ndarray, masks: np.ndarray) -> "Masks":
        """Encode masks, bool [N, H, W]."""
        return cls(labels, rle.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8)))


class Seen(NamedTuple):
    """An image, its truth, and what a model finds in it."""

    path: str
    truth: Masks
    found: Masks

    @property
    def fits(self) -> np.ndarray:
        """Return the IoU of each mask found with each object, float [found, objects], 0 between classes."""
        same = self.found.labels[:, None] == self.truth.labels
        ious = rle.iou(self.found.rles, self.truth.rles, [False] * len(self.truth.rles))
        return same * np.reshape(ious, same.shape)

    @property
    def scores(self) -> np.ndarray:
        """Return the score of each object, float [objects]."""
        return self.fits.max(axis=0, initial=0)


def look(sample: BaseDataElement) -> Seen:
    """Return the masks in what a detector or a segmentor predicted for an image of a data set.

    Raises:
        InputError: there are none, or none of the truth.
    """
    if "gt_sem_seg" in sample and "pred_sem_seg" in sample:
        truth, found = (
            part.data.squeeze(0).cpu().numpy() for part in (sample.gt_sem_seg, sample.pred_sem_seg)
        )
        _check_sizes(sample.img_path, truth.shape, found.shape)
        return Seen(sample.img_path, classes(truth), classes(np.where(truth == IGNORED, IGNORED, found)))
    truth, found = sample.get("gt_instances"), sample.get("pred_instances")
    if truth is None or found is None or "masks" not in truth or "masks" not in found:
        raise InputError(
            "expected masks, or a semantic map, of the model and of the data set; the second needs "
            "LoadAnnotations in the pipeline of val_dataloader, for a detector with_mask=True"
        )
    _check_sizes(sample.img_path, (truth.masks.height, truth.masks.width), found.masks.shape[1:])
    found = found[found.scores >= CONFIDENCE].cpu()
    objects = Masks.of(truth.labels.cpu().numpy(), truth.masks.to_ndarray())
    return Seen(sample.img_path, objects, Masks.of(found.labels.numpy(), found.masks.numpy()))


def _check_sizes(path: str, truth: tuple[int, ...], found: tuple[int, ...]) -> None:
    if tuple(truth) != tuple(found):
        raise InputError(
            f"the truth of {path} has the size {tuple(truth)}, what is found has {tuple(found)}: put "
            "LoadAnnotations behind Resize in the pipeline of val_dataloader"
        )


def classes(labels: np.ndarray) -> Masks:
    """Return a mask for each class of a map, int [H, W]."""
    here = np.setdiff1d(labels, IGNORED)
    return Masks.of(here, labels == here[:, None, None])


class Choice(NamedTuple):
    """An image, and the object in it of which the two models differ most."""

    image: int
    item: int
    difference: float
    """Give the difference of the image's scores, ours minus theirs."""


def extremes(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[Choice, Choice]:
    """Choose the image whose score gains most, and the one that loses most; an object by its own score.

    Args:
        ours (sequence of np.ndarray): the scores of each image's objects.
        theirs (sequence of np.ndarray): those of the baseline.

    Raises:
        InputError: no image has an object.

    Example:
        >>> import numpy as np
        >>> from mmcarafe.comparison.object_scores import extremes
        >>> gain, loss = extremes([np.array([0.5, 0.5]), np.zeros(2)], [np.array([0.5, 0.25]), np.ones(2)])
        >>> gain, loss
        (Choice(image=0, item=1, difference=0.125), Choice(image=1, item=0, difference=-1.0))
    """
    least = max(1, min(MIN_OBJECTS, max(map(len, theirs), default=0)))
    gains = {
        number: our - their
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True))
        if len(their) >= least
    }
    if not gains:
        raise InputError("no image of val_dataloader has an object: there is nothing to compare")
    chosen = []
    for sign in (1, -1):
        image = max(gains, key=lambda number, sign=sign: sign * gains[number].mean())
        chosen.append(Choice(image, int((sign * gains[image]).argmax()), float(gains[image].mean())))
    return chosen[0], chosen[1]
