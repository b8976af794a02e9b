# SPDX-License-Identifier: Apache-2.0
"""Kinds of problems of a COCO data set: what becomes of each, and what to do; said once, in kinds.csv.

``python -m mmcarafe.datasets.checks.kinds`` prints the tables of docs/datasets.md.
"""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple


class Kind(NamedTuple):
    """A kind of problem; what becomes of it starts with used, skipped, lost, wrong or refused.

    ``severity`` is ``error`` where training or evaluation loses, mistakes or refuses something.
    """

    title: str
    training: str
    evaluation: str
    remedy: str
    demo: str
    severity: Literal["error", "note"]


def _read() -> dict[str, dict[str, Kind]]:
    """Read the kinds of each section of the guide, in its order."""
    sections = defaultdict(dict)
    with Path(__file__).with_name("kinds.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            section, name = row.pop("section"), row.pop("name")
            sections[section][name] = Kind(**row)
    return sections


SECTIONS = _read()
KINDS = {name: kind for kinds in SECTIONS.values() for name, kind in kinds.items()}


def markdown() -> str:
    """Return the guide's tables."""
    lines = []
    for section, kinds in SECTIONS.items():
        lines += [f"### {section}", "", "| problem | training | evaluation | demo | what to do |"]
        lines.append("| --- " * 5 + "|")
        for name, kind in kinds.items():
            cells = (f"`{name}`: {kind.title}", kind.training, kind.evaluation, kind.demo, kind.remedy)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
