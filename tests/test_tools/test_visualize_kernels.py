# SPDX-License-Identifier: Apache-2.0
"""The tool draws what CARAFE does with an image, and names the user's mistakes in one sentence."""

import re

import cv2
import pytest
import torch
from commands import CONFIG, SMALL, TWIN, call, refused

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model

PICTURES = {"trace.png", "kernels.png", "entropy.png", "features.png"}
# the toy detector finds nothing well, so that any score counts
ANY = ["--cfg-options", *SMALL[:2], "model.test_cfg.rcnn.score_thr=0.0"]
QUICK = ["--count", 1, "--dpi", 40]


@pytest.fixture
def given(trained, toy):
    """Config, checkpoint and image."""
    return CONFIG, trained / "epoch_1.pth", next((toy / "data/shapes/val2017").iterdir())


def pictures(folder) -> set[str]:
    assert all(cv2.imread(str(path)).std() > 20 for path in folder.iterdir())
    return {path.name for path in folder.iterdir()}


def test_pictures_of_every_part(given, tmp_path):
    said = call("visualize_kernels.py", *given, "--out", "out", "--count", 2, *ANY, cwd=tmp_path).stdout
    assert "neck: 3 levels, 2 points" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"neck", "roi_head.mask_head"}
    for part in ("neck", "roi_head.mask_head"):
        assert pictures(tmp_path / "out" / part) == PICTURES


def test_chosen_points_module_and_size(given, tmp_path):
    options = ("--points", 40, 60, 100, 20, "--module", "neck.upsample_modules.1", "--dpi", 60)
    said = call("visualize_kernels.py", *given, "--out", "out", *options, *ANY, cwd=tmp_path).stdout
    assert "neck.upsample_modules.1: 2 levels, 2 points" in said
    small = tmp_path / "out/neck.upsample_modules.1"
    assert pictures(small) == PICTURES
    assert cv2.imread(str(small / "trace.png")).shape[1] == pytest.approx(60 * 2.9 * 3, abs=1)


def test_a_page_alone_and_what_did_not_run_is_said(given, tmp_path):
    options = [*ANY[:-1], "model.test_cfg.rcnn.score_thr=1.1"]
    said = call("visualize_kernels.py", *given, "--html", "new/page.html", *options, cwd=tmp_path).stdout
    assert "roi_head.mask_head.upsample: left out, it did not run" in said
    assert "neck: written to new/page.html, 0." in said
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "page.html"}
    text = (tmp_path / "new/page.html").read_text()
    assert '"name": "neck"' in text and "class Page" in text
    assert not re.search("https?:", text), "it loads nothing from elsewhere"


def test_a_downsampler_has_pictures_and_is_not_on_the_page(given, tmp_path):
    """The level that an FPN pools, made by a fresh module."""
    config, _, image = given
    options = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    down = "model.neck.downsample_cfg.type"
    model = build_model(read_config(str(config), options | {down: "CARAFE"}))
    torch.save(model.state_dict(), tmp_path / "fresh.pth")
    given = config, tmp_path / "fresh.pth", image
    options = ("--module", "neck.extra_levels", *QUICK, "--cfg-options", *SMALL[:2], f"{down}=CARAFE")
    said = call("visualize_kernels.py", *given, "--out", "out", *options, cwd=tmp_path).stdout
    assert "neck.extra_levels: 1 levels, 1 points" in said
    assert pictures(tmp_path / "out/neck.extra_levels") == PICTURES
    match = "--html: the page shows upsamplers alone"
    refused("visualize_kernels.py", *given, "--html", "page.html", *options, cwd=tmp_path, match=match)


def test_a_mistake_is_named(given, tmp_path):
    config, checkpoint, image = given
    (tmp_path / "text.png").write_text("no image")
    small = ("--cfg-options", *SMALL[:2])
    for args, match in (
        (("gone.py", checkpoint, image), "config gone.py does not exist"),
        ((TWIN, checkpoint, image, *small), "builds no CARAFE module"),
        ((config, "gone.pth", image, *small), "checkpoint gone.pth does not exist"),
        ((config, checkpoint, image), "was made by another architecture"),
        ((config, checkpoint, "gone.png", *small), "image gone.png does not exist"),
        ((config, checkpoint, "text.png", *small), "text.png cannot be read"),
        ((*given, "--points", 500, 3, *small), "point 500 3 is outside the image, which is 160 x 160 pixels"),
        ((*given, "--points", 5, 3, 7, *small), "expected pairs of x and y, got 3 numbers"),
        ((*given, "--module", "nek", *small), "got 'nek'"),
        ((*given, "--html", f"{image}/page.html", *small), f"--html {image}: {image} is no folder"),
    ):
        refused("visualize_kernels.py", *args, "--out", "out", cwd=tmp_path, match=match)
        assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    match = "--out file/in: file is no folder"
    refused("visualize_kernels.py", *given, "--out", "file/in", cwd=tmp_path, match=match)
    refused(
        "visualize_kernels.py", *given, cwd=tmp_path, match="expected --out DIR for pictures, or --html FILE"
    )


def test_a_picture_that_cannot_be_written_is_named(given, tmp_path):
    (tmp_path / "out/neck").mkdir(parents=True)
    (tmp_path / "out/neck/trace.png").symlink_to("/dev/full")
    options = ("--out", "out", "--module", "neck", *QUICK, *ANY)
    match = "out/neck/trace.png: No space left on device; make room"
    refused("visualize_kernels.py", *given, *options, cwd=tmp_path, match=match)
