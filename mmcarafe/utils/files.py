# SPDX-License-Identifier: Apache-2.0
"""Check where files may go, and write them with an error that names what failed."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from mmcarafe.errors import InputError


def check_pipeline(cfg: Config, name: str | None = None) -> None:
    """Raise InputError where a config says nothing of how images are loaded and made ready for the model."""
    if not (cfg.get("test_dataloader") or {}).get("dataset"):
        config = f"config {name}" if name else "the config"
        raise InputError(f"{config} has no test_dataloader with a dataset, whose pipeline is used")


def check_folder(option: str, folder: Path) -> None:
    """Raise InputError where the folder cannot be made because a file is in its place; makes nothing yet."""
    for path in (folder, *folder.parents):
        if path.exists() or path.is_symlink():
            if not path.is_dir():
                raise InputError(f"{option} {folder}: {path} is no folder; name another one")
            return


def check_kept(option: str, folder: Path, inputs: Iterable[Path]) -> None:
    """Raise InputError where a folder that will be written to holds an input, also under another name."""
    # names would not do: a symbolic or hard link to an input is written through
    known = {_identity(path): path for path in inputs if path.exists()}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file() and (given := known.get(_identity(path))):
            raise InputError(
                f"{option} {folder} holds the input {given} (as {path.name}), which could be overwritten; "
                "choose another folder"
            )


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def write_file(path: Path, content: bytes) -> None:
    """Write a file; OSError, with its name, where the disk is full or the system refuses otherwise."""
    try:
        path.write_bytes(content)
    except OSError as error:  # that of a full disk has no name in it
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_picture(path: Path, pixels: np.ndarray, compression: int = 1) -> None:
    """Write BGR pixels as PNG, compressed from 0 (not) to 9 (most); OSError as :func:`write_file`."""
    done, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    if not done:
        raise InputError(f"{path}: a picture of shape {pixels.shape} does not go into a PNG file")
    write_file(path, content.tobytes())


def picture_names(paths: Sequence[str], suffix: str | None = None) -> dict[str, str]:
    """Return a file name for each image path: its part that paths do not share, without folders.

    Args:
        paths (Sequence[str]): of the images.
        suffix (str, optional): what names end in, instead of the image's own. Default: None.

    Example:
        >>> from mmcarafe.utils.files import picture_names
        >>> [*picture_names(["/data/cam0/1.png", "/data/cam1/1.png"]).values()]
        ['cam0_1.png', 'cam1_1.png']
    """
    whole = {path: os.path.abspath(path) for path in paths}
    common = os.path.commonpath({os.path.dirname(path) for path in whole.values()})
    names: dict[str, str] = {}
    taken = set()
    for path, absolute in whole.items():
        name = os.path.relpath(absolute, common).replace(os.sep, "_")
        name = str(Path(name).with_suffix(suffix)) if suffix else name
        while name in taken:  # a_b/1.png beside a/b_1.png, or 1.jpg beside 1.png
            name = f"_{name}"
        taken.add(name)
        names[path] = name
    return names
