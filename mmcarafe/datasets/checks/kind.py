# SPDX-License-Identifier: Apache-2.0
"""A kind of problem of a data set, and words that several share."""

from typing import NamedTuple

NOTES = ("used", "skipped", "-")
DEMO = "-"  # the demo reads images, not annotations


class Kind(NamedTuple):
    """A kind of problem; what becomes of it starts with used, skipped, lost, wrong or refused."""

    title: str
    training: str
    evaluation: str
    remedy: str
    demo: str = DEMO

    @property
    def severity(self) -> str:
        """``error`` where a run stops, loses objects or learns what is not there; else ``note``."""
        first = {text.split(":")[0] for text in (self.training, self.evaluation)}
        return "note" if first <= set(NOTES) else "error"


SKIPPED = "skipped: named and counted at the end"
REFUSED = "refused: AnnotationError with the image, when its turn comes"
