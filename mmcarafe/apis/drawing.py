# SPDX-License-Identifier: Apache-2.0
"""The drawings of the demo: pictures, or a video."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmcarafe.errors import InputError
from mmcarafe.utils.files import write_picture


class Drawing:
    """Writes pictures, or one video where a frame rate is given.

    Args:
        visualizer (Visualizer): mmdet's or mmsegmentation's, which draws.
        folder (Path): where the files go.
        fps (float): frames a second of a video. Default: 0, pictures.
        **options: of the visualizer's ``add_datasample``.
    """

    def __init__(self, visualizer: Visualizer, folder: Path, fps: float = 0, **options: object):
        self.visualizer, self.folder, self.fps, self.options = visualizer, folder, fps, options
        self.path, self.video, self.frames = folder / "video.mp4", None, 0
        self.taken: set[str] = set()

    def file(self, name: str) -> Path:
        """Return a picture's own name: images of several folders or types may be called the same."""
        stem = Path(name).stem
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return self.folder / f"{stem}.png"

    def write(self, name: str, image: np.ndarray, sample: BaseDataElement) -> Path:
        """Add one image with what was found in it, and return its file.

        Raises:
            OSError, InputError: it cannot be written.
        """
        self.visualizer.add_datasample(name, image[..., ::-1], sample, draw_gt=False, **self.options)
        drawn = np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])
        if not self.fps:
            write_picture(path := self.file(name), drawn)
            return path
        if self.video is None:
            size, code = drawn.shape[1::-1], cv2.VideoWriter_fourcc(*"mp4v")
            self.video = cv2.VideoWriter(str(self.path), code, self.fps, size)
            if not self.video.isOpened():
                raise InputError(f"{self.path} cannot be written; is it a folder, or is the disk full?")
        self.video.write(drawn)
        self.frames += 1
        return self.path

    def close(self) -> None:
        """Finish the video."""
        if self.video is not None:
            self.video.release()

    def check(self) -> None:
        """Raise InputError unless the video that was written holds all frames."""
        # OpenCV does not report a full disk
        written = cv2.VideoCapture(str(self.path)) if self.frames else None
        if written and (count := int(written.get(cv2.CAP_PROP_FRAME_COUNT))) < self.frames:
            raise InputError(
                f"{self.path} was not written whole ({max(count, 0)} of {self.frames} frames): the disk is "
                "full or files may not be as large; make room and start again"
            )
