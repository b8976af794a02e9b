# SPDX-License-Identifier: Apache-2.0
"""The guides' Python runs and prints what its comments say; blocks marked ``py`` are only shown."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "__main__"})
    expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in expected] == expected


def test_there_are_blocks():
    assert {"flops", "export", "gpu"} <= {page.id.rsplit("-", 1)[0] for page in BLOCKS}
