# SPDX-License-Identifier: Apache-2.0
"""The nuclei data set of a tiny checkout: sizes, windows, thresholds and splits."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import call, refused
from pycocotools import mask as coco_mask

from mmcarafe.datasets.nuclei import split_of

NAME = "prepare_nuclei.py"
LETTERS = "abcde"


def add(root: Path, name: str, size: tuple[int, int], boxes: list[tuple], value: int | tuple = 30) -> None:
    """Write an image, in a folder as the repository has them, with a mask for each box of x, y, w, h."""
    H, W = size
    pixels = np.broadcast_to(np.uint8(value), (H, W, 3)).copy()
    pixels[0, : W // 2] = 0  # something to tell a window or an average by
    for number, (x, y, w, h) in enumerate(boxes):
        mask = np.zeros((H, W), np.uint8)
        mask[y : y + h, x : x + w] = 255
        write(root / f"stage1_train/{name}/masks/{number}.png", mask)
        pixels[mask > 0] = 200
    write(root / f"stage1_train/{name}/images/{name}.png", pixels)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """The data set of a checkout, and by an image's source its file, record and masks."""
    root = tmp_path_factory.mktemp("nuclei")
    for letter in LETTERS:
        add(root, f"{letter}-small", (256, 256), [(10, 20, 30, 40), (100, 100, 3, 4), (200, 200, 11, 1)])
    add(root, "stained" * 3, (256, 320), [(10, 20, 30, 40)], value=(90, 60, 200))
    add(root, "large-nuclei", (520, 696), [(0, 0, 100, 101), (200, 200, 90, 90)])
    # the first box lies in both windows, and the last one in neither
    add(root, "small-nuclei", (520, 696), [(338, 200, 30, 30), (400, 110, 20, 20), (0, 0, 20, 20)])
    add(root, "one-window", (512, 640), [(330, 200, 20, 20)])
    call(NAME, root, root / "out", cwd=root)
    found = {}
    for split in ("train", "val"):
        data = json.loads((root / f"out/annotations/instances_{split}.json").read_text())
        for image in data["images"]:
            records = [record for record in data["annotations"] if record["image_id"] == image["id"]]
            found[image["source"]] = dict(path=root / "out" / split / image["file_name"], image=image,
                                          records=records, split=split)  # fmt: skip
    return root, found


def boxes(part: dict) -> list[list[int]]:
    return [record["bbox"] for record in part["records"]]


def pixels(part: dict) -> np.ndarray:
    return cv2.imread(str(part["path"]), cv2.IMREAD_UNCHANGED)


def test_a_small_image_is_as_it_was_without_its_smallest_instances(made):
    root, found = made
    part = found["a-small/0"]
    original = cv2.imread(str(root / "stage1_train/a-small/images/a-small.png"), cv2.IMREAD_GRAYSCALE)
    assert part["image"]["file_name"] == "a-small.png"
    assert np.array_equal(pixels(part), original)
    assert boxes(part) == [[10, 20, 30, 40], [100, 100, 3, 4]], "11 pixels are left out, 12 are not"
    (mask, _) = (coco_mask.decode(record["segmentation"]) for record in part["records"])
    assert mask.sum() == mask[20:60, 10:40].sum() == part["records"][0]["area"] == 1200


def test_stained_images_are_jpegs_with_short_names(made):
    part = made[1]["stained" * 3 + "/0"]
    assert part["image"]["file_name"] == "stainedstainedst.jpg"
    assert np.abs(pixels(part)[150, 150].astype(int) - (90, 60, 200)).max() <= 3


def test_large_nuclei_are_shrunk_by_averages_and_masks_at_one_half(made):
    part = made[1]["large-nuclei/0"]
    assert (part["image"]["height"], part["image"]["width"]) == pixels(part).shape == (239, 320)
    # 100 and 101 pixels are 45.98 and 46.42 of the new ones: more than half of the 46th, less of the 47th
    assert boxes(part)[0] == [0, 0, 46, 46]
    assert 0 < pixels(part)[0, 100] < 30, "the first row is an average with the second"


def test_small_nuclei_are_two_windows_at_full_resolution(made):
    left, right = (made[1][f"small-nuclei/{number}"] for number in (0, 1))
    assert left["image"]["file_name"] == "small-nuclei_0.png"
    assert pixels(left).shape == pixels(right).shape == (320, 320)
    # they begin at y = 100, and at x = 28 and 348
    assert boxes(left) == [[310, 100, 10, 30]]
    assert boxes(right) == [[0, 100, 20, 30], [52, 10, 20, 20]]
    assert left["split"] == right["split"]
    assert "one-window/0" not in made[1], "a window without an instance is left out"
    assert boxes(made[1]["one-window/1"]) == [[10, 104, 20, 20]]


def test_a_fifth_of_a_kind_is_for_validation_whatever_else_there_is(made):
    chosen = [letter for letter in LETTERS if made[1][f"{letter}-small/0"]["split"] == "val"]
    assert chosen == ["c"], "the first by SHA-1"
    names = [str(number) for number in range(1000)]
    kinds = {name: name < "5" for name in names}
    val = [name for name, split in split_of(kinds).items() if split == "val"]
    assert len(val) == 200 and sum(kinds[name] for name in val) == round(sum(kinds.values()) / 5)


def test_ids_are_unique_and_in_the_order_of_names(made):
    parts = sorted(made[1].items())
    assert [part["image"]["id"] for _, part in parts] == list(range(1, len(parts) + 1))
    ids = [record["id"] for _, part in parts for record in part["records"]]
    assert ids == list(range(1, len(ids) + 1))


def test_what_cannot_be_used_is_named(tmp_path):
    refused(NAME, tmp_path, "out", cwd=tmp_path, match="has no folder stage1_train with images")
    add(tmp_path, "a", (20, 20), [(1, 1, 9, 9)])
    (tmp_path / "there").mkdir()
    refused(NAME, tmp_path, "there", cwd=tmp_path, match="there is there already")
    write(tmp_path / "stage1_train/a/masks/1.png", np.zeros((20, 19), np.uint8))
    refused(NAME, tmp_path, "out", cwd=tmp_path, match="1.png is (20, 19) pixels, its image (20, 20)")
    (tmp_path / "stage1_train/a/images/a.png").write_bytes(b"")
    refused(NAME, tmp_path, "out", cwd=tmp_path, match="a.png cannot be read as an image")
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"stage1_train", "there"}
