# SPDX-License-Identifier: Apache-2.0
"""Make a small sound data set, and broken ones: each case changes one thing."""

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

H, W = 48, 64
CLASSES = ("disk", "star", "ring", "crescent", "gear", "wave")
FIRST, SECOND = "first.png", "second.png"
BOX = [10, 8, 20, 16]
NAN, INF = float("nan"), float("inf")


def square(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def zigzag(points: int, far: float = 1e6) -> list[float]:
    return [v for i in range(points) for v in ((-far if i % 2 else far), (far if i % 2 else -far))]


def annotation(number: int, image_id: int, category_id: int = 1) -> dict:
    return dict(id=number, image_id=image_id, category_id=category_id, bbox=BOX, area=BOX[2] * BOX[3],
                iscrowd=0, segmentation=[square(*BOX)])  # fmt: skip


def sound() -> dict:
    """Return two images with an object of each of the first two classes."""
    images = [dict(id=i, file_name=name, height=H, width=W) for i, name in ((1, FIRST), (2, SECOND))]
    anns = [annotation(i, 1 + (i > 12), 2 - i % 2) for i in (11, 12, 13, 14)]
    return dict(
        images=images, annotations=anns, categories=[dict(id=i, name=n) for i, n in enumerate(CLASSES, 1)]
    )


def first(part: str = "annotations", **changes) -> dict:
    """Return the sound data with other fields in the first entry of a part; None removes one."""
    data = sound()
    data[part][0] |= changes
    data[part][0] = {k: v for k, v in data[part][0].items() if v is not None}
    return data


def with_parts(**parts) -> dict:
    return sound() | parts


def rle(mask: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask))
    return dict(size=coded["size"], counts=coded["counts"].decode())


def filled() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[8:24, 10:30] = 1
    return mask


def masked(segmentation: object, **changes) -> dict:
    return first(segmentation=segmentation, **changes)


def run_length(counts: object, size: tuple[int, int] = (H, W)) -> dict:
    return masked(dict(size=list(size), counts=counts))


