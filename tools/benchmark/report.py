# SPDX-License-Identifier: Apache-2.0
"""Sum the measurements up: ratios against their aims, and tables on the screen."""

from collections.abc import Iterator
from functools import partial
from itertools import chain, product
from math import isnan, nan, prod

from benchmark.cpu import DOWNSAMPLING
from benchmark.forms import FORMS
from benchmark.rows import BOTH, FORWARD, LAYOUTS, PASSES, SHAPES
from rich.console import Console
from rich.table import Table

CASE = ("shape", "dtype", "layout", "what")
OURS, INTERPOLATIONS = "CARAFE", ("nearest", "bilinear")
"""Rows of the table of upsamplers: ours, and those that it is not to be compared with."""


def of(
    data: dict, row: str, shape: str = "P3", layout: str = LAYOUTS[0], what: str = FORWARD, key: str = "ms"
) -> float:
    """Return one number of a run on a CPU, NaN where it was not measured."""
    case = dict(shape=shape, layout=layout, what=what, row=row)
    return next((r.get(key, nan) for r in data["results"] if case.items() <= r.items()), nan)


def our_row(data: dict) -> str:
    """Return the name of the operator's rows with the best implementation that was measured: the first."""
    return next(r["row"] for r in data["results"] if r["row"].startswith("mmcarafe"))


def together(data: dict, detector: str) -> float:
    """Return milliseconds of all parts of a detector, NaN where it was not measured."""
    return sum(r["ms"] for r in data["results"] if r["row"].startswith(f"{detector}: ")) or nan


def best_form(data: dict, what: str, ending: str = "") -> float:
    """Return milliseconds of the fastest form in plain PyTorch, NaN where none was measured."""
    times = (of(data, f"{form}{ending}", what=what) for form in FORMS)
    return min((ms for ms in times if not isnan(ms)), default=nan)


def ratios(data: dict) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and aim of each ratio; NaN where it was not measured. A new aim is one entry here."""
    ours, ms = our_row(data), partial(of, data)
    for x in LAYOUTS:
        yield f"forward / nearest, P3, {x}", ms(ours, layout=x) / ms("nearest", layout=x), "<=1.25"
    for what, eager, compiled in ((FORWARD, ">=25", ">=8"), (BOTH, ">=25", ">=6")):
        for kind, ending, limit in (("eager", "", eager), ("compiled", ", compiled", compiled)):
            ratio = best_form(data, what, ending) / ms(ours, what=what)
            yield f"best {kind} form / {what}, P3", ratio, limit
    rate = partial(ms, what=f"{FORWARD}, memory reused", key="gflops")
    for x in LAYOUTS:
        ratio = rate(ours, layout=x) / rate("matrix product")
        yield f"GFLOP/s with reused memory / of a matrix product, P3, {x}", ratio, ">=0.5"
    for row, x in product(DOWNSAMPLING, LAYOUTS):
        ratio = rate(row, layout=x) / rate("matrix product")
        yield f"GFLOP/s of {row} to P3 / of a matrix product, {x}", ratio, ">=0.5"
    for x in LAYOUTS:
        yield f"extra memory / output, P3, {x}", ms(ours, layout=x, key="extra"), "<=0.15"
    for x in LAYOUTS:
        small, large = (ms(ours, shape, x) / prod(SHAPES[shape]) for shape in ("P5", "P2"))
        name = f"time per pixel, slower of P5 and P2 / faster, {x}"
        yield name, max(small / large, large / small), "<=1.3"
    one, other = (ms(ours, layout=x) for x in LAYOUTS)
    yield "slower layout / faster, P3, forward", max(one / other, other / one), "<=1.3"
    ratio = ms("CARAFE layer", "100 RoIs") / ms("deconvolution", "100 RoIs")
    yield "CARAFE layer / deconvolution, 100 RoIs, forward", ratio, "<=0.6"
    ratio = together(data, "CARAFE") / together(data, "nearest + deconv")
    yield "Mask R-CNN with CARAFE / nearest + deconv", ratio, "<=1.03"


def upsampler_ratios(data: dict) -> Iterator[tuple[str, float, str]]:
    """Yield the same for the table of upsamplers."""
    rivals = {r["row"] for r in data["results"]} - {OURS, *INTERPOLATIONS}
    for what, x in product(PASSES, LAYOUTS):
        ms = partial(of, data, layout=x, what=what)
        fastest = min((ms(row) for row in rivals), default=nan)
        yield (
            f"{OURS} / fastest but {' and '.join(INTERPOLATIONS)}, P3, {x}, {what}",
            ms(OURS) / fastest,
            "<=1",
        )


RATIOS = dict(cpu=ratios, upsamplers=upsampler_ratios)
"""By section of the page; there are none on a GPU."""


def targets(table: str, data: dict) -> list[dict]:
    """Return each ratio of a section that was measured: name, value, aim ("limit") and "met"."""
    found = RATIOS[table](data) if table in RATIOS else ()
    rows = [dict(name=name, value=value, limit=limit) for name, value, limit in found]
    for row in rows:
        limit = float(row["limit"][2:])
        row["met"] = row["value"] >= limit if row["limit"][0] == ">" else row["value"] <= limit
    return [row for row in rows if not isnan(row["value"])]


def cases(data: dict) -> dict[tuple[str, str, str, str], dict[str, dict]]:
    """Return results by shape, dtype, layout and pass, then by row."""
    found: dict[tuple, dict[str, dict]] = {}
    for r in data["results"]:
        found.setdefault(tuple(r[key] for key in CASE), {})[r["row"]] = r
    return found


def number(value: float) -> str:
    """Write a count in full, and what was measured with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def show(table: str, data: dict) -> None:
    """Print a section: a table of each shape, dtype, layout and pass, what is left out, and the aims."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has room
    console.print(", ".join(f"{key}: {value}" for key, value in data["machine"].items()))
    for case, rows in cases(data).items():
        lines = sorted(rows.values(), key=lambda r: r["ms"])
        if "nearest" in rows:
            lines = [r | {"/ nearest": r["ms"] / rows["nearest"]["ms"]} for r in lines]
        columns = [key for key in dict.fromkeys(chain(*lines)) if key not in CASE]
        printed = Table(*columns, title=", ".join(case))
        for r in lines:
            printed.add_row(r["row"], *(number(r[key]) if key in r else "" for key in columns[1:]))
        console.print(printed)
    for reason in dict.fromkeys(f"{r['row']}: {r['why']}" for r in data["left_out"]):
        console.print(f"left out: {reason}")
    for t in targets(table, data):
        met = "met   " if t["met"] else "missed"
        console.print(f"{met} {t['name']}: {t['value']:.2f} (aim {t['limit']})")
