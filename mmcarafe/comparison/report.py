# SPDX-License-Identifier: Apache-2.0
"""Reports of a comparison's results: JSON, Markdown, and a plot of the differences with their intervals."""

import json
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from mmcarafe.comparison.intervals import summarise
from mmcarafe.comparison.runs import RESULTS, read_results
from mmcarafe.errors import InputError

TIMES = ("train_seconds", "seconds_an_image")
KINDS = {"bbox": "box", "segm": "mask"}
"""What mmdet's names of metrics mean; others are their own name."""

PER_CENT = {"mIoU": "mIoU", "mBoundaryF": "boundary F"}
"""Metrics of segmentors, which mmsegmentation gives in points of 100; what each is called."""

COLUMNS = {"": "AP", "_50": "AP50", "_75": "AP75", "_s": "AP small", "_m": "AP medium", "_l": "AP large"}
"""Ends of mmdet's names of COCO's metrics, behind mAP."""

# of Okabe and Ito's palette, which colour-blind readers tell apart; the markers differ as well
SEEN, NOT_SEEN = dict(color="#D55E00", marker="D"), dict(color="#0072B2", marker="o", mfc="white")

NOTE = """\
Mean ± standard deviation over the seeds; {what} in points of 100.
Second lines: the difference to `{baseline}` by seed, and the 95 % interval of its mean (Student's t).
Where 0 is in the interval, no difference was seen; of twenty intervals one misses the truth by chance.
Times are medians over the seeds, of the machine while it ran, and compare within one comparison only."""


def summary(lines: list[dict], baseline: str) -> list[dict]:
    """Return for each recipe its arms, the baseline first, and for each arm what was measured.

    Raises:
        InputError: a recipe has no run of the baseline.
    """
    recipes = []
    for recipe in dict.fromkeys(line["recipe"] for line in lines):
        runs = [line for line in lines if line["recipe"] == recipe]
        names = list(dict.fromkeys(line["arm"] for line in runs))
        if baseline not in names:
            raise InputError(
                f"{runs[0]['config']} ({recipe}) has no run of the baseline {baseline!r}, only of "
                f"{', '.join(map(repr, names))}: name one of them with --baseline"
            )
        found = (item for run in runs for item in run["metrics"].items())
        scores = list(dict.fromkeys(key for key, value in found if "_mAP" in key and value != -1))
        values = {name: _values([run for run in runs if run["arm"] == name], scores) for name in names}
        arms = []
        for name in sorted(names, key=lambda name: name != baseline):
            first = next(line for line in runs if line["arm"] == name)
            seeds = sorted(line["seed"] for line in runs if line["arm"] == name)
            reference = values[baseline] if name != baseline else {}
            measured = {
                key: summarise(of, reference.get(key), step_of(key)) for key, of in values[name].items()
            }
            cost = dict(parameters=first["parameters"], flops=first["flops"], shape=first["shape"])
            arms.append(dict(arm=name, seeds=seeds, **cost, measured=measured))
        recipes.append(dict(config=runs[0]["config"], recipe=recipe, arms=arms))
    return recipes


def _values(runs: list[dict], scores: list[str]) -> dict[str, dict[int, float]]:
    """Return by metric, and time, each seed's value; COCO's -1 stands for no object of a size.

    A model that finds nothing has no AP in mmdet's results: those of ``scores`` that it lacks are 0.
    """
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        known = dict.fromkeys(scores, 0.0) | run["metrics"] | {name: run[name] for name in TIMES}
        for key, value in known.items():
            if value != -1:
                values.setdefault(key, {})[run["seed"]] = value
    return values


def kinds_of(arms: list[dict]) -> dict[str, str]:
    """Return what is measured by the metrics' names: {"coco/bbox_mAP": "box AP"}, or {"mIoU": "mIoU"}."""
    found = {}
    for key in arms[0]["measured"]:
        if key in PER_CENT:
            found[key] = PER_CENT[key]
        elif key.endswith("_mAP"):
            *prefixes, kind = key.removesuffix("_mAP").split("/")  # teacher/coco/bbox
            found[key] = " ".join([*prefixes[:-1], KINDS.get(kind, kind), "AP"])
    return found


def scale_of(key: str) -> float:
    """Return what makes points of 100 of a metric's values."""
    return 1 if key in PER_CENT else 100


def step_of(key: str) -> float:
    """Return what mmdet and mmsegmentation round a metric's values to; 0 for those of others, and times."""
    if key in PER_CENT:
        return 0.01
    return 0.001 if "_mAP" in key else 0.0


def what_of(kinds: dict[str, str]) -> str:
    """Return what the values of a comparison are called: AP, or the metrics of segmentors."""
    return " and ".join(kinds.values()) if kinds.keys() & PER_CENT.keys() else "AP"


