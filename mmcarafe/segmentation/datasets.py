# SPDX-License-Identifier: Apache-2.0
"""Data sets of mmsegmentation's: one without images is named, and COCO's objects become maps.

``BaseSegDataset.load_data_list`` is changed in place, for all data sets that derive from it.
"""

from functools import cache, wraps
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import TRANSFORMS
from pycocotools import mask as coco_mask

from mmcarafe.datasets.annotation_file import read_annotations, reading
from mmcarafe.errors import DataError

IGNORED = 255
_list_images = BaseSegDataset.load_data_list


@wraps(_list_images)
def _load_data_list(self: BaseSegDataset) -> list[dict]:
    found = _list_images(self)
    if not found:
        raise DataError(
            f"{type(self).__name__} finds no image called *{self.img_suffix} in "
            f"{self.data_prefix.get('img_path')}: correct data_prefix, img_suffix or ann_file"
        )
    return found


BaseSegDataset.load_data_list = _load_data_list


@cache
def objects_of(ann_file: str) -> dict[str, list[dict]]:
    """Return the objects in a COCO file by the file names of their images, with ``label`` from 0."""
    data = read_annotations(ann_file)
    with reading(f"annotations {ann_file}", f"{ann_file} --no-images"):
        images = {image["id"]: image for image in data["images"]}
        labels = {category["id"]: label for label, category in enumerate(data["categories"])}
        found: dict[str, list[dict]] = {image["file_name"]: [] for image in images.values()}
        for one in data["annotations"]:
            found[images[one["image_id"]]["file_name"]].append(one | dict(label=labels[one["category_id"]]))
    return found


@TRANSFORMS.register_module()
class LoadCocoMap(BaseTransform):
    """Make the map of an image of the masks in a COCO file, in place of LoadAnnotations.

    Pixels of no object are 0, those of the first category 1, and so on; of objects that overlap the last in
    the file is on top, and crowds are not to count (255).

    Args:
        ann_file (str): the file; its images are called as those of the data set, without folders.

    Raises:
        DataError: the file has no image of this name.
        AnnotationError: an object has no mask that pycocotools reads.
    """

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 [H, W]."""
        name, shape = Path(results["img_path"]).name, results["ori_shape"]
        objects = objects_of(self.ann_file).get(name)
        if objects is None:
            raise DataError(f"{self.ann_file} has no image {name}, which is in the data set's folder")
        classes = np.zeros(shape, np.uint8)
        with reading(f"annotations {self.ann_file} of image {name}", f"{self.ann_file} --no-images"):
            for one in objects:
                classes[decoded(one["segmentation"], *shape)] = (
                    IGNORED if one.get("iscrowd") else one["label"] + 1
                )
        results["gt_seg_map"] = classes
        results["seg_fields"].append("gt_seg_map")
        return results


def decoded(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Return COCO's polygons or run lengths as a mask, bool [height, width]; ValueError for others."""
    try:
        if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
        if isinstance(segmentation, list):
            segmentation = coco_mask.merge(segmentation)
        return coco_mask.decode(segmentation).astype(bool)
    except Exception as error:  # pycocotools' have no type
        raise ValueError(error) from error
