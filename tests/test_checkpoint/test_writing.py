# SPDX-License-Identifier: Apache-2.0
"""A file is whole or as it was."""

import errno
import os
import stat

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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_folders_of_some_file_systems_cannot_be_flushed(number, tmp_path, monkeypatch):
    """VirtualBox and older CIFS answer EINVAL; the file is there."""
    flush = os.fsync

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        flush(file)

    monkeypatch.setattr(writing.os, "fsync", fsync)
    if number == errno.EINVAL:
        WholeFileBackend().put(b"good", tmp_path / "epoch_1.pth")
    else:  # the disk is broken
        with pytest.raises(CheckpointWriteError, match="Input/output error"):
            WholeFileBackend().put(b"good", tmp_path / "epoch_1.pth")
    assert (tmp_path / "epoch_1.pth").read_bytes() == b"good"
