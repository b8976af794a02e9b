# SPDX-License-Identifier: Apache-2.0
"""mmdet's steps that load and resize images, which name an image or annotations that cannot be used.

LoadImageFromFile and LoadAnnotations are changed in place, because configs may hold these classes themselves
and mmdet looks for them by identity (``get_loading_pipeline``): subclasses of their names would be missed.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps

import cv2
from mmcv.image import rescale_size
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import Resize as MMDetResize
from mmdet.registry import TRANSFORMS

from mmcarafe.datasets.annotation_file import reading
from mmcarafe.errors import ImageError

_REASONS = {FileNotFoundError: "it does not exist", AssertionError: "it is cut off or no image"}
_ALL_AT_ONCE = "tools/dataset_tools/check_dataset.py finds all such images before a run"


def leaves_no_pixel(size: tuple[int, int], scale: tuple[int, int]) -> bool:
    """Tell whether an image of a width and height is so thin that nothing is left of it within ``scale``.

    Example:
        >>> leaves_no_pixel((3000, 1), (1333, 800)), leaves_no_pixel((3000, 2), (1333, 800))
        (True, False)
    """
    return min(rescale_size(size, scale)) < 1


def _image_name(results: dict) -> str:
    """Name the file and id of the image that a pipeline is at work on."""
    known = f" (image id {results['img_id']})" if "img_id" in results else ""
    return f"image {results.get('img_path') or 'given as an array'}{known}"


@contextmanager
def _reading_image(results: dict) -> Iterator[None]:
    try:
        yield
    except (AssertionError, OSError, ValueError, cv2.error) as error:
        reason = _REASONS.get(type(error)) or str(error).split("\n")[0]
        raise ImageError(f"{_image_name(results)} cannot be read: {reason}; {_ALL_AT_ONCE}") from error


def _reading_masks(results: dict) -> AbstractContextManager:
    return reading(f"annotations of {_image_name(results)}", "ANN_FILE --img-dir DIR")


def _within(context: Callable[[dict], AbstractContextManager], method: Callable) -> Callable:
    @wraps(method)
    def step(self, results: dict) -> dict | None:
        with context(results):
            return method(self, results)

    return step


LoadImageFromFile.transform = _within(_reading_image, LoadImageFromFile.transform)
LoadAnnotations._load_masks = _within(_reading_masks, LoadAnnotations._load_masks)
# by mmdet's scope too, as scoped configs write it
TRANSFORMS.register_module(module=LoadImageFromFile)


@TRANSFORMS.register_module(force=True)
class Resize(MMDetResize):
    """mmdet's Resize; arguments and results are mmdet's.

    Raises:
        ImageError: the image is so thin that no pixel would be left.
    """

    def _resize_img(self, results: dict) -> None:
        image = results.get("img")
        if image is not None and self.keep_ratio:
            height, width = image.shape[:2]
            if leaves_no_pixel((width, height), results["scale"]):
                raise ImageError(
                    f"{_image_name(results)} is too thin: no pixel is left of {width} x {height} resized to "
                    f"{tuple(results['scale'])}; cut it into tiles or leave it out; {_ALL_AT_ONCE}"
                )
        super()._resize_img(results)
