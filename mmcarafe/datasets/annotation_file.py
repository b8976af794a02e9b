# SPDX-License-Identifier: Apache-2.0
"""COCO annotation files as lists of images, categories and annotations."""

import json
from pathlib import Path

from mmcarafe.errors import InputError

PARTS = ("images", "categories", "annotations")


def read_annotations(name: str) -> dict[str, list]:
    """The three lists of a COCO file; InputError where it is none."""
    path = Path(name)
    if not path.is_file():
        raise InputError(f"annotation file {name} does not exist")
    try:
        with path.open() as file:  # as pycocotools does, which takes no other encoding
            data = json.load(file)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{name} is not COCO: expected an object with images and categories")
    for part, empty in (("images", None), ("categories", None), ("annotations", [])):
        if not isinstance(data.get(part, empty), list):
            raise InputError(f"{name} is not COCO: expected a list called {part}")
    return {part: data.get(part, []) for part in PARTS}
