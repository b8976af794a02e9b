# SPDX-License-Identifier: Apache-2.0
"""The boundary F-score is that of a loop over pixels, and of cases computed by hand."""

from itertools import product

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmcarafe.comparison.boundary_f_metric import BoundaryIoUMetric

SIZE = (12, 16)  # a diagonal of 20 pixels
META = dict(classes=("ground", "a", "b"))


def looped(pairs: list, width: int) -> float:
    """Compute the score pixel by pixel."""

    def boundary(classes, number, truth):
        pixels = []
        for y, x in product(*map(range, SIZE)):
            if classes[y, x] != number or truth[y, x] == 255:
                continue
            around = [(y + dy, x + dx) for dy, dx in product((-1, 0, 1), repeat=2)]
            around = [(i, j) for i, j in around if 0 <= i < SIZE[0] and 0 <= j < SIZE[1]]
            if any(classes[i, j] != number and truth[i, j] != 255 for i, j in around):
                pixels.append((y, x))
        return pixels

    def near(some, others):
        return sum(any(max(abs(y - i), abs(x - j)) <= width for i, j in others) for y, x in some)

    scores = []
    for number in range(len(META["classes"])):
        counts = np.zeros(4)
        for found, truth in pairs:
            ours, theirs = boundary(found, number, truth), boundary(truth, number, truth)
            counts += near(ours, theirs), len(ours), near(theirs, ours), len(theirs)
        if counts[1] + counts[3]:
            precision, recall = counts[0] / max(1, counts[1]), counts[2] / max(1, counts[3])
            scores.append(2 * precision * recall / (precision + recall) if precision and recall else 0)
    return 100 * np.mean(scores)


def measured(pairs: list, width: int) -> dict:
    metric = BoundaryIoUMetric(tolerance=width / 20)
    metric.dataset_meta = META
    for found, truth in pairs:
        maps = dict(pred_sem_seg=found, gt_sem_seg=truth)
        metric.process({}, [{name: dict(data=torch.tensor(map_)[None]) for name, map_ in maps.items()}])
    return metric.evaluate(len(pairs))


@pytest.mark.parametrize("width", [1, 2])
def test_it_is_the_loops(width):
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        truth = rng.integers(0, 3, (3, 4)).repeat(4, 0).repeat(4, 1)
        found = np.where(rng.random(SIZE) < 0.1, rng.integers(0, 3, SIZE), np.roll(truth, 1, axis=1))
        truth[rng.random(SIZE) < 0.05] = 255
        pairs.append((found, truth))
    found = measured(pairs, width)
    assert found["mBoundaryF"] == pytest.approx(looped(pairs, width), abs=0.01)
    assert 0 < found["mBoundaryF"] < 100 and set(found) == {"aAcc", "mIoU", "mAcc", "mBoundaryF"}


def square(left: int) -> np.ndarray:
    classes = np.zeros(SIZE, int)
    classes[3:8, left : left + 5] = 1
    return classes


def test_the_truth_itself_has_all_and_what_is_far_away_none():
    assert measured([(square(2), square(2))], 1)["mBoundaryF"] == 100
    assert measured([(square(3), square(2))], 1)["mBoundaryF"] == 100, "a pixel beside it is near"
    assert measured([(square(10), square(1))], 1)["mBoundaryF"] == 0
    assert measured([(square(2) * 2, square(2))], 1)["mBoundaryF"] == pytest.approx(100 / 3, abs=0.01), (
        "the ground's boundary is right, those of the classes are not"
    )
