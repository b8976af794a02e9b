# SPDX-License-Identifier: Apache-2.0
"""Reports of what was found, as a table and as JSON."""

import json

from rich.table import Table

from mmcarafe.datasets.checks.annotations import Example, Findings
from mmcarafe.datasets.checks.kinds import KINDS

SHOWN = 3


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
