# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder or glob are images."""

import os

import pytest

from mmcarafe.apis.images import find_images
from mmcarafe.errors import InputError


def test_only_files_are_read(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")  # would be waited for
    for given in (tmp_path, tmp_path / "*"):
        skipped = []
        found = find_images(str(given), skipped)
        assert [p.name for p in found if p.suffix != ".txt"] == ["a.JPG", "b.png"]
        assert skipped == [f"{tmp_path}/{name}.png (no file)" for name in ("folder", "link", "pipe")]
    for name in ("a.JPG", "b.png"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="holds no image"):
        find_images(str(tmp_path), [])


def test_two_stars_stand_for_folders_of_any_depth(tmp_path):
    for name in ("0.png", "a/1.png", "a/b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [p.name for p in find_images(f"{tmp_path}/**/*.png", [])] == ["0.png", "1.png", "2.png"]
