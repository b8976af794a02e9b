# SPDX-License-Identifier: Apache-2.0
"""Problems that were found in a data set, and their reports as a table and as JSON."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from rich.table import Table

from mmcarafe.datasets.checks.kinds import KINDS

Found = Iterator[tuple[str, str]]  # of a check: the name of a kind, and what the reader needs to see of it
SHOWN = 3


class Example(NamedTuple):
    """An example of a problem: where it is, and what the reader needs to see of it."""

    file_name: str | None
    image_id: Hashable
    annotation_id: Hashable
    detail: str


class Findings(defaultdict[str, list[Example]]):
    """All examples of each kind of problem that was found."""

    def __init__(self):
        super().__init__(list)

    def add(
        self, found: Iterable[tuple[str, str]], image: dict | None = None, ann: dict | None = None
    ) -> bool:
        """Note what a check found, and return whether there was anything."""
        image, ann, noted = image or {}, ann or {}, False
        for kind, detail in found:
            name = image.get("file_name")
            name = name if isinstance(name, str) else None  # what else it is, the detail says
            self[kind].append(Example(name, image.get("id", ann.get("image_id")), ann.get("id"), detail))
            noted = True
        return noted


def table(found: Findings) -> Table:
    """Return a table with a row for each kind, errors first."""
    rows = Table(show_lines=True)
    rows.add_column("problem", width=27, overflow="fold")
    rows.add_column("count", width=5, justify="right")
    rows.add_column("what becomes of it, what to do", width=46, overflow="fold")
    rows.add_column("first", width=29, overflow="fold")
    for name in sorted(found, key=lambda name: (KINDS[name].severity, list(KINDS).index(name))):
        kind, count = KINDS[name], len(found[name])
        first = [_where(example) for example in found[name][:SHOWN]]
        rows.add_row(
            f"{kind.severity}: {name}\n{kind.title}",
            str(count),
            f"training: {kind.training}\nevaluation: {kind.evaluation}\nto do: {kind.remedy}",
            "\n".join([*first, *[f"and {count - SHOWN} more"] * (count > SHOWN)]),
        )
    return rows


def _where(example: Example) -> str:
    """Name file, ids and detail of an example, without those that it has not."""
    name, image, ann, detail = example
    ids = [f"image {image}" if image is not None else "", f"annotation {ann}" if ann is not None else ""]
    return ", ".join(part for part in (name, *ids, detail) if part)


def as_json(found: Findings) -> str:
    """Return all examples of each kind, with what KINDS says of it, as JSON."""
    report = {
        name: KINDS[name]._asdict() | dict(found=[example._asdict() for example in examples])
        for name, examples in found.items()
    }
    return json.dumps(report, indent=1) + "\n"
