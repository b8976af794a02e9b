# SPDX-License-Identifier: Apache-2.0
"""Every image that is lost, mistaken or refused is named, and what is said of each is what becomes of it."""

import numpy as np
import pytest
from broken_data import (
    FIRST,
    IMAGES,
    OBJECTS,
    H,
    W,
    encoded,
    first,
    header_alone,
    picture,
    sound,
    square,
    write,
)
from commands import CONFIG
from dataset_parts import agrees, dataset, evaluate, found_in, skipped_by_the_demo, train
from PIL import Image

from mmcarafe.apis.config import read_config
from mmcarafe.datasets.checks import images
from mmcarafe.datasets.checks.kinds import KINDS
from mmcarafe.datasets.checks.settings import read_settings
from mmcarafe.errors import AnnotationError, ImageError

PICTURES = [
    pytest.param(k, b, id=f"{k}-{i}") for k, contents in IMAGES.items() for i, b in enumerate(contents)
]


@pytest.mark.parametrize(("kind", "content"), PICTURES)
def test_pictures(kind, content, tmp_path):
    write(tmp_path, sound(), content)
    found = found_in(tmp_path)
    assert kind in found
    assert {k for k in found if KINDS[k].severity == "error"} <= {kind}
    agrees(KINDS[kind].training, train, tmp_path)
    agrees(KINDS[kind].evaluation, evaluate, tmp_path)
    skipped = [] if content is None else skipped_by_the_demo(tmp_path / "img" / FIRST)
    assert len(skipped) == KINDS[kind].demo.startswith("skipped")


def test_sizes_that_filters_and_transforms_cannot_take(tmp_path):
    one = first("images", width=1, height=1)
    pixel = dict(bbox=[0, 0, 1, 1], segmentation=[square(0, 0, 1, 1)])
    one["annotations"] = [a | (pixel if a["image_id"] == 1 else {}) for a in sound()["annotations"]]
    write(tmp_path, one, encoded(picture(1, 1)))
    assert {*found_in(tmp_path)} == {"image-one-wide"}
    with pytest.raises(ValueError, match="stride"):
        train(tmp_path, flips=1.0)
    settings = read_settings(read_config(str(CONFIG), {"train_dataloader.dataset.filter_cfg.min_size": 32}))
    assert {*found_in(tmp_path, settings)} == {"image-below-min-size"}
    assert len(train(tmp_path, filter_cfg=dict(filter_empty_gt=True, min_size=32))) == 1
    assert evaluate(tmp_path)
    write(tmp_path, first("images", width=3000, height=1), encoded(picture(1, 3000)))
    assert "image-thin" in found_in(tmp_path)
    with pytest.raises(ImageError, match=r"\(image id 1\) is too thin: no pixel is left of 3000 x 1 resized"):
        evaluate(tmp_path)


def test_large_images_are_named_without_being_decoded(tmp_path):
    for size, kind in (((20000, 20000), "image-large"), ((40000, 30000), "image-too-large")):
        write(tmp_path, first("images", width=size[0], height=size[1]), header_alone(*size))
        assert {k for k in found_in(tmp_path) if k.startswith("image")} == {kind, "image-grey"}
    assert len(skipped_by_the_demo(tmp_path / "img" / FIRST)) == 1


def test_16_bits_lose_the_lower_eight(tmp_path):
    write(tmp_path, sound(), encoded(Image.fromarray(np.full((48, 64), 255, np.uint16))))
    assert int(dataset(tmp_path, "val")[0]["inputs"].max()) == 0


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bits_in_rows_of_160_bytes_are_no_16_bits(mode, tmp_path):
    image = Image.fromarray(np.zeros((48, 160 if mode == "L" else 720), np.uint8)).convert(mode)
    write(tmp_path, first("images", width=image.width), encoded(image, "BMP"))
    assert "image-16-bit" not in found_in(tmp_path)


def test_exif_that_is_cut_off_ends_no_check(tmp_path):
    jpeg = encoded(picture(), "JPEG")
    assert jpeg[2:4] == b"\xff\xe0", "JFIF, whose density Pillow looks for in EXIF"
    cut = b"Exif\0\0MM\0*"
    block = b"\xff\xe1" + (len(cut) + 2).to_bytes(2, "big") + cut
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    write(tmp_path, sound(), jpeg[:end] + block + jpeg[end:])
    assert not found_in(tmp_path)


def test_an_rle_of_an_image_of_another_size_is_refused(tmp_path):
    write(tmp_path, OBJECTS["rle-not-polygon"][0], IMAGES["image-size"][0])
    for does in (train, evaluate):
        with pytest.raises(AnnotationError, match=r"of image .*first.png \(image id 1\) .*an RLE of size"):
            does(tmp_path)


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_a_large_image_that_is_turned_is_measured_by_its_header(form, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 0)
    write(tmp_path, sound(), encoded(picture(W, H), form, orientation=6))
    assert {*found_in(tmp_path)} == {"image-rotated", "image-large"}
