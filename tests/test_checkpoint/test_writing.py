# SPDX-License-Identifier: Apache-2.0
"""A file is whole or as it was."""

import errno
import os

import pytest

from mmcarafe.checkpoint import writing
from mmcarafe.checkpoint.writing import WholeFileBackend
from mmcarafe.errors import CheckpointWriteError


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "new folder/epoch_1.pth"
    WholeFileBackend().put(b"good", path)
    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(
        CheckpointWriteError, match=r"epoch_1.pth could not be written \(No space left on dev"
    ):
        WholeFileBackend().put(b"better", path)
    assert path.read_bytes() == b"good"
    assert list(path.parent.iterdir()) == [path]
