# SPDX-License-Identifier: Apache-2.0
"""Means, and paired differences with their 95 % interval."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The difference between an arm and the baseline, over the seeds that both have."""

    mean: float
    count: int
    """Pairs."""
    low: float | None
    """The interval begins here; None where one pair alone tells nothing of the spread."""
    high: float | None

    @property
    def seen(self) -> bool:
        """Tell whether there is an interval, and 0 is not in it."""
        return self.low is not None and not self.low <= 0 <= self.high


def paired_difference(
    ours: dict[int, float], theirs: dict[int, float], step: float = 0.0
) -> Difference | None:
    """Return the mean of ours - theirs by seed, with the interval of Student's t; None without a pair.

    Args:
        ours (dict[int, float]): values by seed.
        theirs (dict[int, float]): those of the baseline.
        step (float): what the values are rounded to. Differences of rounded values have a standard deviation
            of step / sqrt(6) from rounding alone, which is the least that is reckoned with: two that happen
            to be equal are not exact. Default: 0.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0}, {0: 2.0, 1: 3.0, 2: 9.0}).mean
        1.5
    """
    pairs = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if len(pairs) == 0:
        return None
    mean = float(pairs.mean())
    if len(pairs) == 1:
        return Difference(mean, 1, None, None)
    spread = max(pairs.std(ddof=1), step / np.sqrt(6))
    half = float(t.ppf((1 + LEVEL) / 2, len(pairs) - 1) * spread / np.sqrt(len(pairs)))
    return Difference(mean, len(pairs), mean - half, mean + half)


def summarise(values: dict[int, float], baseline: dict[int, float] | None, step: float = 0.0) -> dict:
    """Return mean, standard deviation (of a sample; None for one value), median and difference, for JSON."""
    numbers = np.array(list(values.values()))
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    difference = paired_difference(values, baseline, step) if baseline is not None else None
    return dict(
        mean=float(numbers.mean()),
        std=std,
        median=float(np.median(numbers)),
        count=len(numbers),
        difference=difference and asdict(difference) | dict(seen=difference.seen),
    )
