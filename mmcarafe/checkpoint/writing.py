# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, whatever happens while they are written."""

import errno
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmcarafe.errors import CheckpointWriteError

PARTIAL_SUFFIX = ".partial"


@register_backend("mmcarafe_local")
class WholeFileBackend(LocalBackend):
    """Local files that are whole or absent: written under another name, flushed to the disk, then renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file.

        Args:
            obj (bytes): what the file shall hold.
            filepath (str | Path): the file; its folder is made where needed.

        Raises:
            CheckpointWriteError: the disk is full, or another reason of the operating system's. A file that
                was there before is as it was.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + PARTIAL_SUFFIX)
        try:
            with open(unfinished, "wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _flush_folder(path.parent)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            need, free = len(obj) / 2**20, shutil.disk_usage(path.parent).free / 2**20
            raise CheckpointWriteError(
                error.errno,
                f"{path} could not be written ({error.strerror}): it needs {need:.1f} MiB and {free:.1f} MiB "
                "are free; earlier checkpoints are whole, make room and go on with --resume",
            ) from error


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can: network and shared ones may not."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
