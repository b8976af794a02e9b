# SPDX-License-Identifier: Apache-2.0
"""mmdet's COCO data set, masks and metric, which name the annotations that cannot be used."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from traceback import walk_tb

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.registry import DATASETS, METRICS

from mmcarafe.datasets.transforms import image_name
from mmcarafe.errors import AnnotationError

# what code that expects COCO's form raises at another; a file that cannot be opened is an OSError
_OTHER_FORM = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError
)  # fmt: skip
_REASON = 200  # characters; a KeyError has the whole key


def _unusable(what: str, error: Exception, check: str) -> AnnotationError:
    reason = f"{type(error).__name__} {error}".split("\n")[0][:_REASON].strip()
    return AnnotationError(
        f"{what} cannot be used ({reason}): python tools/dataset_tools/check_dataset.py {check} names "
        "everything that is wrong with them"
    )


@contextmanager
def _reading(what: str, check: str) -> Iterator[None]:
    """Let what the reading of annotations raises through as an AnnotationError."""
    try:
        yield
    except AnnotationError:
        raise
    except _OTHER_FORM as error:
        raise _unusable(what, error, check) from error


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
        return _reading(f"annotations {self.ann_file}{where}", f"{self.ann_file} --no-images")


def _naming_the_masks(load: Callable) -> Callable:
    @wraps(load)
    def load_masks(self, results: dict) -> None:
        with _reading(f"annotations of {image_name(results)}", "ANN_FILE --img-dir DIR"):
            load(self, results)

    return load_masks


# in place: mmdet knows this step by the identity of its class (get_loading_pipeline), which no subclass has
LoadAnnotations._load_masks = _naming_the_masks(LoadAnnotations._load_masks)


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
            with _reading(self._what, self._check):
                super().__init__(ann_file, *args, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the results of all images."""
        try:
            return super().compute_metrics(results)
        except Exception as error:
            # others are of the model or of the metric's options
            if isinstance(error, MemoryError) or not _from_pycocotools(error):
                raise
            raise _unusable(self._what, error, self._check) from error


def _from_pycocotools(error: Exception) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.startswith("pycocotools.") for name in modules)
