# SPDX-License-Identifier: Apache-2.0
"""The section of a comparison on a page of the documentation: tables, curves, and what they say."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from matplotlib.figure import Figure

from mmcarafe.comparison.report import (
    COLUMNS,
    PER_CENT,
    cell,
    cost_table,
    difference_text,
    kinds_of,
    scale_of,
    summary,
    table,
    what_of,
)
from mmcarafe.errors import InputError

MAIN = ("", "_50", "_75")
SIZES = ("_s", "_m", "_l")
CURVES = {"coco/segm_mAP": "mask AP", "mIoU": "mIoU"}
"""The metric whose curve is drawn, the first that there is, and its name."""
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Okabe and Ito's, which colour-blind readers tell apart."""
LINES = ("-", "--", ":")
"""The line's style changes where the colours begin again."""


def one_recipe(lines: list[dict], baseline: str) -> dict:
    """Return the summary of results that are of one recipe; InputError where they are of none or several."""
    recipes = summary(lines, baseline)
    if len(recipes) != 1:
        raise InputError(f"expected the results of one recipe, got those of {len(recipes)}: keep one's lines")
    return recipes[0]


def short_names(arms: Iterable[str]) -> dict[str, str]:
    """Return arms' names without arguments, but for arms that only these tell apart.

    Example:
        >>> short_names(["CARAFE in neck", "CARAFE,mask_head.up_kernel=3 in both"])
        {'CARAFE in neck': 'CARAFE in neck', 'CARAFE,mask_head.up_kernel=3 in both': 'CARAFE in both'}
    """
    names = {arm: re.sub(r",\S+ in ", " in ", arm) for arm in arms}
    count = Counter(names.values())
    return {arm: name if count[name] == 1 else arm for arm, name in names.items()}


def shortened(lines: list[dict]) -> list[dict]:
    """Return results with the short names of their arms."""
    names = short_names(line["arm"] for line in lines)
    return [line | dict(arm=names[line["arm"]]) for line in lines]


def section(lines: list[dict], baseline: str, differences: str, curves: str) -> str:
    """Return the Markdown of a comparison.

    Args:
        lines (list[dict]): results, as :func:`mmcarafe.comparison.runs.read_results` gives them.
        baseline (str): the arm to compare with.
        differences (str): address of the plot of differences.
        curves (str): address of the plot of curves.

    Raises:
        InputError: the results are not of one recipe, or have no run of the baseline.
    """
    baseline = short_names([*(line["arm"] for line in lines), baseline])[baseline]
    lines = shortened(lines)
    recipe = one_recipe(lines, baseline)
    arms, kinds = recipe["arms"], kinds_of(recipe["arms"])
    main = {key: title for kind in kinds.items() for key, title in _columns(*kind, MAIN).items()}
    by_size = {key: title for kind in kinds.items() for key, title in _columns(*kind, SIZES).items()}
    parts = [
        _status(recipe, lines, what_of(kinds)),
        _measured(arms, main),
        f"![differences to {baseline} and their intervals]({differences})",
        *_sizes(arms, by_size),
        _curve_text(lines, baseline),
        f"![{CURVES[_curve(lines)]} after epochs]({curves})",
        cost_table(arms),
    ]
    return "\n\n".join(part for part in parts if part)


def _columns(kind: str, title: str, ends: tuple[str, ...]) -> dict[str, str]:
    """Return the metrics of a kind of AP with their titles, or the one metric of a segmentor."""
    if kind in PER_CENT:
        return {kind: title} if ends is MAIN else {}
    return {f"{kind}{end}": f"{title.removesuffix(' AP')} {COLUMNS[end]}" for end in ends}


def _sizes(arms: list[dict], columns: dict[str, str]) -> list[str]:
    if not columns:
        return []
    note = "small below 32 x 32 pixels, large above 96 x 96; a size that no object has is left out"
    return [f"By size ({note}):", _measured(arms, columns)]


def _measured(arms: list[dict], columns: dict[str, str]) -> str:
    columns = {key: title for key, title in columns.items() if any(key in arm["measured"] for arm in arms)}
    rows = [
        [
            arm["arm"],
            str(len(arm["seeds"])),
            *(cell(arm["measured"].get(key), scale_of(key), 1) for key in columns),
        ]
        for arm in arms
    ]
    return table(["arm", "seeds", *columns.values()], rows)


def _status(recipe: dict, lines: list[dict], what: str) -> str:
    """Say what was run, and on what."""
    counts = [len(arm["seeds"]) for arm in recipe["arms"]]
    seeds = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    hours = sum(line["train_seconds"] for line in lines) / 3600
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in line["versions"].items()) for line in lines
    )
    machines = ", ".join(dict.fromkeys(line["device"] for line in lines))
    text = (
        f"{len(lines)} runs of `{recipe['config']}` (fingerprint {recipe['recipe']}), {seeds} for each arm: "
        f"{hours:.1f} hours in the training loop on {machines}, with {'; '.join(versions)}.\n"
        f"{what} in points of 100: mean ± standard deviation over the seeds; below it the difference to the "
        "first row by seed, with the 95 % interval of its mean."
    )
    if len(set(counts)) > 1:
        text += (
            " An arm with fewer seeds than the first row is compared with it over its own: "
            "the difference is then not that of the means shown."
        )
    if max(counts) < 2:
        return f"{text}\n**One seed for each arm so far: nothing can be concluded yet.**"
    if min(counts) < 2:
        return f"{text}\n**Arms with one seed have no interval: nothing can be concluded of them yet.**"
    return text


