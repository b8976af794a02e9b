# SPDX-License-Identifier: Apache-2.0
"""``python -m mmcarafe demo``: the layer that it fits beats interpolation, and is drawn."""

import sys

import cv2
import pytest
import torch

from mmcarafe import demo
from mmcarafe.__main__ import main


def test_the_fitted_layer_beats_interpolation_and_is_drawn(tmp_path, capsys, monkeypatch):
    torch.use_deterministic_algorithms(False)  # bilinear is slow with them
    before = torch.get_rng_state()
    monkeypatch.setattr(demo, "write", lambda path, write=demo.write: write(path, steps=60))
    main(["demo", str(tmp_path / "new/demo.png")])
    said = capsys.readouterr().out
    errors = said.partition("\n")[0].removeprefix("error of ").split(", ")
    nearest, bilinear, carafe = (float(error.split()[1]) for error in errors)
    assert carafe < 0.75 * bilinear < 0.75 * nearest
    assert said.endswith(f"picture: {tmp_path}/new/demo.png\n")
    picture = cv2.imread(str(tmp_path / "new/demo.png"))
    assert picture.shape == (700, 1200, 3) and picture[100:350].std() > 20
    assert torch.get_rng_state().equal(before), "who calls it keeps their random numbers"


def test_drawings_have_edges_and_are_averaged_down():
    drawings = demo.draw(2, 16, torch.Generator().manual_seed(1))
    assert drawings.shape == (2, 3, 16, 16) and drawings.min() >= 0 and drawings.max() <= 1
    assert drawings[0].sub(drawings[1]).abs().max() > 0.1
    maps = demo.features(drawings)
    assert maps.shape == (2, 11, 8, 8)
    torch.testing.assert_close(maps[:, :3, 2, 3], drawings[:, :, 4:6, 6:8].mean((2, 3)))
    step = torch.zeros(1, 3, 16, 16)
    step[..., 8:] = 1  # brighter on the right: the opposite filter does not answer
    right, left = demo.features(step)[0, 3, :, 3:5], demo.features(step)[0, 7]
    assert right.eq(4).all() and left.eq(0).all()


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="mmcarafe: the picture is drawn by matplotlib: pip install"):
        main(["demo", str(tmp_path / "demo.png")])
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write", lambda path, write=demo.write: write(path, steps=2))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit, match="Is a directory"):
        main(["demo", str(tmp_path / "folder.png")])


def test_a_photo_is_not_taken_for_the_picture_to_write(tmp_path):
    (tmp_path / "street.jpg").write_bytes(b"mine")
    with pytest.raises(SystemExit, match=r"expected a name that ends in .png, .* got .*street.jpg"):
        main(["demo", str(tmp_path / "street.jpg")])
    assert (tmp_path / "street.jpg").read_bytes() == b"mine"
