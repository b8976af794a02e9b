# SPDX-License-Identifier: Apache-2.0
"""What benchmark_op.py's measurements say: ratios against their aims, and tables on the screen."""

from benchmark.peers import FORMS
from rich.console import Console
from rich.table import Table


def find(data: dict, shape: str, layout: str, what: str, row: str) -> dict | None:
    """One measurement, or None if it was not made."""
    key = dict(shape=shape, layout=layout, what=what, row=row)
    return next((r for r in data["results"] if key.items() <= r.items()), None)


def our_row(data: dict) -> str:
    """Name of the operator's rows with the best implementation that was measured: the first."""
    return next(r["row"] for r in data["results"] if r["row"].startswith("mmcarafe"))


def best(data: dict, what: str, kind: str, shape: str = "P3") -> dict | None:
    """The fastest of the "eager" or "compiled" forms on contiguous maps; our own form is not among them."""

    def of_kind(row: str) -> bool:
        return row.endswith(", compiled") if kind == "compiled" else row in FORMS

    key = dict(shape=shape, layout="contiguous", what=what)
    rows = [r for r in data["results"] if key.items() <= r.items() and of_kind(r["row"])]
    return min(rows, key=lambda r: r["ms"], default=None)


def targets(data: dict) -> list[dict]:
    """Each ratio that is aimed at and that this run measured: its name, its value and its limit."""
    ours = our_row(data)

    def ms(shape: str, layout: str, what: str, row: str) -> float | None:
        found = find(data, shape, layout, what, row)
        return found and found["ms"]

    rows = []

    def add(name: str, above: float | None, below: float | None, limit: str) -> None:
        if above is not None and below is not None:
            value = above / below
            met = value >= float(limit[2:]) if limit[0] == ">" else value <= float(limit[2:])
            rows.append(dict(name=name, value=value, limit=limit, met=met))

    forward, both, flat, last = "forward", "forward+backward", "contiguous", "channels_last"
    for layout in (flat, last):
        name = f"forward / nearest, P3, {layout}"
        add(name, ms("P3", layout, forward, ours), ms("P3", layout, forward, "nearest"), "<=1.25")
    for what, eager, compiled in ((forward, ">=25", ">=8"), (both, ">=25", ">=6")):
        for kind, limit in (("eager", eager), ("compiled", compiled)):
            peer = best(data, what, kind)
            add(f"best {kind} form / {what}, P3", peer and peer["ms"], ms("P3", flat, what, ours), limit)
    reused = data["reused"]
    for layout in (flat, last):
        if layout in reused:
            name = f"GFLOP/s with reused memory / of a matrix product, P3, {layout}"
            add(name, reused[layout]["gflops"], reused["matmul"]["gflops"], ">=0.5")
    for layout in (flat, last):
        found = find(data, "P3", layout, forward, ours)
        if found and found["extra"] is not None:
            add(f"extra memory / output, P3, {layout}", found["extra"], found["output"], "<=0.15")
    for layout in (flat, last):
        small, large = find(data, "P5", layout, forward, ours), find(data, "P2", layout, forward, ours)
        if small and large:
            per_byte = [r["ms"] / r["output"] for r in (small, large)]
            name = f"time per pixel, slower of P5 and P2 / faster, {layout}"
            add(name, max(per_byte), min(per_byte), "<=1.3")
    pair = [ms("P3", layout, forward, ours) for layout in (flat, last)]
    if None not in pair:
        add("slower layout / faster, P3, forward", max(pair), min(pair), "<=1.3")
    rois = [ms("100 RoIs", flat, forward, row) for row in ("CARAFE layer", "deconvolution")]
    add("CARAFE layer / deconvolution, 100 RoIs, forward", *rois, "<=0.6")
    if "model" in data:
        add(
            "Mask R-CNN with CARAFE / nearest + deconv",
            total(data, "CARAFE"),
            total(data, "nearest + deconv"),
            "<=1.03",
        )
    return rows


def total(data: dict, detector: str) -> float:
    """Milliseconds of all parts of a detector."""
    return sum(r["ms"] for name, r in data["model"].items() if name.startswith(f"{detector}: "))


def show(data: dict) -> None:
    """Print a table for each shape, layout and pass, then the rest."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has room
    console.print(", ".join(f"{key}: {value}" for key, value in data["machine"].items()))
    groups = dict.fromkeys((r["shape"], r["layout"], r["what"]) for r in data["results"])
    for shape, layout, what in groups:
        rows = [r for r in data["results"] if (r["shape"], r["layout"], r["what"]) == (shape, layout, what)]
        nearest = find(data, shape, layout, what, "nearest")
        table = Table(title=f"{shape}, {layout}, {what}")
        for column in ("", "ms", "least - most", "/ nearest", "GFLOP/s", "extra / output"):
            table.add_column(column, justify="left" if not column else "right")
        for r in sorted(rows, key=lambda r: r["ms"]):
            table.add_row(
                r["row"],
                f"{r['ms']:.1f}",
                f"{r['least']:.1f} - {r['most']:.1f}",
                f"{r['ms'] / nearest['ms']:.2f}" if nearest else "",
                f"{r['gflops']:.0f}" if "gflops" in r else "",
                f"{r['extra'] / r['output']:.2f}" if r.get("extra") is not None else "",
            )
        console.print(table)
    for name, r in data.get("model", {}).items():
        console.print(f"{name}: {r['ms']:.0f} ms ({r['least']:.0f} - {r['most']:.0f})")
    for name, r in data["reused"].items():
        console.print(
            f"memory reused, {name}: {r['ms']:.1f} ms"
            + (f" = {r['gflops']:.0f} GFLOP/s" if "gflops" in r else "")
        )
    for r in data["scaling"]:
        console.print(f"{r['threads']} threads, forward+backward, P3: {r['ms']:.1f} ms")
    console.print(f"mmcv's operator: {data['mmcv']}")
    for t in data["targets"]:
        console.print(
            f"{'met   ' if t['met'] else 'missed'} {t['name']}: {t['value']:.2f} (aim {t['limit']})"
        )
