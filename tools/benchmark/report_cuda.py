# SPDX-License-Identifier: Apache-2.0
"""What benchmark_op.py --device cuda says: tables on the screen, and the GPU section of the page."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmcarafe.utils.markdown import write_section

NAME = "benchmark-cuda"

SECTION = """\
One run of `python tools/benchmark_op.py --device cuda --all --page docs/benchmarks.md` on {gpu}
(torch {torch}, CUDA {cuda}, Triton {triton}): k=5, x2, medians of {rounds} rounds, inputs in turn from
a pool of twice the L2 cache, microseconds of one call replayed from a CUDA graph and, in brackets, called
from Python. A device-to-device copy moves {copy:.0f} GB/s; the last column is how much of that the Triton
kernels reach, each tensor counted once in each pass.

| shape | dtype | layout | pass | {rows} | of copy rate |
| --- | --- | --- | --- | {rule} | --- |
{table}

{left_out}"""


def groups(data: dict) -> dict[tuple, dict[str, dict]]:
    """Results by (shape, dtype, layout, pass), then by row."""
    found: dict[tuple, dict[str, dict]] = {}
    for r in data["results"]:
        found.setdefault((r["shape"], r["dtype"], r["layout"], r["what"]), {})[r["row"]] = r
    return found


def fraction(data: dict, result: dict | None) -> str:
    """Of the copy rate, in per cent."""
    return f"{100 * result['gbs'] / data['copy']:.0f} %" if result else ""


def show(data: dict) -> None:
    """Print every measurement."""
    console = Console(width=120)
    console.print(", ".join(f"{key}: {value}" for key, value in data["machine"].items()))
    console.print(f"device-to-device copy: {data['copy']:.0f} GB/s")
    for key, rows in groups(data).items():
        table = Table(title=", ".join(key))
        for column in ("", "us", "least - most", "called, us", "GB/s", "of copy", "extra / output"):
            table.add_column(column, justify="left" if not column else "right")
        for name, r in sorted(rows.items(), key=lambda item: item[1]["ms"]):
            table.add_row(
                name,
                f"{1e3 * r['ms']:.1f}",
                f"{1e3 * r['least']:.1f} - {1e3 * r['most']:.1f}",
                f"{1e3 * r['called_ms']:.1f}",
                f"{r['gbs']:.0f}",
                fraction(data, r),
                f"{r['extra'] / r['output']:.2f}" if "extra" in r else "",
            )
        console.print(table)
    for name, reason in data["left_out"].items():
        console.print(f"left out: {name}: {reason}")


def section(data: dict) -> str:
    """The GPU section of the page, Markdown."""
    names = list(dict.fromkeys(r["row"] for r in data["results"]))

    def cell(result: dict | None) -> str:
        return f"{1e3 * result['ms']:.0f} ({1e3 * result['called_ms']:.0f})" if result else ""

    lines = []
    for (shape, dtype, layout, what), rows in groups(data).items():
        cells = [shape, dtype, layout, what, *(cell(rows.get(name)) for name in names)]
        lines.append(f"| {' | '.join([*cells, fraction(data, rows.get('triton'))])} |")
    reasons = sorted({f"{name.split(', ')[0]}: {why}" for name, why in data["left_out"].items()})
    return SECTION.format(
        **data["machine"],
        rounds=data["rounds"],
        copy=data["copy"],
        rows=" | ".join(names),
        rule=" | ".join("---" for _ in names),
        table="\n".join(lines),
        left_out="".join(f"Left out: {reason}.\n" for reason in reasons),
    )


def write_readme(data: dict, path: Path) -> None:
    """Replace the GPU section of a Markdown file."""
    write_section(path, NAME, section(data))
