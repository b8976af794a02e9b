# SPDX-License-Identifier: Apache-2.0
"""The library that a config is of, mmdet or mmsegmentation, and what the commands do with its models."""

from importlib import import_module
from types import ModuleType

from mmengine.config import Config
from torch import nn

from mmcarafe.errors import InputError

LIBRARIES = {"mmdet": "detection", "mmseg": "segmentation"}
"""The modules of this package, by the scopes of what they import."""

INSTALLED_BY = {"mmdet": "mmdet", "mmseg": "mmsegmentation ftfy regex"}
"""Name what pip installs for a scope."""


def scope_of(cfg: Config) -> str:
    """Return the config's ``default_scope``, or mmdet's where there is none, or a project's own."""
    # a project's own scope looks things up in mmdet's
    return cfg.get("default_scope") if cfg.get("default_scope") in LIBRARIES else "mmdet"


def library_of(cfg: Config) -> ModuleType:
    """Return the module for the library that a config is of.

    Both modules have the same names: ``build``; ``Inferencer`` and ``Output`` of the demo; ``Dump``,
    ``show_predictions``, ``use_tta`` and ``check_tta`` of a test. Importing one registers this package's
    classes with the library.

    Raises:
        InputError: the library is not installed.
    """
    scope = scope_of(cfg)
    try:
        return import_module(f"mmcarafe.apis.{LIBRARIES[scope]}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("mmcarafe"):
            raise
        raise InputError(
            f"the config is of {scope} (its default_scope), which is not all there ({error}): pip install "
            f"{INSTALLED_BY[scope]}"
        ) from error


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config without pretrained weights, in evaluation mode.

    Raises:
        InputError: the library is not installed, the model takes more than an image, or cannot be built.
    """
    return library_of(cfg).build(cfg)
