# SPDX-License-Identifier: Apache-2.0
"""The page of the benchmark: its prose and tables, the plot, and the measurements that it is made from."""

import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import matplotlib
from benchmark.model import CONFIGS, MODEL
from benchmark.report import cases, of, our_row, targets, together
from benchmark.rows import BOTH, FORWARD, LAYOUTS, PASSES, SHAPES
from benchmark.upsamplers import LEVELS

from mmcarafe.errors import InputError
from mmcarafe.utils.markdown import write_section

PLOT = "benchmark.png"
NAMES = dict(cpu="benchmark", upsamplers="benchmark-upsamplers", cuda="benchmark-cuda")
"""Of the page's sections."""

CPU_TEXT = """\
One run of `python tools/benchmark_op.py --all --page docs/benchmarks.md` on {machine}, no GPU:
float32, k=5, x2, medians of {rounds} calls in turn (3 where a row takes over half a second), fresh outputs.
P2 to P5 are the FPN levels of an 800 x 1344 image, 256 channels; RoIs are 256 x 14 x 14.

| ratio | measured | aim |
| --- | --- | --- |
{targets}

![CARAFE against other ways to write it]({plot})

| operator, ms | layout | nearest | CARAFE | nearest, forward+backward | CARAFE, forward+backward |
| --- | --- | --- | --- | --- | --- |
{shapes}

With outputs in reused memory the forward pass on P3 takes {ours[0]:.1f} ms contiguous and
{ours[1]:.1f} ms channels last (nearest: {nearest[0]:.1f} and
{nearest[1]:.1f} ms); a product of 2048 x 2048 matrices reaches {product:.0f} GFLOP/s there.
What fresh memory costs depends on the system and on what ran before, and so do the rows of large outputs;
[How it works inside](internals.md#the-cpu-kernels) says why.
Forward and backward on P3 by threads: {threads}.
mmcv's operator on a CPU tensor: `{mmcv}`.

| Mask R-CNN R50, 800 x 1344, forward, ms | nearest + deconv | CARAFE in neck and mask head |
| --- | --- | --- |
{model}

Selecting boxes and pasting masks, the same for both, are left out of the last table.
All that was measured is in [benchmarks.json](benchmarks.json).
"""

UPSAMPLERS_TEXT = """\
One run of `python tools/benchmark_op.py --upsamplers --page docs/benchmarks.md` on {machine}, no GPU:
every type of `upsample_cfg` with its defaults, x2, float32, medians of {rounds} calls in turn (3 where one
takes over half a second), fresh outputs.
P3 to P5 are what the FPN of an 800 x 1344 image enlarges, 256 channels; guides have as many.
In brackets: how many times as long as `nearest`. Extra memory is that of a forward pass beyond its output, in
units of the output, contiguous and channels last.
GFLOPs are of a forward pass ([what counts](flops.md#other-upsamplers)).

| ratio | measured | aim |
| --- | --- | --- |
{targets}

| level | type | {columns} | extra memory | GFLOPs | parameters |
| --- | --- | {rule} | --- | --- | --- |
{table}

All that was measured is in [benchmarks.json](benchmarks.json).
"""

CUDA_TEXT = """\
One run of `python tools/benchmark_op.py {options}` on {gpu}
(torch {torch}, CUDA {cuda}, Triton {triton}): k=5, x2, medians of {rounds} rounds, inputs in turn from
a pool of twice the L2 cache, microseconds of one call replayed from a CUDA graph and, in brackets, called
from Python. A device-to-device copy moves {copy:.0f} GB/s; the last column is how much of that the Triton
kernels reach, each tensor counted once in each pass.
All that was measured is in [benchmarks.json](benchmarks.json).

| shape | dtype | layout | pass | {rows} | of copy rate |
| --- | --- | --- | --- | {rule} | --- |
{table}

{left_out}"""


def aims(table: str, data: dict) -> str:
    """Return the lines of a table of ratios and their aims."""
    return markdown(
        (t["name"], f"{t['value']:.2f}{'' if t['met'] else ' (missed)'}", t["limit"])
        for t in targets(table, data)
    )


def cpu_section(data: dict) -> str:
    """Return the CPU section of the page, Markdown, from one run with --all."""
    ours, reused = our_row(data), f"{FORWARD}, memory reused"
    shapes = []
    for shape, _, layout, _ in (case for case in cases(data) if case[3] == BOTH):
        times = [of(data, row, shape, layout, what) for what in PASSES for row in ("nearest", ours)]
        shapes.append([shape, layout, *(f"{ms:.1f}" for ms in times)])
    by_threads = [r for r in data["results"] if r["what"] == f"{BOTH} by threads"]
    parts = dict.fromkeys(r["row"].partition(": ")[2] for r in data["results"] if r["shape"] == MODEL)
    model = {part: [of(data, f"{name}: {part}", MODEL) for name in CONFIGS] for part in parts}
    model["together"] = [together(data, name) for name in CONFIGS]
    return CPU_TEXT.format(
        machine=described(data["machine"]),
        rounds=data["rounds"],
        targets=aims("cpu", data),
        plot=PLOT,
        shapes=markdown(shapes),
        ours=[of(data, ours, layout=layout, what=reused) for layout in LAYOUTS],
        nearest=[of(data, "nearest", layout=layout, what=reused) for layout in LAYOUTS],
        product=of(data, "matrix product", what=reused, key="gflops"),
        threads=", ".join(f"{r['ms']:.0f} ms with {r['row']}" for r in by_threads),
        mmcv=next((r["why"] for r in data["left_out"] if r["row"] == "mmcv"), "runs here"),
        model=markdown([part, *(f"{ms:.0f}" for ms in times)] for part, times in model.items()),
    )


