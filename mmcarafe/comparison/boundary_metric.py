# SPDX-License-Identifier: Apache-2.0
"""Boundary AP: AP by boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562)."""

from tempfile import TemporaryDirectory

import cv2
import numpy as np
from mmdet.registry import METRICS
from mmengine.fileio import load
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

from mmcarafe.datasets.coco import CocoMetric

NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
"""mmdet's names of the first of ``COCOeval.stats``."""


def boundary(mask: dict, ratio: float) -> dict:
    """Return the band of a mask's pixels that are near its outline; both are run-length encoded.

    The band is as wide as ``ratio`` times the image's diagonal, and no narrower than a pixel. What is cut
    off by the image's border has its outline there.
    """
    inside = np.pad(rle.decode(mask), 1)
    width = max(1, round(ratio * float(np.hypot(*mask["size"]))))
    band = inside - cv2.erode(inside, np.ones((3, 3), np.uint8), iterations=width)
    return rle.encode(np.asfortranarray(band[1:-1, 1:-1]))


class BoundaryEval(COCOeval):
    """pycocotools' evaluation of masks, with the smaller of mask IoU and boundary IoU for each pair."""

    ratio = 0.02

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:  # noqa: N802  pycocotools' names
        """Return the IoU of each prediction with each object of an image and a class."""
        whole = super().computeIoU(imgId, catId)
        if len(whole) == 0:
            return whole
        objects = self._gts, self._dts
        self._gts, self._dts = (
            {
                (imgId, catId): [
                    one | dict(segmentation=boundary(one["segmentation"], self.ratio))
                    for one in of[imgId, catId]
                ]
            }
            for of in objects
        )
        bands = super().computeIoU(imgId, catId)
        self._gts, self._dts = objects
        return np.minimum(whole, bands)


@METRICS.register_module()
class BoundaryCocoMetric(CocoMetric):
    """mmdet's CocoMetric with ``boundary_mAP``, ``_50``, ``_75`` and by size beside its own results.

    Other arguments are CocoMetric's; ``metric`` has to include ``segm``.

    Args:
        dilation_ratio (float): width of the boundary by the image's diagonal. Default: 0.02, the paper's for
            COCO; small objects consist of nothing else then, and boundary IoU is mask IoU.
    """

    def __init__(self, *args, dilation_ratio: float = 0.02, **kwargs):
        super().__init__(*args, **kwargs)
        self.dilation_ratio = dilation_ratio

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the results of all images."""
        metrics = super().compute_metrics(results)
        _, predictions = zip(*results, strict=True)
        with TemporaryDirectory() as folder:
            masks = load(self.results2json(predictions, f"{folder}/results")["segm"])
        if masks:  # mmdet leaves out the metrics of no predictions, too
            for mask in masks:
                mask.pop("bbox")  # of which pycocotools would take the area
            evaluation = BoundaryEval(self._coco_api, self._coco_api.loadRes(masks), "segm")
            evaluation.ratio = self.dilation_ratio
            evaluation.params.catIds, evaluation.params.imgIds = self.cat_ids, self.img_ids
            evaluation.params.maxDets = list(self.proposal_nums)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            stats = zip(NAMES, evaluation.stats, strict=False)
            metrics |= {f"boundary_{name}": round(float(value), 3) for name, value in stats}
        return metrics
