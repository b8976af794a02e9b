# SPDX-License-Identifier: Apache-2.0
"""The guides' blocks of code, and how they are run."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(text: str, language: str = "python") -> list[str]:
    """The blocks of a language in a page, or in a part of one."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def sections(page: str) -> dict[str, str]:
    """What stands under each heading of the second level."""
    _, *parts = re.split(r"^## ", (DOCS / page).read_text(), flags=re.M)
    return dict(part.split("\n", 1) for part in parts)


def run(block: str, capsys, names: dict | None = None) -> dict:
    """Run a block as a program; it prints what the comments behind its calls of print say."""
    names = {"__name__": "__main__"} if names is None else names
    exec(compile(block, "block", "exec"), names)
    expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in expected] == expected
    return names
