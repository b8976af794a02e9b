# SPDX-License-Identifier: Apache-2.0
"""Frames of a video that are missing are noticed."""

import cv2
import numpy as np
import pytest

from mmcarafe.apis.video import Video
from mmcarafe.errors import InputError


@pytest.mark.parametrize(
    ("suffix", "code"), [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v"), ("webm", "VP80")]
)
def test_frames_that_are_missing(suffix, code, tmp_path):
    path = tmp_path / f"a.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(12):
        writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    video = Video(str(path))
    assert [name for name, _ in video.frames()] == [f"frame {i}" for i in range(12)]
    video.check()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if suffix == "mp4":  # of which the list of frames is at the end
        with pytest.raises(InputError, match=r"cannot be read$"):
            Video(str(path))
        return
    video = Video(str(path))
    assert 1 < len(list(video.frames())) < 12
    with pytest.raises(InputError, match=f"{video.count} of 12 frames could be read"):
        video.check()


def test_frames_that_were_not_counted(tmp_path):
    def check(name, expected, count, last):
        video = object.__new__(Video)
        video.path, video.fps, video.expected, video.count, video.last = name, 10, expected, count, last
        video.check()

    check("a.avi", 0, 3, 0.2)
    check("a.mp4", 11, 12, 1.1)
    check("a.mkv", 120, 30, 11.0)  # the rate varies
    for name, expected, count, last, message in (
        ("a.mkv", 120, 30, 9.0, "30 of 120 frames"),
        ("a.mkv", 12, 0, 0.0, "0 of 12 frames"),
        ("a.avi", 0, 0, 0.0, "no frame"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message} could be read"):
            check(name, expected, count, last)
