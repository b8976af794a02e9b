# SPDX-License-Identifier: Apache-2.0
"""COCO annotation files as lists of images, categories and annotations, and errors of those who read them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmcarafe.errors import AnnotationError, InputError

PARTS = ("images", "categories", "annotations")
# what code that expects COCO's form raises at another; a file that cannot be opened is an OSError
OTHER_FORM = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError
)  # fmt: skip
MAX_REASON = 200  # characters; a KeyError has the whole key


def read_annotations(name: str) -> dict[str, list]:
    """Return the three lists of a COCO file; InputError where it is none."""
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


def unusable(what: str, error: Exception, check: str) -> AnnotationError:
    """Return the AnnotationError that stands for what the reading of annotations raised."""
    reason = f"{type(error).__name__} {error}".split("\n")[0][:MAX_REASON].strip()
    return AnnotationError(
        f"{what} cannot be used ({reason}): python tools/dataset_tools/check_dataset.py {check} names "
        "everything that is wrong with them"
    )


@contextmanager
def reading(what: str, check: str) -> Iterator[None]:
    """Let what the reading of annotations raises through as an AnnotationError."""
    try:
        yield
    except AnnotationError:
        raise
    except OTHER_FORM as error:
        raise unusable(what, error, check) from error
