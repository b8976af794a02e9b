# SPDX-License-Identifier: Apache-2.0
"""mmdet's COCO data set and metric, which name the annotations that cannot be used."""

import logging
from contextlib import AbstractContextManager
from traceback import walk_tb

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.logging import print_log

from mmcarafe.datasets.annotation_file import reading, unusable
from mmcarafe.errors import DataError


@DATASETS.register_module(force=True)
class CocoDataset(MMDetCocoDataset):
    """mmdet's CocoDataset; arguments and results are mmdet's.

    Raises:
        AnnotationError: the file is not COCO, or no image of it is left to load.
        DataError: ``data_prefix`` has no ``img``.
    """

    _compared = False

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        if "img" not in self.data_prefix:  # none of the file's mistakes, though mmdet meets it while reading
            raise DataError(f"{self.ann_file} has data_prefix={self.data_prefix}: expected dict(img=FOLDER)")
        with self._reading_file():
            return super().load_data_list()

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Turn an image's entry and its annotations into mmdet's form."""
        with self._reading_file(f" of image id {raw_data_info['raw_img_info']['img_id']!r}"):
            if not self._compared:  # mmdet lets go of the categories when all entries are read
                self._compared = True
                self._compare_classes()
            return super().parse_data_info(raw_data_info)

    def _compare_classes(self) -> None:
        """Warn where a label is not its class: mmdet counts the file's categories, in the file's order."""
        if not hasattr(self, "coco"):  # a subclass reads its files in a way of its own
            return
        names = [self.coco.cats[id_]["name"] for id_ in self.cat_ids]
        for label, (name, known) in enumerate(zip(names, self.metainfo.get("classes") or (), strict=False)):
            if name != known:
                print_log(
                    f"annotations {self.ann_file}: label {label} is the category {name!r}, and in the config "
                    f"the class {known!r}: objects are learnt and shown under other names; bring "
                    "metainfo.classes into the file's order, without those that the file lacks",
                    "current", logging.WARNING,
                )  # fmt: skip
                return

    def filter_data(self) -> list[dict]:
        """Leave out images as ``filter_cfg`` says."""
        with self._reading_file():
            left = super().filter_data()
            if not left:
                raise ValueError(f"filter_cfg and classes leave none of {len(self.data_list)} images")
        return left

    def _reading_file(self, where: str = "") -> AbstractContextManager:
        return reading(f"annotations {self.ann_file}{where}", f"{self.ann_file} --no-images")


@METRICS.register_module(force=True)
class CocoMetric(MMDetCocoMetric):
    """mmdet's CocoMetric; arguments and results are mmdet's.

    Raises:
        AnnotationError: the file is not COCO, or pycocotools cannot evaluate its objects.
        DataError: an image of the data set is not in the file.
    """

    def __init__(self, ann_file: str | None = None, *args, **kwargs):
        super().__init__(None, *args, **kwargs)  # alone: a mistake in the options is none of the file's
        self._what = "annotations of the data set" if ann_file is None else f"annotations {ann_file}"
        self._check = f"{ann_file or 'ANN_FILE'} --no-images"
        if ann_file is not None:
            with reading(self._what, self._check):
                super().__init__(ann_file, *args, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the results of all images."""
        if self._coco_api and not self.format_only:
            unknown = [found["img_id"] for _, found in results if found["img_id"] not in self._coco_api.imgs]
            if unknown:
                raise DataError(
                    f"{self._what}, which the evaluator has, are without {len(unknown)} images of the data "
                    f"set (first: id {unknown[0]!r}): name the same file as ann_file of val_evaluator and of "
                    "val_dataloader.dataset, and so for test"
                )
        try:
            return super().compute_metrics(results)
        except Exception as error:
            # others are of the model or of the metric's options
            if isinstance(error, MemoryError) or not _from_pycocotools(error):
                raise
            raise unusable(self._what, error, self._check) from error


def _from_pycocotools(error: Exception) -> bool:
    if error.args == ("iscrowd",):  # which mmdet asks for itself where proposals are evaluated
        return True
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.startswith("pycocotools.") for name in modules)
