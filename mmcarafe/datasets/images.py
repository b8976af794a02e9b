# SPDX-License-Identifier: Apache-2.0
"""mmcv's step that loads an image, which names one that cannot be used.

LoadImageFromFile is changed in place, because configs may hold the class itself and mmdet looks for it by
identity (``get_loading_pipeline``): a subclass of its name would be missed.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps

import cv2
from mmcv.image import rescale_size
from mmcv.transforms import LoadImageFromFile

from mmcarafe.errors import ImageError

_REASONS = {FileNotFoundError: "it does not exist", AssertionError: "it is cut off or no image"}
ALL_AT_ONCE = "; tools/dataset_tools/check_dataset.py finds all such images before a run"


def leaves_no_pixel(size: tuple[int, int], scale: tuple[int, int]) -> bool:
    """Tell whether an image of a width and height is so thin that nothing is left of it within ``scale``.

    Example:
        >>> leaves_no_pixel((3000, 1), (1333, 800)), leaves_no_pixel((3000, 2), (1333, 800))
        (True, False)
    """
    return min(rescale_size(size, scale)) < 1


def image_name(results: dict) -> str:
    """Name the file and id of the image that a pipeline is at work on."""
    known = f" (image id {results['img_id']})" if "img_id" in results else ""
    return f"image {results.get('img_path') or 'given as an array'}{known}"


@contextmanager
def _reading_image(results: dict) -> Iterator[None]:
    try:
        yield
    except (AssertionError, OSError, ValueError, cv2.error) as error:
        reason = _REASONS.get(type(error)) or str(error).split("\n")[0]
        of_maps = "seg_fields" in results  # the command knows COCO's files
        advice = "" if of_maps else ALL_AT_ONCE
        raise ImageError(f"{image_name(results)} cannot be read: {reason}{advice}") from error


def within(context: Callable[[dict], AbstractContextManager], method: Callable) -> Callable:
    """Return a step of a pipeline that is run within a context, which is made of what the step is given."""

    @wraps(method)
    def step(self, results: dict) -> dict | None:
        with context(results):
            return method(self, results)

    return step


LoadImageFromFile.transform = within(_reading_image, LoadImageFromFile.transform)