def at_a_glance(comparisons: dict[str, list[dict]], baseline: str) -> str:
    """Return each arm's differences to the baseline, in a table for each kind of results, and their number.

    Args:
        comparisons (dict[str, list[dict]]): results by what the comparison is called, Markdown. An arm whose
            runs are all among those of earlier ones is left out.
        baseline (str): the arm to compare with.
    """
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    known: set[tuple[str, int]] = set()
    seen: list[bool] = []
    for name, lines in comparisons.items():
        lines = shortened(lines)
        recipe = one_recipe(lines, baseline)
        kinds = kinds_of(recipe["arms"])
        for arm in recipe["arms"][1:]:
            runs = {(one["settings"], one["seed"]) for one in lines if one["arm"] == arm["arm"]}
            if not runs <= known:
                known |= runs
                row = [name, arm["arm"], *(_difference(arm, kind) for kind in kinds)]
                tables.setdefault(tuple(kinds.values()), []).append(row)
                differences = (arm["measured"].get(kind, {}).get("difference") for kind in kinds)
                seen += [one["seen"] for one in differences if one and one["low"] is not None]
    texts = [table(["comparison", "arm", *kinds], rows) for kinds, rows in tables.items()]
    if seen:
        texts.append(f"{sum(seen)} of these {len(seen)} intervals leave 0 out; by chance one in twenty does.")
    return "\n\n".join(texts)


def _difference(arm: dict, kind: str) -> str:
    difference = arm["measured"].get(kind, {}).get("difference")
    return difference_text(difference, scale_of(kind)) if difference else "-"


def _points(lines: list[dict], baseline: str) -> dict[str, dict[int, dict[int, float]]]:
    """Return by arm, the baseline first, epoch and seed the curve's values, in points."""
    curve = _curve(lines)
    found: dict[str, dict[int, dict[int, float]]] = {baseline: {}}
    for line in lines:
        for point in line["curve"]:
            if curve in point["metrics"]:
                value = scale_of(curve) * point["metrics"][curve]
                found.setdefault(line["arm"], {}).setdefault(point["epoch"], {})[line["seed"]] = value
    return {arm: dict(sorted(points.items())) for arm, points in found.items() if points}


def _curve(lines: list[dict]) -> str:
    known = [key for key in CURVES if any(key in line["metrics"] for line in lines)]
    return known[0] if known else next(iter(CURVES))


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


def _point(of: dict[int, dict[int, float]], epoch: int) -> str:
    """Return the mean of an arm's curve after an epoch; a run that was interrupted there lacks its value."""
    values = of.get(epoch, {}).values()
    if not values:
        return "-"
    lost = len(values) < max(map(len, of.values()))
    return f"{_mean(values):.1f}{f' ({len(values)} seeds)' if lost else ''}"


def _curve_text(lines: list[dict], baseline: str) -> str:
    """Return the table of the curves, and say how much it still rose at the end."""
    points = _points(lines, baseline)
    epochs = sorted({epoch for of in points.values() for epoch in of})
    if len(epochs) < 2:
        return ""
    rows = [[arm, *(_point(of, epoch) for epoch in epochs)] for arm, of in points.items()]
    *_, before, last = epochs
    name = CURVES[_curve(lines)]
    name = name[0].upper() + name[1:] if name.endswith("AP") else name
    rises = [
        _mean([of[last][seed] - of[before][seed] for seed in seeds])
        for of in points.values()
        if (seeds := of.get(last, {}).keys() & of.get(before, {}).keys())
    ]
    text = (
        f"{name} during the training, means over the seeds; from epoch {before} to {last} "
        f"it changed by {min(rises):+.1f} to {max(rises):+.1f} points, while the learning rate fell to 0"
    )
    if any(cell.endswith(" seeds)") for row in rows for cell in row):
        text += " (fewer seeds: a run was stopped behind that epoch, and its value there is lost)"
    return f"{text}:\n\n" + table(["arm", *(f"epoch {epoch}" for epoch in epochs)], rows)


def plot_curves(lines: list[dict], baseline: str, path: Path) -> None:
    """Draw each arm's curve over epochs: a line of the means, and a dot for each seed."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, (arm, points) in enumerate(_points(lines, baseline).items()):
        turn, colour = divmod(number, len(COLOURS))
        style = dict(color=COLOURS[colour])
        means = [_mean(values.values()) for values in points.values()]
        axis.plot([*points], means, LINES[turn % len(LINES)], label=arm, **style)
        for epoch, values in points.items():
            axis.plot([epoch] * len(values), [*values.values()], ".", **style)
    axis.set(xlabel="epoch", ylabel=CURVES[_curve(lines)])
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=110)
