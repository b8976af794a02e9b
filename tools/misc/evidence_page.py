# SPDX-License-Identifier: Apache-2.0
"""The tables, plots and conclusions of docs/evidence.md, made from docs/evidence/*.jsonl.

Each file has the lines of a comparison's ``runs.jsonl`` of one recipe, and its section on the page.

Example::

    cp work_dirs/evidence_nuclei/runs.jsonl docs/evidence/nuclei.jsonl
    python tools/misc/evidence_page.py --pages docs
"""

import argparse
from pathlib import Path

from mmcarafe.comparison.arms import UNCHANGED
from mmcarafe.comparison.page import one_recipe, plot_curves, section, shortened
from mmcarafe.comparison.report import plot
from mmcarafe.comparison.runs import read_results
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import write_section

DOCS = Path(__file__).parents[2] / "docs"


def sections(docs: Path) -> dict[str, str]:
    """Return each file's section by the file's name."""
    found = {}
    for path in sorted((docs / "evidence").glob("*.jsonl")):
        pictures = [f"evidence/{name}" for name in pictures_of(path.stem)]
        found[path.stem] = section(read_results(path), UNCHANGED, *pictures)
    return found


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
            draw(args.pages / f"evidence/{name}.jsonl")
        else:
            print(f"{text}\n")


if __name__ == "__main__":
    run(main)
