# SPDX-License-Identifier: Apache-2.0
"""The plot of benchmark_op.py, and the performance section that it keeps up to date in its page."""

from pathlib import Path

import matplotlib
from benchmark.report import find, our_row, total

from mmcarafe.utils.markdown import split_section, write_section

NAME = "benchmark"
PLOT = "benchmark.png"
PASSES = ("forward", "forward+backward")

SECTION = """\
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

With outputs in reused memory the forward pass on P3 takes {reused[contiguous]} ms contiguous and
{reused[channels_last]} ms channels last (nearest: {reused[nearest, contiguous]} and
{reused[nearest, channels_last]} ms); a product of 2048 x 2048 matrices reaches {matmul:.0f} GFLOP/s there.
What fresh memory costs depends on the system and on what ran before, and so do the rows of large outputs;
[How it works inside](internals.md#the-cpu-kernels) says why.
Forward and backward on P3 by threads: {scaling}.
mmcv's operator on a CPU tensor: `{mmcv}`.

| Mask R-CNN R50, 800 x 1344, forward, ms | nearest + deconv | CARAFE in neck and mask head |
| --- | --- | --- |
{model}

Selecting boxes and pasting masks, the same for both, are left out of the last table.
"""


def plot(data: dict, path: Path) -> None:
    """Bars of the first shape and layout measured, one panel for each pass; log scale."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shape, layout = plotted(data)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for panel, what in zip(panels, PASSES, strict=True):
        key = dict(shape=shape, layout=layout, what=what)
        rows = [r for r in data["results"] if key.items() <= r.items()]
        if what == PASSES[0]:
            order = [r["row"] for r in sorted(rows, key=lambda r: -r["ms"])]
        rows.sort(key=lambda r: order.index(r["row"]))
        colours = ["#c44e52" if r["row"].startswith(("mmcarafe", "CARAFE")) else "#8c8c8c" for r in rows]
        bars = panel.barh([r["row"] for r in rows], [r["ms"] for r in rows], color=colours)
        panel.bar_label(bars, [f"{r['ms']:.0f}" for r in rows], padding=3, fontsize=8)
        panel.set(xscale="log", title=what, xlabel="ms, median (log scale)")
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{shape}, k=5, x2, {layout} float32: {described(data['machine'])}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plotted(data: dict) -> tuple[str, str]:
    """Shape and layout of the plot: P3 and contiguous if they were measured."""
    made = list(dict.fromkeys((r["shape"], r["layout"]) for r in data["results"]))
    return ("P3", "contiguous") if ("P3", "contiguous") in made else made[0]


def described(machine: dict) -> str:
    """A machine in words."""
    return f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"


def section(data: dict) -> str:
    """The performance section of the page, Markdown, from the measurements of one run with --all."""
    return SECTION.format(
        machine=described(data["machine"]),
        rounds=data["rounds"],
        targets="\n".join(f"| {t['name']} | {_value(t)} | {t['limit']} |" for t in data["targets"]),
        plot=PLOT,
        shapes="\n".join(_shape_rows(data)),
        reused={name: f"{r['ms']:.1f}" for name, r in data["reused"].items()},
        matmul=data["reused"]["matmul"]["gflops"],
        scaling=", ".join(f"{r['ms']:.0f} ms with {r['threads']}" for r in data["scaling"]),
        mmcv=data["mmcv"],
        model="\n".join(_model_rows(data)),
    )


def _value(target: dict) -> str:
    return f"{target['value']:.2f}" + ("" if target["met"] else " (missed)")


def _shape_rows(data: dict) -> list[str]:
    ours = our_row(data)
    lines = []
    for shape, layout in dict.fromkeys((r["shape"], r["layout"]) for r in data["results"]):
        times = [find(data, shape, layout, what, row)["ms"] for what in PASSES for row in ("nearest", ours)]
        lines.append(f"| {shape} | {layout} | " + " | ".join(f"{t:.1f}" for t in times) + " |")
    return lines


def _model_rows(data: dict) -> list[str]:
    names = ("nearest + deconv", "CARAFE")
    parts = dict.fromkeys(name.split(": ")[1] for name in data["model"])
    rows = [[part, *(data["model"][f"{name}: {part}"]["ms"] for name in names)] for part in parts]
    rows.append(["together", *(total(data, name) for name in names)])
    return [f"| {part} | {a:.0f} | {b:.0f} |" for part, a, b in rows]


def write_readme(data: dict, path: Path) -> None:
    """Draw the plot and replace the performance section of a Markdown file."""
    split_section(path, NAME)
    plot(data, path.parent / PLOT)
    write_section(path, NAME, section(data))
