# SPDX-License-Identifier: Apache-2.0
"""The tables, plots and conclusions of docs/evidence.md, made from docs/evidence/*.jsonl.

Each file has the lines of a comparison's ``runs.jsonl`` of one recipe, and its section on the page.

Example::

    cp work_dirs/evidence_nuclei/runs.jsonl docs/evidence/nuclei.jsonl
    python tools/misc/evidence_page.py --pages docs
"""

import argparse
import re
from pathlib import Path

from mmcarafe.comparison.arms import UNCHANGED
from mmcarafe.comparison.page import at_a_glance, one_recipe, plot_curves, section, shortened
from mmcarafe.comparison.report import plot
from mmcarafe.comparison.runs import read_results
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import split_section, write_section

DOCS = Path(__file__).parents[2] / "docs"
GLANCE = "at-a-glance"
"""The section of all comparisons."""


def sections(docs: Path) -> dict[str, str]:
    """Return each file's section by the file's name, in the page's order, and before them that of all."""
    page = docs / "evidence.md"
    files = sorted((docs / "evidence").glob("*.jsonl"), key=lambda path: len(_above(page, path.stem)))
    found, comparisons = {GLANCE: ""}, {}
    for path in files:
        lines = read_results(path)
        pictures = [f"evidence/{name}" for name in pictures_of(path.stem)]
        found[path.stem] = section(lines, UNCHANGED, *pictures)
        heading = re.findall(r"^## (.+)$", _above(page, path.stem), re.MULTILINE)[-1]
        anchor = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        comparisons[f"[{heading}](#{anchor})"] = lines
    found[GLANCE] = at_a_glance(comparisons, UNCHANGED)
    return found


def _above(page: Path, name: str) -> str:
    return split_section(page, name)[0]


def pictures_of(name: str) -> tuple[str, str]:
    """Return the files of the plots of differences and of curves."""
    return f"{name}-differences.png", f"{name}-curves.png"


def draw(path: Path) -> None:
    """Draw the two plots of a file of results, beside it."""
    lines = shortened(read_results(path))
    differences, curves = (path.parent / name for name in pictures_of(path.stem))
    plot(one_recipe(lines, UNCHANGED), UNCHANGED, differences)
    plot_curves(lines, UNCHANGED, curves)


def main(argv: list[str] | None = None) -> None:
    """Print the sections, or write them and the plots."""
    parser = argparse.ArgumentParser(description="Make the measured part of docs/evidence.md")
    parser.add_argument("--pages", type=Path, help="folder of evidence.md, which gets the sections")
    args = parser.parse_args(argv)
    for name, text in sections(args.pages or DOCS).items():
        if args.pages:
            write_section(args.pages / "evidence.md", name, text)
            if name != GLANCE:
                draw(args.pages / f"evidence/{name}.jsonl")
        else:
            print(f"{text}\n")


if __name__ == "__main__":
    run(main)
