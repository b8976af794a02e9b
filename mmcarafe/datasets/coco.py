# SPDX-License-Identifier: Apache-2.0
"""mmdet's COCO data set and metric, which name the annotations that cannot be used."""

from contextlib import AbstractContextManager
from traceback import walk_tb

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.registry import DATASETS, METRICS

from mmcarafe.datasets.annotation_file import reading, unusable


@DATASETS.register_module(force=True)
class CocoDataset(MMDetCocoDataset):
    """mmdet's CocoDataset; arguments and results are mmdet's.

    Raises:
        AnnotationError: the file is not COCO, or no image of it is left to load.
        KeyError: ``data_prefix`` has no ``img``.
    """

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        if "img" not in self.data_prefix:  # none of the file's mistakes, though mmdet meets it while reading
            raise KeyError(f"data_prefix is {self.data_prefix}: expected dict(img=FOLDER)")
        with self._reading_file():
            return super().load_data_list()

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Turn an image's entry and its annotations into mmdet's form."""
        with self._reading_file(f" of image id {raw_data_info['raw_img_info']['img_id']!r}"):
            return super().parse_data_info(raw_data_info)

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
        try:
            return super().compute_metrics(results)
        except Exception as error:
            # others are of the model or of the metric's options
            if isinstance(error, MemoryError) or not _from_pycocotools(error):
                raise
            raise unusable(self._what, error, self._check) from error


def _from_pycocotools(error: Exception) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.startswith("pycocotools.") for name in modules)
