# SPDX-License-Identifier: Apache-2.0
"""An image that cannot be read or resized ends a run with its file and id; the steps stay mmdet's own."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import get_loading_pipeline
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS

import mmcarafe.models  # noqa: F401  registers everything
from mmcarafe.errors import ImageError


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    return path


def load(path, **options):
    return TRANSFORMS.build(dict(type="LoadImageFromFile", **options))(dict(img_path=str(path), img_id=7))


@pytest.mark.parametrize("options", [{}, dict(to_float32=True), dict(color_type="grayscale")])
def test_a_sound_image_is_loaded_as_by_mmcv(image, options):
    theirs = LoadImageFromFile.transform.__wrapped__
    expected = theirs(LoadImageFromFile(**options), dict(img_path=str(image), img_id=7))
    actual = load(image, **options)
    assert actual.keys() == expected.keys()
    assert (actual["img"] == expected["img"]).all() and actual["img"].dtype == expected["img"].dtype


@pytest.mark.parametrize("scopes", [("", ""), ("mmcv.", "mmdet.")])
def test_mmdet_knows_the_loading_steps_by_their_classes(scopes):
    loading = [dict(type=f"{scopes[0]}LoadImageFromFile"), dict(type=f"{scopes[1]}LoadAnnotations")]
    assert get_loading_pipeline([*loading, dict(type="Resize"), dict(type="PackDetInputs")]) == loading


BROKEN = dict(empty=b"", text=b"text", cut=0.5, missing=None)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_one_is_named(image, content):
    whole = image.read_bytes()
    image.unlink()
    if content is not None:
        image.write_bytes(whole[: len(whole) // 2] if content == 0.5 else content)
    reason = {None: "it does not exist", b"": "empty"}.get(content, "it is cut off or no image")
    with pytest.raises(ImageError, match=rf"image .*image\.png \(image id 7\) cannot be read: .*{reason}"):
        load(image)
    if not content:
        assert load(image, ignore_empty=True) is None  # mmcv's option


def test_inference_loads_arrays_as_before():
    pixels = np.zeros((4, 5, 3), np.uint8)
    step = TRANSFORMS.build(dict(type="mmdet.LoadImageFromNDArray"))
    assert step(dict(img=pixels))["img_shape"] == (4, 5)


def test_what_is_too_thin_to_resize_is_named():
    step, theirs = (
        TRANSFORMS.build(dict(type="Resize", scale=(64, 48), keep_ratio=True)),
        Resize((64, 48), keep_ratio=True),
    )
    thin = dict(img=np.zeros((1, 150, 3), np.uint8), img_path="thin.png", img_id=7)
    with pytest.raises(
        ImageError, match=r"thin.png \(image id 7\) is too thin: .* 150 x 1 resized to \(64, 48\)"
    ):
        step(dict(thin))
    with pytest.raises(ImageError, match="image given as an array is too thin"):
        step(dict(img=thin["img"]))
    with pytest.raises(cv2.error):
        theirs(dict(thin))
    for size in ((2, 150), (30, 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        expected, actual = theirs(dict(img=pixels)), step(dict(img=pixels))
        assert actual.keys() == expected.keys() and actual["scale_factor"] == expected["scale_factor"]
        assert (actual["img"] == expected["img"]).all()


@pytest.mark.parametrize("content", [None, b"", b"text"], ids=["missing", "empty", "text"])
def test_a_semantic_map_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "map.png"
    if content is not None:
        path.write_bytes(content)
    maps_alone = dict(with_bbox=False, with_label=False, with_seg=True)
    step = TRANSFORMS.build(dict(type="mmdet.LoadAnnotations", **maps_alone))
    with pytest.raises(ImageError, match=r"map .*map\.png of image 1\.png \(image id 7\) cannot be read: "):
        step(dict(img_path="1.png", img_id=7, seg_map_path=str(path)))
