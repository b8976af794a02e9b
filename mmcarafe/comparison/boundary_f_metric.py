# SPDX-License-Identifier: Apache-2.0
"""Boundary F-score of segmentations, the measure of contours of Csurka et al. (BMVC 2013)."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

SQUARE = np.ones((3, 3), np.uint8)


def boundaries(classes: np.ndarray, count: int, ignored: np.ndarray) -> np.ndarray:
    """Return the pixels of each class beside one of another class, bool [count, H, W].

    Neighbours are the eight around a pixel. Neither the border of the image is a boundary, nor that of the
    ignored pixels, bool [H, W], which are of no class.
    """
    masks = [(classes == number) & ~ignored for number in range(count)]
    inside = [cv2.erode((mask | ignored).astype(np.uint8), SQUARE).astype(bool) for mask in masks]
    return np.array([mask & ~inner for mask, inner in zip(masks, inside, strict=True)])


def matches(found: np.ndarray, truth: np.ndarray, width: int) -> np.ndarray:
    """Count boundary pixels for each class: int64 [count, 4].

    Args:
        found (np.ndarray): bool [count, H, W], boundaries of a prediction.
        truth (np.ndarray): bool [count, H, W], those of the annotation.
        width (int): how many rows and columns two pixels may be apart to match.

    Returns:
        Matched pixels of ``found``, all of them, matched pixels of ``truth``, all of them.
    """
    counts = []
    for pair in zip(found, truth, strict=True):
        near = [cv2.dilate(band.astype(np.uint8), SQUARE, iterations=width).astype(bool) for band in pair]
        counts.append([number for i in (0, 1) for number in ((pair[i] & near[1 - i]).sum(), pair[i].sum())])
    return np.array(counts)


@METRICS.register_module()
class BoundaryIoUMetric(IoUMetric):
    """mmsegmentation's IoUMetric with ``mBoundaryF`` beside its own results, in per cent.

    Of each class, precision is the share of the boundary pixels predicted, of all images together, that have
    one of the truth near them, recall the share of the truth's that have one predicted; F is their harmonic
    mean, and the metric the mean over the classes that have a boundary in the truth or in a prediction.
    Other arguments are IoUMetric's.

    Args:
        tolerance (float): how far is near, by the image's diagonal, at least a pixel. Default: 0.0075, the
            paper's.
    """

    def __init__(self, *args, tolerance: float = 0.0075, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tolerance = tolerance

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count pixels of a batch."""
        done = len(self.results)
        super().process(data_batch, data_samples)
        counts = [self.count(sample) for sample in data_samples] if len(self.results) > done else []
        self.results[done:] = zip(self.results[done:], counts, strict=True)

    def count(self, sample: dict) -> np.ndarray:
        """Count the boundary pixels of one image."""
        maps = (sample[name]["data"] for name in ("pred_sem_seg", "gt_sem_seg"))
        found, truth = (classes.squeeze().cpu().numpy() for classes in maps)
        ignored, number = truth == self.ignore_index, len(self.dataset_meta["classes"])
        width = max(1, round(self.tolerance * float(np.hypot(*truth.shape))))
        return matches(boundaries(found, number, ignored), boundaries(truth, number, ignored), width)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the counts of all images."""
        if self.format_only:
            return super().compute_metrics(results)
        areas, counts = zip(*results, strict=True)
        metrics = super().compute_metrics(list(areas))
        near_found, all_found, near_truth, all_truth = np.sum(counts, axis=0).T
        with np.errstate(invalid="ignore"):  # 0 / 0: a class without a boundary
            precision, recall = near_found / all_found, near_truth / all_truth
            # a class that one of the two lacks matches nowhere
            scores = np.nan_to_num(2 * precision * recall / (precision + recall))
        here = all_found + all_truth > 0
        metrics["mBoundaryF"] = round(100 * float(scores[here].mean()), 2) if here.any() else float("nan")
        return metrics
