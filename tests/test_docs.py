# SPDX-License-Identifier: Apache-2.0
"""The guides' Python runs and prints what its comments say; blocks marked ``py`` are only shown."""

import inspect
import re
from pathlib import Path

import guides
import pytest

from mmcarafe.layers import CARAFE

PAGES = sorted(guides.DOCS.rglob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    if page.name != "recipes.md"  # whose blocks need packages, data and a detector: test_recipes_page.py
    for number, block in enumerate(guides.blocks(page.read_text()))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guides.run(block, capsys)


def test_there_are_blocks():
    assert {"flops", "export", "gpu"} <= {page.id.rsplit("-", 1)[0] for page in BLOCKS}


def test_every_command_is_in_a_guide():
    root = Path(__file__).parents[1]
    text = "".join(page.read_text() for page in [*PAGES, root / "README.md", root / "CONTRIBUTING.md"])
    commands = {path.name for path in (root / "tools").rglob("*.*") if "benchmark" not in path.parts}
    assert {name for name in commands if name.endswith((".py", ".sh")) and name not in text} == set()


def test_the_arguments_of_the_layer_are_in_the_table_of_types():
    page = Path(__file__).parents[1] / "docs/components.md"
    (row,) = re.findall(r"^\| `CARAFE`.*\| `(.*)` \|$", page.read_text(), re.M)
    filled = ("channels", "scale_factor", "init_cfg")
    parameters = [p for p in inspect.signature(CARAFE).parameters.values() if p.name not in filled]
    assert row == ", ".join(f"{p.name}={p.default!r}" for p in parameters)
