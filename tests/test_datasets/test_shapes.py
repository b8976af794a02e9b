# SPDX-License-Identifier: Apache-2.0
"""The shapes data set: same arguments, same bytes; sound annotations; nothing of others is ever replaced."""

import contextlib
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmcarafe.datasets.shapes import dataset as shapes
from mmcarafe.datasets.shapes.drawing import CLASSES, PALETTE, draw_scene, draw_stencil

SMALL = {"train": 30, "val": 15, "size": 160, "seed": 3}
TINY = {"train": 2, "val": 1, "size": 64, "seed": 0}
OTHER = TINY | {"train": 1}
SPLITS = ("train", "val")


def _make(root, recipe, **options):
    assert shapes.make_dataset(root, **recipe, **options)
    return root


def _hashes(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def _load(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"instances_{split}2017.json"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return _make(tmp_path_factory.mktemp("data") / "shapes", SMALL)


@pytest.fixture
def tiny(tmp_path):
    return _make(tmp_path / "shapes", TINY)


def test_classes_and_palette():
    assert len(set(CLASSES)) == len(CLASSES) == len(set(PALETTE)) == 6
    assert all(len(rgb) == 3 and all(0 <= v <= 255 for v in rgb) for rgb in PALETTE)


def test_same_seed_same_bytes(root, tmp_path):
    again = _make(tmp_path / "again", SMALL)
    assert _hashes(again) == _hashes(root)


def test_other_seed_other_pictures(root, tmp_path):
    other = _hashes(_make(tmp_path / "other", SMALL | {"train": 4, "val": 2, "seed": 4}))
    assert len(other) == 14 and other.keys() <= _hashes(root).keys()
    assert not set(other.values()) & set(_hashes(root).values())


def test_a_picture_does_not_depend_on_how_many_there_are(root, tmp_path):
    fewer = _make(tmp_path / "fewer", SMALL | {"train": 5, "val": 3})
    pictures = {k: v for k, v in _hashes(fewer).items() if k.endswith(".png")}
    assert len(pictures) == 16
    assert pictures.items() <= _hashes(root).items()
    for split in SPLITS:
        few, many = _load(fewer, split).dataset, _load(root, split).dataset
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_no_training_picture_is_used_for_validation(root):
    train, val = ({path.read_bytes() for path in (root / f"{split}2017").iterdir()} for split in SPLITS)
    assert len(train) == SMALL["train"] and len(val) == SMALL["val"]
    assert not train & val


@pytest.mark.parametrize("split", SPLITS)
def test_layout_is_that_of_coco(root, split):
    coco = _load(root, split)
    assert [cat["name"] for cat in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert coco.getCatIds() == list(range(1, len(CLASSES) + 1))
    assert {"info", "licenses"} <= coco.dataset.keys()
    images = coco.loadImgs(coco.getImgIds())
    names = sorted(path.name for path in (root / f"{split}2017").iterdir())
    assert [image["file_name"] for image in images] == names
    assert names[0] == "000000000001.png" and len(names) == SMALL[split]
    for image in images:
        picture = cv2.imread(str(root / f"{split}2017" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3) == (160, 160, 3)
        assert 1 <= len(coco.getAnnIds(image["id"])) <= 4


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_agree_with_their_masks(root, split):
    coco = _load(root, split)
    anns = coco.dataset["annotations"]
    assert len({ann["id"] for ann in anns}) == len(anns)
    assert {type(ann["segmentation"]) for ann in anns} == {list, dict}
    for ann in anns:
        mask = coco.annToMask(ann)
        assert ann["iscrowd"] == 0 and ann["image_id"] in coco.imgs
        assert int(mask.sum()) == pytest.approx(ann["area"], rel=0.05) and ann["area"] >= 80
        np.testing.assert_allclose(cv2.boundingRect(mask), ann["bbox"], atol=1)
        if isinstance(ann["segmentation"], list):
            x, y = np.reshape(ann["segmentation"][0], (-1, 2)).T
            assert len(x) >= 3 and 0 <= min(x.min(), y.min()) <= max(x.max(), y.max()) <= 160
        else:
            assert ann["segmentation"]["size"] == [160, 160]
            assert ann["segmentation"]["counts"].isascii()
            assert mask.sum() == ann["area"]


@pytest.mark.parametrize("split", SPLITS)
def test_segmentations_are_the_visible_masks(root, split):
    """Draws the pictures once more and compares; objects of one picture share no pixel."""
    coco = _load(root, split)
    for index in range(10):
        rng = np.random.default_rng([SMALL["seed"], SPLITS.index(split), index])
        picture, objects = draw_scene(rng, SMALL["size"])
        path = root / f"{split}2017" / f"{index + 1:012d}.png"
        np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], picture)
        assert np.sum([mask for _, mask in objects], axis=0).max() == 1
        anns = coco.loadAnns(coco.getAnnIds(index + 1))
        for ann, (label, mask) in zip(anns, objects, strict=True):
            assert ann["category_id"] == label + 1
            drawn = coco.annToMask(ann).astype(bool)
            assert (drawn & mask).sum() >= 0.95 * (drawn | mask).sum()
            assert ann["area"] == mask.sum()
            assert tuple(ann["bbox"]) == cv2.boundingRect(mask.astype(np.uint8))
        classes = cv2.imread(str(root / "semantic" / f"{split}2017" / path.name), cv2.IMREAD_UNCHANGED)
        assert classes.dtype == np.uint8 and classes.shape == picture.shape[:2]
        np.testing.assert_array_equal(classes, sum((label + 1) * mask for label, mask in objects))


def _parts_and_holes(mask):
    _, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[:2]
    return int((tree[0, :, 3] < 0).sum()), int((tree[0, :, 3] >= 0).sum())


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_have_the_right_topology(name):
    whole_ones = 0
    for seed in range(40):
        cover, area = draw_stencil(np.random.default_rng(seed), name, 160)
        assert cover.shape == (160, 160) and cover.dtype == np.float32
        assert cover.min() >= 0 and cover.max() <= 1
        mask = (cover >= 0.5).astype(np.uint8)
        assert mask.sum() <= area
        if mask.sum() == area and not mask[[0, -1]].any() and not mask[:, [0, -1]].any():
            assert _parts_and_holes(mask) == (1, int(name == "ring"))
            whole_ones += 1
    assert whole_ones >= 10


def test_rings_of_the_data_set_have_holes(root):
    coco = _load(root, "train")
    rings = coco.loadAnns(coco.getAnnIds(catIds=CLASSES.index("ring") + 1))
    holes = [_parts_and_holes(coco.annToMask(ring))[1] for ring in rings]
    # A ring that is half hidden or half outside the picture may be open.
    assert len(rings) >= 5 and np.mean(np.array(holes) > 0) > 0.6


def test_a_mask_that_no_polygon_fits_becomes_rle():
    mask = np.zeros((40, 50), bool)
    mask[5, 7:30] = True
    mask[20:30, 7:30] = True
    ann = shapes.annotation(mask, 2, image_id=4, ann_id=9)
    np.testing.assert_array_equal(coco_mask.decode(ann["segmentation"]), mask)
    assert ann["bbox"] == [7, 5, 23, 25] and ann["area"] == mask.sum()
    assert ann["category_id"] == 3 and ann["image_id"] == 4 and ann["id"] == 9


def test_polygons_reach_the_border_of_the_picture():
    ann = shapes.annotation(np.ones((40, 50), bool), 0, image_id=1, ann_id=1)
    assert isinstance(ann["segmentation"], list) and ann["bbox"] == [0, 0, 50, 40]
    drawn = coco_mask.decode(coco_mask.frPyObjects(ann["segmentation"], 40, 50))
    assert drawn.all()


def test_an_existing_data_set_is_left_alone(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert not shapes.make_dataset(tiny, **TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


@pytest.mark.parametrize("folder", ["val2017", "semantic/val2017"])
def test_a_lost_picture_makes_it_incomplete(tiny, folder):
    (tiny / folder / "000000000001.png").unlink()
    with pytest.raises(FileExistsError, match="--force"):
        shapes.make_dataset(tiny, **TINY)
    _make(tiny, TINY, force=True)
    assert not shapes.make_dataset(tiny, **TINY)


@pytest.mark.parametrize("name", ["notes.txt", "mine.png"])
def test_a_foreign_file_among_ours_is_never_lost(tiny, name):
    (tiny / "train2017" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="did not write"):
        shapes.make_dataset(tiny, **OTHER, force=True)
    assert (tiny / "train2017" / name).read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"info": 3}', '{"info": {"contributor": "me"}}', '{"info": {"contributor": []}}']
)
def test_foreign_annotation_files_are_not_taken_for_ours(tmp_path, text):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"instances_{split}2017.json").write_text(text)
    with pytest.raises(FileExistsError, match="did not write"):
        shapes.make_dataset(tmp_path, **TINY, force=True)


def test_an_empty_folder_is_filled(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    assert _hashes(_make(tmp_path / "empty", TINY)) == _hashes(tiny)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch, error, replace):
    out = tmp_path / "shapes"
    before = _hashes(_make(out, TINY)) if replace else {}
    calls = []

    def draw_then_stop(rng, size):
        calls.append(size)
        if len(calls) == 3:
            raise error("stopped")
        return draw_scene(rng, size)

    monkeypatch.setattr(shapes, "draw_scene", draw_then_stop)
    with pytest.raises(error):
        shapes.make_dataset(out, **TINY | {"train": 5}, force=True)
    assert len(calls) == 3
    assert out.exists() == replace and _hashes(out) == before
    assert len(list(tmp_path.iterdir())) == int(replace)


def test_the_old_data_set_comes_back_when_the_new_one_cannot_move_in(tiny, monkeypatch):
    before, rename = _hashes(tiny), Path.rename

    def refuse(self, target):
        if self.name == "made":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        shapes.make_dataset(tiny, **OTHER, force=True)
    assert _hashes(tiny) == before


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"size": 63}, "size"),
        ({"size": 10**6}, "size"),
        ({"train": -1}, "train"),
        ({"val": -1}, "val"),
        ({"val": 10**9}, "val"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(tmp_path, bad, word):
    with pytest.raises(ValueError, match=f"{word} must be"):
        shapes.make_dataset(tmp_path / "shapes", **TINY | bad)
    assert not list(tmp_path.iterdir())


def test_a_split_may_be_empty(tmp_path):
    out = _make(tmp_path / "shapes", TINY | {"train": 0})
    assert _load(out, "train").getImgIds() == [] and _load(out, "val").getImgIds() == [1]
