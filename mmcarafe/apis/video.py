# SPDX-License-Identifier: Apache-2.0
"""The frames of a video, and whether these are all."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np

from mmcarafe.errors import InputError

SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm"}
UNCOUNTED_SUFFIXES = {".mkv", ".webm"}  # hold a duration, from which OpenCV estimates the number of frames


class Video:
    """A video that is read once.

    Args:
        path (str): the file.

    Raises:
        InputError: it cannot be read as a video.
    """

    def __init__(self, path: str):
        self.path, self.reader = path, mmcv.VideoReader(path, cache_capacity=1)
        if not self.reader.opened:
            raise InputError(f"video {path} cannot be read")
        self.fps = self.reader.fps or 25
        self.expected = max(self.reader.frame_cnt, 0)  # 0: the file does not tell
        self.count, self.last = 0, 0.0  # frames that were read, and the time of the last in seconds

    def frames(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and BGR pixels of each frame."""
        while (frame := self.reader.read()) is not None:
            self.last = self.reader.vcap.get(cv2.CAP_PROP_POS_MSEC) / 1000
            self.count += 1
            yield f"frame {self.count - 1}", frame

    def check(self) -> None:
        """Raise InputError where fewer frames could be read than there are, as where the file is cut off."""
        reached, least = self.count, max(self.expected, 1)
        if self.count and Path(self.path).suffix.lower() in UNCOUNTED_SUFFIXES:
            # the rate may vary and sound go on for longer, so that the time of the last frame tells more
            reached, least = max(self.count, self.last * self.fps + 1), 0.9 * self.expected
        if reached < least:
            of = f"{self.count} of {self.expected} frames" if self.expected else "no frame"
            raise InputError(
                f"video {self.path}: {of} could be read; the rest is damaged, cut off or edited out"
            )
