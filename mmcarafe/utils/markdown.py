# SPDX-License-Identifier: Apache-2.0
"""Sections of a Markdown file that tools keep up to date, between two markers."""

from pathlib import Path

from mmcarafe.errors import InputError


def markers(name: str) -> tuple[str, str]:
    """Return the comments around a section."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def split_section(path: Path, name: str) -> tuple[str, str, str]:
    """Return what is above, in and below a section, markers left out; InputError for a file without it."""
    if not path.is_file():
        raise InputError(f"page {path} does not exist")
    text, (begin, end) = path.read_text(encoding="utf-8"), markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{path} needs the line '{begin}' and, below it, '{end}', once each")
    above, rest = text.split(begin)
    inside, below = rest.split(end)
    return above, inside, below


def write_section(path: Path, name: str, section: str) -> None:
    """Replace what a section holds."""
    above, _, below = split_section(path, name)
    begin, end = markers(name)
    path.write_text(f"{above}{begin}\n{section.strip()}\n{end}{below}", encoding="utf-8")
