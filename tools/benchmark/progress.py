# SPDX-License-Identifier: Apache-2.0
"""Tell what is left of a run, and about how long that takes."""

import time
from collections.abc import Iterable
from math import prod

from benchmark.rows import BOTH, COMPILED_SHAPE, MAX_FEATURES, PEERS, SHAPES

INTERVAL = 20
"""Seconds between two lines at least."""

SECONDS = dict(none=3, replaced=6, eager=24, compiled=80)
"""What the rows of each kind take in a forward pass on P3 with two threads, about. Only proportions count
once something is measured; a forward and a backward pass take three times as long."""


def expected_seconds(shape: str, layout: str, what: str, peers: str) -> float:
    """Guess how long the rows of a case take."""
    kinds = list(PEERS[: PEERS.index(peers) + 1])
    if layout != "contiguous" or prod(SHAPES[shape]) > MAX_FEATURES:
        kinds = [kind for kind in kinds if kind in ("none", "replaced")]
    elif shape != COMPILED_SHAPE:
        kinds = [kind for kind in kinds if kind != "compiled"]
    relative = prod(SHAPES[shape]) / (256 * 100 * 168)
    return sum(SECONDS[kind] for kind in kinds) * relative * (3 if what == BOTH else 1)


class Progress:
    """Prints a line where a case begins, and while it lasts one every INTERVAL seconds.

    Args:
        seconds (Iterable[float]): how long each case is expected to take, in their order.
    """

    def __init__(self, seconds: Iterable[float]) -> None:
        self.expected = list(seconds)
        self.count = 0
        self.started = self.begun = self.said = time.monotonic()

    def begin(self, name: str) -> None:
        """Go on to the next case."""
        self.count += 1
        self.name, self.begun = name, time.monotonic()
        self._say("")

    def within(self, left: float | None = None) -> None:
        """Say, if it is time to, how far the case is; ``left``: its seconds left, where they are known."""
        if time.monotonic() - self.said >= INTERVAL:
            self._say(" still", left)

    def _say(self, still: str, left: float | None = None) -> None:
        now = time.monotonic()
        total = len(self.expected)
        if left is None:
            left = max(0, self.expected[self.count - 1] * self._slowness() - (now - self.begun))
        left += sum(self.expected[self.count :]) * self._slowness()
        print(f"{self.count} of {total}:{still} {self.name}; about {_duration(left)} left", flush=True)
        self.said = now

    def _slowness(self) -> float:
        """Return how many times longer than expected the cases took that are over."""
        over = sum(self.expected[: self.count - 1])
        return (self.begun - self.started) / over if over else 1


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
