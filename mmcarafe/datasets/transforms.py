# SPDX-License-Identifier: Apache-2.0
"""mmdet's steps that load masks and resize images, which name what cannot be used.

LoadAnnotations is changed in place, as :mod:`mmcarafe.datasets.images` does with LoadImageFromFile.
"""

from contextlib import AbstractContextManager

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import Resize as MMDetResize
from mmdet.registry import TRANSFORMS

from mmcarafe.datasets.annotation_file import reading
from mmcarafe.datasets.images import ALL_AT_ONCE, image_name, leaves_no_pixel, within
from mmcarafe.errors import ImageError


def _reading_masks(results: dict) -> AbstractContextManager:
    return reading(f"annotations of {image_name(results)}", "ANN_FILE --img-dir DIR")


LoadAnnotations._load_masks = within(_reading_masks, LoadAnnotations._load_masks)
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