CATEGORIES = sound()["categories"]
OBJECTS = {  # name of the kind -> one or more files that show it
    "no-images": [with_parts(images=[], annotations=[])],
    "nothing-to-train": [with_parts(annotations=[])],
    "field": [
        first(bbox=None), first(area=None), first(category_id=None), first(image_id=None), first(id=None),
        first(bbox=[1, 2, 3]), first(bbox=["1", "2", "3", "4"]), first(area="5"), first(id=[1]),
        first("images", height=None), first("images", file_name=None), first("images", id=None),
        first("images", width="64"), first("categories", name=None), with_parts(images=["first.png"]),
        *(first("images", file_name=name) for name in (5, ["x"], {}, True)),
    ],
    "id-type": [with_parts(images=[i | dict(id=str(i["id"])) for i in sound()["images"]],
        annotations=[a | dict(image_id=str(a["image_id"])) for a in sound()["annotations"]])],
    "annotation-id-type": [first(id="x11")],
    "annotation-id-0": [first(id=0)],
    "image-id-twice": [with_parts(images=[*sound()["images"],
            sound()["images"][0] | dict(file_name=SECOND)])],
    "image-file-twice": [first("images", file_name=SECOND)],
    "annotation-id-twice": [first(id=12)],
    "category-id-twice": [
        with_parts(categories=[CATEGORIES[0], CATEGORIES[1] | dict(id=1), *CATEGORIES[2:]])
    ],
    "category-name-twice": [
        with_parts(categories=[*CATEGORIES, dict(id=9, name="disk")],
                   annotations=first(category_id=9)["annotations"])
    ],
    "category-unknown": [first(category_id=99), first(category_id="1")],
    "category-not-in-config": [
        with_parts(categories=[*CATEGORIES, dict(id=9, name="bus")],
                   annotations=first(category_id=9)["annotations"])
    ],
    "class-not-in-file": [with_parts(categories=CATEGORIES[1:])],
    "class-order": [with_parts(categories=CATEGORIES[::-1])],
    "image-unknown": [first(image_id=99), first(image_id="1")],
    "iscrowd": [first(iscrowd=None), first(iscrowd={}), first(iscrowd="")],
    "id-mixed": [first("images", id="x"), first("categories", id="x")],
    "ignore": [first(ignore=1)],
    "not-finite": [first(bbox=[NAN, 8, 20, 16]), first(bbox=[10, 8, NAN, 16]), first(bbox=[10, 8, INF, 16]),
                   first(area=NAN)],
    "box-outside": [first(bbox=[100, 100, 10, 10])],
    "box-over-edge": [first(bbox=[-5, -5, 20, 16])],
    "box-corners": [
        with_parts(annotations=[a | dict(bbox=[40, 30, 60, 46]) for a in sound()["annotations"]])
    ],
    "box-empty": [first(bbox=[10, 8, 0, 16]), first(bbox=[30, 8, -20, 16]), first(bbox=[10, 8, 0.5, 16])],
    "area-empty": [first(area=0), first(area=-4)],
    "mask-missing": [masked(None), masked([]), masked({})],
    "mask-malformed": [
        masked(square(*BOX)), masked("x"), masked([["a"] * 6]), run_length("hello world"),
        run_length([5000, 2000]), masked(["123456"]), run_length("o" * 3000 + "0"),
        run_length("o" * 3000 + "O"), run_length([10**4000] * 2), run_length([NAN]), run_length([INF]),
    ],
    "mask-text": [masked([[str(v) for v in square(*BOX)]]), run_length([str(H * W - 20), "20"])],
    "polygon-part": [masked([[1, 2, 3, 4]]), masked([[1, 2, 30, 4, 5, 6, 7]]), masked([square(*BOX), [1, 2,
            3, 4]]), masked([[]]), masked([[1, 2]])],
    "polygon-not-finite": [
        masked([[NAN, 2, 30, 4, 5, 6]]), masked([[INF, 2, 30, 4, 5, 6]]), masked([["nan", 2, 30, 4, 5, 6]]),
        masked([zigzag(60)]), masked([zigzag(3, 1e4)] * 30),
    ],
    "rle-incomplete": [masked(dict(counts="11")), masked(dict(size=[H, W])), run_length(7)],
    "rle-runs": [run_length(""), run_length([]), run_length([5, 20]), run_length([H * W - 10.5, 10.5]),
                 run_length([H * W - 10.5, 11])],
    "rle-negative": [run_length([-5, H * W + 5]), run_length("0O0O" * 50)],
    "rle-size": [masked(rle(filled().T))],
    "rle-not-polygon": [masked(rle(filled()))],
    "mask-empty": [masked(rle(np.zeros((H, W), np.uint8))), masked([square(200, 200, 10, 10)]),
                   masked([[1, 1, 5, 5, 9, 9]])],
    "image-empty": [with_parts(annotations=sound()["annotations"][:2])],

               "image-crowd-only": [with_parts(
        annotations=[a | dict(iscrowd=int(a["image_id"] == 1)) for a in sound()["annotations"]])],
}  # fmt: skip


def picture(h: int = H, w: int = W, mode: str = "RGB", seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    if orientation > 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def header_alone(width: int, height: int) -> bytes:
    """Return a grey PNG of a size, without its pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    header = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


RAMP = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)


def cut(form: str, part: float) -> bytes:
    whole = encoded(picture(), form)
    return whole[: int(len(whole) * part)]


IMAGES = {  # name of the kind -> contents of the first image that show it; None is no file
    "image-missing": [None],
    "image-unreadable": [
        b"", b"<html>not found</html>", cut("JPEG", 0.5), cut("JPEG", 0.99), cut("PNG", 0.5), cut("WEBP",
        0.5),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        b"P6\n64 x\n255\n", encoded(picture())[:11] + b"\0" + encoded(picture())[12:],
    ],
    "image-size": [encoded(picture(96, 128)), encoded(picture(), "JPEG", orientation=6)],
    "image-rotated": [encoded(picture(), "JPEG", orientation=3), encoded(picture(W, H), "JPEG",
            orientation=6)],
    "image-16-bit": [encoded(Image.fromarray(RAMP)), cv2.imencode(".png",
            np.dstack([RAMP] * 3))[1].tobytes()],
    "image-cmyk": [encoded(picture(mode="CMYK"), "JPEG")],
    "image-grey": [encoded(picture(mode="L"), "JPEG"), encoded(picture(mode="1"))],
    "image-alpha": [encoded(picture(mode="RGBA"))],
}  # fmt: skip


def write(folder: Path, data: dict, content: bytes | None = b"sound") -> Path:
    """Write data and both images, the first with other content; returns the annotation file."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((FIRST, SECOND)):
        (folder / "img" / name).write_bytes(encoded(picture(seed=seed)))
    if content is None:
        (folder / "img" / FIRST).unlink()
    elif content != b"sound":
        (folder / "img" / FIRST).write_bytes(content)
    (folder / "ann.json").write_text(json.dumps(data))
    return folder / "ann.json"