def upsamplers_section(data: dict) -> str:
    """Return the section of upsamplers, Markdown: of each level the types, the fastest first."""
    columns = list(product(PASSES, LAYOUTS))
    lines = []
    for shape in dict.fromkeys(r["shape"] for r in data["results"]):

        def get(
            kind: str, what: str = FORWARD, layout: str = LAYOUTS[0], key: str = "ms", shape=shape
        ) -> float:
            return of(data, kind, shape, layout, what, key)

        for kind in sorted({r["row"] for r in data["results"]}, key=get):
            times = [f"{get(kind, *c):.1f} ({get(kind, *c) / get('nearest', *c):.1f})" for c in columns]
            extra = " / ".join(f"{get(kind, FORWARD, layout, 'extra'):.2f}" for layout in LAYOUTS)
            count = f"{get(kind, key='parameters'):,}"
            lines.append([shape, f"`{kind}`", *times, extra, f"{get(kind, key='gflop'):.2f}", count])
    return UPSAMPLERS_TEXT.format(
        machine=described(data["machine"]),
        rounds=data["rounds"],
        targets=aims("upsamplers", data),
        columns=" | ".join(f"{what}, ms, {layout}" for what, layout in columns),
        rule=" | ".join("---" for _ in columns),
        table=markdown(lines),
    )


def cuda_section(data: dict) -> str:
    """Return the GPU section of the page, Markdown."""
    names = list(dict.fromkeys(r["row"] for r in data["results"]))
    lines = []
    for case, rows in cases(data).items():
        times = [
            f"{1e3 * r['ms']:.0f} ({1e3 * r['called_ms']:.0f})" if r else "" for r in map(rows.get, names)
        ]
        ours = rows.get("mmcarafe triton")
        lines.append([*case, *times, f"{ours['of_copy']:.0%}" if ours else ""])
    reasons = sorted({f"Left out: {r['row']}: {r['why']}.\n" for r in data["left_out"]})
    return CUDA_TEXT.format(
        **data["machine"],
        options=data["options"],
        rounds=data["rounds"],
        rows=" | ".join(names),
        rule=" | ".join("---" for _ in names),
        table=markdown(lines),
        left_out="".join(reasons),
    )


SECTIONS = dict(cpu=cpu_section, upsamplers=upsamplers_section, cuda=cuda_section)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return the lines of a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def described(machine: dict) -> str:
    """Return a machine in words."""
    return f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"


def plot(data: dict, path: Path) -> None:
    """Draw bars of P3, or of the first shape and layout measured, one panel for each pass; log scale."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    passes = [key for key in cases(data) if key[3] == FORWARD]
    case = ("P3", "float32", "contiguous", FORWARD)
    shape, dtype, layout, _ = case if case in passes else passes[0]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    order = sorted(cases(data)[shape, dtype, layout, FORWARD].values(), key=lambda r: -r["ms"])
    for panel, what in zip(panels, PASSES, strict=True):
        rows = [cases(data)[shape, dtype, layout, what][r["row"]] for r in order]
        colours = ["#c44e52" if r["row"].startswith(("mmcarafe", "CARAFE")) else "#8c8c8c" for r in rows]
        bars = panel.barh([r["row"] for r in rows], [r["ms"] for r in rows], color=colours)
        panel.bar_label(bars, [f"{r['ms']:.0f}" for r in rows], padding=3, fontsize=8)
        panel.set(xscale="log", title=what, xlabel="ms, median (log scale)")
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{shape}, k=5, x2, {layout} {dtype}: {described(data['machine'])}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read(path: Path) -> dict:
    """Return the measurements in a file by section, as in NAMES; none where it does not exist."""
    return json.loads(path.read_text()) if path.is_file() else {}


def save(path: Path, table: str, data: dict) -> None:
    """Write the measurements of a section beside those of the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(read(path) | {table: data}, indent=1) + "\n")


def write_page(path: Path, table: str, data: dict) -> None:
    """Replace a section of the page, and write its measurements beside it."""
    cases = {(r["shape"], r["layout"]) for r in data["results"]}
    # of a GPU the section names the command, and shows what that measured
    shapes = dict(cpu=SHAPES, upsamplers=LEVELS, cuda=())[table]
    if not set(product(shapes, LAYOUTS)) <= cases:
        raise InputError(
            "--page: expected the measurements of a run with --all or --upsamplers, both layouts"
        )
    write_section(path, NAMES[table], SECTIONS[table](data))
    save(path.with_suffix(".json"), table, data)
    if table == "cpu":
        plot(data, path.parent / PLOT)
