# SPDX-License-Identifier: Apache-2.0
"""Files that are written do not replace inputs, and one that cannot be written is named."""

import cv2
import numpy as np
import pytest

from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_folder, check_kept, picture_names, write_file, write_picture


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_input_under_another_name_is_kept(link, tmp_path):
    image, out = tmp_path / "in" / "a.png", tmp_path / "out"
    for folder in (image.parent, out):
        folder.mkdir()
    image.write_text("")
    (out / "other.png").write_text("")
    check_kept("--out-dir", out, [image])
    check_kept("--out-dir", tmp_path / "new", [image])
    getattr(out / "b.png", link)(image)
    with pytest.raises(InputError, match=r"--out-dir .*out holds the input .*in/a.png \(as b.png\)"):
        check_kept("--out-dir", out, [image])
    with pytest.raises(InputError, match="holds the input"):
        check_kept("--out-dir", image.parent, [out / "b.png"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/in/it", "link"):
        with pytest.raises(InputError, match="is no folder"):
            check_folder("--out-dir", tmp_path / name)
    check_folder("--out-dir", tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_a_write_that_fails_names_the_file(tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    pixels = np.full((4, 5, 3), (1, 2, 3), np.uint8)
    with pytest.raises(OSError, match=r"No space left on device: '.*full.png'"):
        write_picture(tmp_path / "full.png", pixels)
    with pytest.raises(OSError, match="Is a directory"):
        write_file(tmp_path, b"")
    write_picture(tmp_path / "a.png", pixels)
    assert (cv2.imread(str(tmp_path / "a.png")) == pixels).all()


def test_names_of_pictures_are_distinct_with_another_suffix_too():
    names = picture_names(["a/1.jpg", "a/1.png", "a/b/1.tif"], ".png")
    assert [*names.values()] == ["1.png", "_1.png", "b_1.png"]