def markdown(recipe: dict, baseline: str, picture: str) -> str:
    """Return the section of a recipe."""
    arms = recipe["arms"]
    kinds = kinds_of(arms)
    note = NOTE.format(baseline=baseline, what=what_of(kinds))
    parts = [f"## {recipe['config']} ({recipe['recipe']})", note]
    parts.append(f"![differences and their intervals]({picture})")
    for kind, title in kinds.items():
        columns = {f"{kind}{end}": name for end, name in COLUMNS.items()}
        if kind in PER_CENT:
            columns = {kind: title}
        rows = [
            [arm["arm"], *(cell(arm["measured"].get(key), scale_of(key), 1) for key in columns)]
            for arm in arms
        ]
        parts += [f"### {title}", table(["arm", *columns.values()], rows)]
    parts += ["### Cost", cost_table(arms)]
    return "\n\n".join(parts)


def cost_table(arms: list[dict]) -> str:
    """Return the table of parameters, operations and times, with medians: a run may be disturbed."""
    shape = " x ".join(map(str, arms[0]["shape"]))
    head = ["arm", "seeds", "parameters, M", f"GFLOPs, {shape}", "training, min", "inference, ms an image"]
    rows = []
    for arm in arms:
        training, inference = (arm["measured"][name]["median"] for name in TIMES)
        flops = "not counted" if arm["flops"] is None else f"{arm['flops'] / 1e9:.2f}"
        times = f"{training / 60:.1f}", f"{inference * 1e3:.0f}"
        seeds = f"{len(arm['seeds'])} ({', '.join(map(str, arm['seeds']))})"
        rows.append([arm["arm"], seeds, f"{arm['parameters'] / 1e6:.3f}", flops, *times])
    return table(head, rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def cell(value: dict | None, scale: float, digits: int) -> str:
    """Return what was measured: mean, standard deviation, and the difference where there is one."""
    if value is None:
        return "-"
    text = f"{value['mean'] * scale:.{digits}f}"
    if value["std"] is not None:
        text += f" ± {value['std'] * scale:.{digits}f}"
    if difference := value["difference"]:
        text += f"<br>{difference_text(difference, scale)}"
    return text


def difference_text(difference: dict, scale: float = 100) -> str:
    """Say a difference, its interval and over how many seeds it is; "no difference seen" with 0 in it."""
    text = f"{difference['mean'] * scale:+.2f}"
    if difference["low"] is None:
        return f"{text}, one seed: no interval"
    low, high = difference["low"] * scale, difference["high"] * scale
    text += f" ({low:+.2f} to {high:+.2f}, {difference['count']} seeds)"
    return text if difference["seen"] else f"no difference seen: {text}"


def plot(recipe: dict, baseline: str, path: Path) -> None:
    """Draw each arm's differences with their intervals; filled where a difference was seen."""
    kinds, arms = kinds_of(recipe["arms"]), recipe["arms"][1:]
    figure = Figure(figsize=(1.5 + 3 * max(1, len(kinds)), 1.4 + 0.35 * len(arms)), layout="constrained")
    axes = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    for axis, (kind, title) in zip(axes, kinds.items(), strict=False):
        axis.axvline(0, color="black", linewidth=0.8)
        for row, arm in enumerate(arms):
            difference = arm["measured"].get(kind, {}).get("difference")
            if difference:
                mean, low = scale_of(kind) * difference["mean"], difference["low"]
                half = [] if low is None else [mean - scale_of(kind) * low]
                style = SEEN if difference["seen"] else NOT_SEEN
                axis.errorbar(mean, row, xerr=half or None, capsize=3, **style)
        axis.set(title=title, xlabel=f"points more than {baseline}", ylim=(len(arms) - 0.5, -0.5))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(arms)), [arm["arm"] for arm in arms])
    figure.savefig(path, dpi=150)


def write_report(out: Path, baseline: str) -> list[Path]:
    """Write report.json, report.md and a plot for each recipe; return their paths.

    Raises:
        InputError: there are no results, or none of the baseline.
    """
    lines = read_results(out / RESULTS)
    if not lines:
        raise InputError(f"{out / RESULTS} has no results: train first, without --report")
    recipes = summary(lines, baseline)
    data, page = out / "report.json", out / "report.md"
    pictures = [out / f"report-{recipe['recipe']}.png" for recipe in recipes]
    data.write_text(json.dumps(dict(baseline=baseline, recipes=recipes), indent=1) + "\n", encoding="utf-8")
    for recipe, picture in zip(recipes, pictures, strict=True):
        plot(recipe, baseline, picture)
    sections = [
        markdown(recipe, baseline, picture.name) for recipe, picture in zip(recipes, pictures, strict=True)
    ]
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return [page, data, *pictures]
