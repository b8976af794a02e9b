# SPDX-License-Identifier: Apache-2.0
"""Pictures show the images that the rule chooses, with masks where they are."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from commands import CONFIG, call, refused
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from mmcarafe.comparison.object_scores import Choice, Masks, Seen, extremes, look
from mmcarafe.comparison.pictures import NO_OBJECT, OBJECTS, draw, paint, panels, predict, window
from mmcarafe.comparison.runs import add_result, run_folder
from mmcarafe.errors import InputError

SIZE = (100, 80)


def square(top: int, left: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def masks(*squares: np.ndarray, labels: list[int] | None = None) -> Masks:
    return Masks.of(np.array(labels or [0] * len(squares), int), np.array(squares).reshape(-1, *SIZE))


def test_an_object_has_the_iou_of_the_mask_that_fits_it_best():
    truth = masks(square(10, 10), square(50, 50), square(80, 10), labels=[0, 0, 1])
    # 5 of 15 columns and 8 of 12 rows in common with the first, none of its class with the third
    found = masks(square(10, 15), square(12, 10), square(80, 10))
    assert Seen("", truth, found).scores == pytest.approx([80 / 120, 0, 0])
    assert Seen("", truth, masks()).scores.tolist() == [0, 0, 0]
    assert Seen("", masks(), found).scores.tolist() == []


def test_what_a_detector_finds_below_the_confidence_counts_for_nothing():
    sample = DetDataSample(metainfo=dict(img_path="one.png"))
    sample.gt_instances = InstanceData(
        labels=torch.tensor([2]), masks=BitmapMasks([square(0, 0).astype(np.uint8)], *SIZE)
    )
    sample.pred_instances = InstanceData(
        labels=torch.tensor([2, 2]),
        scores=torch.tensor([0.29, 0.31]),
        masks=torch.from_numpy(np.array([square(0, 0), square(0, 5)])),
    )
    seen = look(sample)
    assert (seen.path, len(seen.found.rles)) == ("one.png", 1)
    assert seen.scores == pytest.approx([50 / 150])
    sample.gt_instances.masks = BitmapMasks([np.ones((50, 40), np.uint8)], 50, 40)
    with pytest.raises(
        InputError, match=r"one.png has the size \(50, 40\).*put LoadAnnotations behind Resize"
    ):
        look(sample)
    del sample.pred_instances.masks
    with pytest.raises(InputError, match="expected masks, or a semantic map"):
        look(sample)


def test_classes_of_a_map_are_its_objects():
    structures = pytest.importorskip("mmseg.structures", reason="mmsegmentation is not installed")
    truth, found = np.zeros((4, 5), int), np.zeros((4, 5), int)
    truth[:, 2:], found[:, 3:], truth[0], found[0] = 1, 1, 255, 2
    sample = structures.SegDataSample(metainfo=dict(img_path="one.png"))
    sample.gt_sem_seg, sample.pred_sem_seg = (
        PixelData(data=torch.tensor(one)[None]) for one in (truth, found)
    )
    seen = look(sample)
    assert seen.truth.labels.tolist() == seen.found.labels.tolist() == [0, 1], (
        "pixels of no class are left out"
    )
    assert seen.scores == pytest.approx(
        [2 / 3, 2 / 3]
    )  # columns 0 and 1 of 0, 1 and 2; 3 and 4 of 2, 3 and 4


def test_the_images_are_those_that_gain_and_lose_most_by_their_mean():
    theirs = [np.full(count, 0.5) for count in (5, 6, 5, 4)]
    ours = [one.copy() for one in theirs]
    ours[0][:] = 0.6
    ours[1][4] = 1  # most in one object, less in the mean
    ours[2][1:3] = 0.1, 0.2
    ours[3][:] = 1  # most in all, but of few objects
    assert extremes(ours, theirs) == (Choice(0, 0, pytest.approx(0.1)), Choice(2, 1, pytest.approx(-0.14)))
    swapped = extremes(theirs, ours)
    assert [choice.image for choice in swapped] == [2, 0], "the rule is the same for both sides"


def test_few_objects_are_enough_where_no_image_has_more():
    theirs = [np.array([0.5, 0.5]), np.array([1.0]), np.array([])]
    assert extremes([np.array([0.5, 0.0]), np.array([0.0]), np.array([])], theirs)[1] == Choice(0, 1, -0.25)
    with pytest.raises(InputError, match="no image of val_dataloader has an object"):
        extremes(theirs[2:], theirs[2:])


@pytest.mark.parametrize(
    ("shape", "at", "expected"),
    [
        ((200, 300), (100, 150), (slice(63, 138), slice(113, 188))),  # 300 / 4
        ((200, 100), (0, 99), (slice(0, 64), slice(36, 100))),
        ((40, 100), (20, 50), (slice(0, 64), slice(18, 82))),
    ],
)
def test_the_window_is_around_what_differs_and_inside_of_the_image(shape, at, expected):
    differing = np.zeros(shape, bool)
    differing[at] = True
    assert window(differing) == expected


def test_masks_have_their_colours_inside_and_outlines_around():
    image = np.full((64, 64, 3), 100, np.uint8)
    mask, marked = np.zeros((2, 64, 64), bool)
    mask[10:30, 10:30] = marked[40:60, 40:60] = True
    painted = paint(image, [mask], ["#0072B2"], marked)
    assert painted.shape == (256, 256, 3)
    assert painted[80, 80].tolist() == [65, 65 + int(0.35 * 114), 65 + int(0.35 * 178)]
    assert painted[40, 80].tolist() == [0x00, 0x72, 0xB2]
    assert painted[160, 200].tolist() == [255] * 3, "the outline of what is marked"
    assert painted[200, 200].tolist() == painted[4, 4].tolist() == [100] * 3, "not filled; outside"


@pytest.fixture
def seen(tmp_path) -> dict[str, list[Seen]]:
    """One image with two objects: the baseline finds one, and what is none; the arm finds both."""
    path = tmp_path / "photograph.png"
    cv2.imwrite(str(path), np.full((*SIZE, 3), 40, np.uint8))
    truth = masks(square(30, 20), square(50, 40))
    return {
        "config": [Seen(str(path), truth, masks(square(51, 40), square(10, 10)))],
        "CARAFE in neck": [Seen(str(path), truth, masks(square(50, 40), square(30, 20)))],
    }


def test_what_is_found_has_the_colour_of_the_object_that_it_fits(seen):
    images = {name: one for name, (one,) in seen.items()}
    drawn = panels("CARAFE in neck", images, 0)
    titles, pixels = zip(*drawn, strict=True)
    assert titles == (
        "image", "truth\n2 objects", "config\n0.00, image 0.41", "CARAFE in neck\n1.00, image 1.00"
    )  # fmt: skip

    def has(colour: str) -> list[bool]:
        return [bool((one == list(bytes.fromhex(colour[1:]))).all(axis=-1).any()) for one in pixels]

    # the first object's outline is the white one's place; the second's is seen
    assert has("#FFFFFF") == [True, True, True, True]
    assert has(OBJECTS[1]) == [False, True, True, True]
    assert has(NO_OBJECT) == [False, False, True, False]
    # the window is 64 pixels around (34, 24), from row 2 and column 0; the image is brightened to 255
    inside = [one[4 * 33, 4 * 25].tolist() for one in pixels]
    blue = [int(0.65 * 255 + 0.35 * value) for value in bytes.fromhex(OBJECTS[0][1:])]
    assert inside == [[255] * 3, blue, [255] * 3, blue]


def test_a_picture_has_a_row_for_the_gain_and_one_for_the_loss(seen, tmp_path):
    draw("CARAFE in neck", seen, tmp_path / "drawn.png")
    drawn = cv2.imread(str(tmp_path / "drawn.png"))[..., ::-1]
    colour = (drawn == list(bytes.fromhex(OBJECTS[1][1:]))).all(axis=-1)
    height = len(colour)
    columns = [part.any() for part in np.array_split(colour[: height // 2], 4, axis=1)]
    assert columns == [False, True, True, True] and colour[height // 2 :].any()


@pytest.fixture
def comparison(trained, tmp_path):
    """Two arms of one checkpoint."""
    for arm in ("config", "CARAFE in neck"):
        folder = run_folder(tmp_path, arm, "aaaa", 1)
        folder.mkdir(parents=True)
        shutil.copy(trained / "epoch_1.pth", folder)
        shutil.copy(trained / CONFIG.name, folder / "config.py")
        add_result(tmp_path / "runs.jsonl", dict(arm=arm, settings="aaaa", seed=1, recipe="bbbb"))
    return tmp_path


def test_the_command_draws_what_the_checkpoints_find(comparison, toy, monkeypatch):
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cpu")
    monkeypatch.setattr(
        "mmcarafe.comparison.object_scores.CONFIDENCE", 0.0
    )  # of a model that learned nothing
    folders = []

    def predicted(folder, options=None):
        folders.append(folder)
        return predict(folder, options)

    monkeypatch.setattr("mmcarafe.comparison.pictures.predict", predicted)
    args = ["--pictures", "--out", comparison, "--seeds", 1]
    written = call("compare_upsamplers.py", *args, cwd=toy).stdout.split()[-1]
    assert written == str(comparison / "pictures/CARAFE-in-neck_aaaa_seed-1.png")
    assert folders == [run_folder(comparison, arm, "aaaa", 1) for arm in ("config", "CARAFE in neck")]
    assert cv2.imread(written).std() > 5


def test_each_arm_is_drawn_with_its_own_checkpoint(comparison, toy, monkeypatch):
    monkeypatch.chdir(toy)
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cpu")
    monkeypatch.setattr("mmcarafe.comparison.object_scores.CONFIDENCE", 0.0)
    path = run_folder(comparison, "config", "aaaa", 1) / "epoch_1.pth"
    checkpoint = torch.load(path, weights_only=False)  # of this test's own training, with its message hub
    for name, weight in checkpoint["state_dict"].items():
        if name.startswith("roi_head.bbox_head.fc_cls"):
            weight.zero_()[-1:] = 1  # all is background
    torch.save(checkpoint, path)
    ours, theirs = (predict(run_folder(comparison, arm, "aaaa", 1)) for arm in ("CARAFE in neck", "config"))
    assert [one.path for one in ours] == [one.path for one in theirs]
    assert sum(one.scores.sum() for one in theirs) != sum(one.scores.sum() for one in ours)


def test_what_pictures_need_is_named(comparison, toy):
    args = ["compare_upsamplers.py", "--pictures", "--out", comparison]
    refused(*args, cwd=toy, match="has no runs of 'config' and of another arm with seed 0")
    folder = run_folder(comparison, "config", "aaaa", 1)
    (folder / "epoch_1.pth").unlink()
    refused(*args, "--seeds", 1, cwd=toy, match="seed-1 holds no checkpoint")
    (folder / "config.py").unlink()
    refused(*args, "--seeds", 1, cwd=toy, match="config.py does not exist: pictures need the folders")
