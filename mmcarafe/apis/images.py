# SPDX-License-Identifier: Apache-2.0
"""Images of files, folders and globs, read as a test pipeline reads them, and what is found in them."""

from collections.abc import Callable, Iterable, Iterator
from glob import glob
from itertools import islice
from pathlib import Path

from mmcv.transforms import LoadImageFromFile, Resize

from mmcarafe.apis.config import KERNELS, absence_named
from mmcarafe.datasets.images import leaves_no_pixel
from mmcarafe.errors import ImageError, InputError
from mmcarafe.visualization import to_bgr

LOADER = LoadImageFromFile()  # as most configs have it
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_images(given: str, skipped: list[str]) -> list[Path]:
    """Return the images that a path or glob names, in order; note what is called like one but is no file.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        named = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        absent = f"folder {given} holds no image ({', '.join(sorted(SUFFIXES))})"
    else:
        named = [Path(name) for name in sorted(glob(given, recursive=True))]
        absent = f"{given} is no image, folder, glob or video that exists"
    # a link to nothing, a folder, a pipe (which would be waited for)
    others = [p for p in named if not p.is_file()]
    skipped += [f"{p} (no file)" for p in others if p.suffix.lower() in SUFFIXES]
    if len(others) == len(named):
        raise InputError(absent)
    return [p for p in named if p.is_file()]


def test_scale(inferencer: object) -> tuple[int, int] | None:
    """Return the size within which images are resized with their ratio kept; None where they are not."""
    steps = [step for step in inferencer.pipeline.transforms if isinstance(step, Resize)]
    return steps[0].scale if steps and steps[0].keep_ratio else None


def read_images(
    paths: list[Path], skipped: list[str], scale: tuple[int, int] | None, load: Callable = LOADER
) -> Iterator[tuple[str, dict]]:
    """Yield name of each image, and what a pipeline's loading step makes of it; note unusable ones."""
    for path in paths:
        try:
            loaded = load(dict(img_path=str(path)))
        except (ImageError, OSError):  # no bytes, too many pixels, or not ours to read
            loaded = None
        if loaded is None:
            skipped.append(str(path))
        elif scale and leaves_no_pixel(loaded["img"].shape[1::-1], scale):
            skipped.append(f"{path} (too thin)")
        else:
            yield path.name, loaded


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of up to ``size`` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def infer(inferencer: object, steps: Iterable[list[tuple[str, dict]]], output: object) -> None:
    """Predict for batches of named images, and write what is found.

    Args:
        inferencer (Inferencer): of a library's module, see :func:`mmcarafe.apis.libraries.library_of`.
        steps (iterable): lists of names and what :func:`read_images` loaded.
        output (Output): of the same module; it is closed, also when this is interrupted.
    """
    device = next(inferencer.model.parameters()).device
    try:
        for batch in steps:
            images = [loaded | dict(img_id=0) for _, loaded in batch]
            with absence_named(f"{type(inferencer.model).__name__} does not run on {device}", KERNELS):
                found = inferencer.predict(images)
            for (name, loaded), sample in zip(batch, found, strict=True):
                output.add(name, to_bgr(loaded["img"]), sample)
    finally:  # interrupted or out of memory: what was found until then is kept
        output.close()
