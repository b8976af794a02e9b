# SPDX-License-Identifier: Apache-2.0
"""Write the segmentations that the demo makes: maps of class indices, and drawings."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from mmseg.structures import SegDataSample

from mmcarafe.apis.drawing import Drawing
from mmcarafe.apis.map_inferencer import Inferencer
from mmcarafe.errors import InputError
from mmcarafe.utils.files import write_picture


class Maps:
    """Write what the demo finds: a drawing of each image and its map in ``maps/``, or a video.

    A map is a PNG of one channel with the class index of each pixel, as mmsegmentation's data sets have them:
    of 8 bits, and of 16 where there are more than 256 classes.

    Raises:
        InputError: an option of detectors is given.
    """

    folders = ("", "maps")  # where files are written, in the folder of the output

    def __init__(
        self, inferencer: Inferencer, args: argparse.Namespace, names: list[str], folder: Path, fps: float = 0
    ):
        for option, value in (("--score-thr", args.score_thr), ("--ann-file", args.ann_file)):
            if value is not None:
                raise InputError(
                    f"{option} is for detectors: a segmentor gives each pixel its class; leave it out"
                )
        self.drawing = Drawing(inferencer.visualizer, folder, fps)
        self.maps = None if fps else folder / self.folders[1]
        self.classes = inferencer.model.dataset_meta["classes"]
        self.pixels, self.number = Counter(), 0

    def add(self, name: str, image: np.ndarray, sample: SegDataSample) -> None:
        """Add the segmentation of one image, BGR."""
        wide = len(self.classes) > 256
        indices = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.uint16 if wide else np.uint8)
        self.pixels += Counter(dict(zip(*np.unique(indices, return_counts=True), strict=True)))
        path = self.drawing.write(name, image, sample.cpu())
        if self.maps:
            self.maps.mkdir(exist_ok=True)
            write_picture(self.maps / path.name, indices)
        self.number += 1

    def close(self) -> None:
        """Finish the video, and say what was found."""
        self.drawing.close()
        total = max(1, sum(self.pixels.values()))
        shares = ", ".join(
            f"{self.classes[i]} {100 * n / total:.1f} %" for i, n in self.pixels.most_common(5)
        )
        where = f"{self.maps} and the drawings" if self.maps else self.drawing.path
        print(f"{self.number} images, pixels of {shares or 'no class'}; written: {where}")
