# SPDX-License-Identifier: Apache-2.0
"""mmdet's steps that load masks and maps and resize images, which name what cannot be used.

LoadAnnotations is changed in place, as :mod:`mmcarafe.datasets.images` does with LoadImageFromFile.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps

import cv2
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import Resize as MMDetResize
from mmdet.registry import TRANSFORMS

from mmcarafe.datasets.annotation_file import reading
from mmcarafe.datasets.images import ALL_AT_ONCE, image_name, leaves_no_pixel, within
from mmcarafe.errors import ImageError


def _reading_masks(results: dict) -> AbstractContextManager:
    return reading(f"annotations of {image_name(results)}", "ANN_FILE --img-dir DIR")


def _of_one_size(load: Callable) -> Callable:
    """Return mmdet's loading of masks, for RLEs of the image's size alone: it takes others for several."""

    @wraps(load)
    def load_masks(self, results: dict) -> None:
        size = [*results["ori_shape"][:2]]
        for instance in results.get("instances", ()) if self.poly2mask else ():
            mask = instance.get("mask")
            whole = isinstance(mask, dict) and mask.get("size") is not None and "counts" in mask
            if whole and [*mask["size"]] != size:
                raise ValueError(f"an RLE of size {mask['size']} in an image of {size[0]} x {size[1]}")
        load(self, results)

    return load_masks


@contextmanager
def _reading_map(results: dict) -> Iterator[None]:
    try:
        yield
    except (AttributeError, OSError, ValueError, cv2.error) as error:
        # mmdet squeezes the None that stands for what is no image
        broken = isinstance(error, AttributeError)
        reason = "it is cut off or no image" if broken else str(error).split("\n")[0]
        path = results.get("seg_map_path")
        raise ImageError(f"map {path} of {image_name(results)} cannot be read: {reason}") from error


LoadAnnotations._load_masks = within(_reading_masks, _of_one_size(LoadAnnotations._load_masks))
LoadAnnotations._load_seg_map = within(_reading_map, LoadAnnotations._load_seg_map)
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
                    f"{image_name(results)} is too thin: no pixel is left of {width} x {height} resized to "
                    f"{tuple(results['scale'])}; cut it into tiles or leave it out{ALL_AT_ONCE}"
                )
        super()._resize_img(results)
