# SPDX-License-Identifier: Apache-2.0
"""mmdet's loading of images, which names an image that cannot be read."""

import cv2
from mmcv import transforms
from mmdet.registry import TRANSFORMS

_REASONS = {FileNotFoundError: "it does not exist", AssertionError: "it is cut off or no image"}


class ImageError(ValueError):
    """An image of a data set cannot be read; the message names its file and id."""


@TRANSFORMS.register_module()
class LoadImageFromFile(transforms.LoadImageFromFile):
    """mmcv's LoadImageFromFile, registered with mmdet; arguments and results are mmcv's.

    Raises:
        ImageError: the file does not exist, is empty, cut off, too large, or no image.
    """

    def transform(self, results: dict) -> dict | None:
        """Read the image of ``results["img_path"]``."""
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:
            known = f" (image id {results['img_id']})" if "img_id" in results else ""
            reason = _REASONS.get(type(error)) or str(error).split("\n")[0]
            raise ImageError(
                f"image {results['img_path']}{known} cannot be read: {reason}; "
                "tools/check_dataset.py finds all such images before a run"
            ) from error
