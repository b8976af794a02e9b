# SPDX-License-Identifier: Apache-2.0
"""What check_dataset.py found, as a table and as JSON."""

import json

from rich.table import Table

from mmcarafe.datasets.checks.annotations import Example, Findings
from mmcarafe.datasets.checks.kinds import KINDS

SHOWN = 3


def table(found: Findings) -> Table:
    """A row for each kind, errors first."""
    rows = Table(show_lines=True)
    for column, width in (
        ("problem", 27),
        ("count", 5),
        ("what becomes of it, what to do", 46),
        ("first", 29),
    ):
        rows.add_column(
            column, justify="right" if column == "count" else "left", width=width, overflow="fold"
        )
    for kind in sorted(found, key=lambda name: (KINDS[name].severity, list(KINDS).index(name))):
        title, training, evaluation, remedy, _, severity = KINDS[kind]
        first = [where(example) for example in found[kind][:SHOWN]]
        more = [f"and {len(found[kind]) - SHOWN} more"] if len(found[kind]) > SHOWN else []
        rows.add_row(
            f"{severity}: {kind}\n{title}",
            str(len(found[kind])),
            f"training: {training}\nevaluation: {evaluation}\nto do: {remedy}",
            "\n".join(first + more),
        )
    return rows


def where(example: Example) -> str:
    """File, ids and detail of one example, without those that it has not."""
    name, image, ann, detail = example
    ids = [f"image {image}" if image is not None else "", f"annotation {ann}" if ann is not None else ""]
    return ", ".join(part for part in (name, *ids, detail) if part)


def as_json(found: Findings) -> str:
    """All examples of each kind, with what KINDS says of it."""
    report = {
        kind: KINDS[kind]._asdict() | dict(found=[example._asdict() for example in examples])
        for kind, examples in found.items()
    }
    return json.dumps(report, indent=1) + "\n"
