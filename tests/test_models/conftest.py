# SPDX-License-Identifier: Apache-2.0
"""mmdet as it is without this package, in the same process."""

from contextlib import contextmanager

import pytest
from mmdet.registry import MODELS

from mmcarafe import models


@contextmanager
def mmdets_classes():
    """While active, the registry has mmdet's own classes under the names taken over."""
    ours = {name: getattr(models, name) for name in models.__all__ if name != "CARAFE"}
    try:
        for name, kind in ours.items():
            theirs = [c for c in kind.__mro__ if c.__name__ == name and c.__module__.startswith("mmdet.")]
            MODELS.register_module(name=name, module=theirs[0], force=True)
        yield
    finally:
        for name, kind in ours.items():
            MODELS.register_module(name=name, module=kind, force=True)


@pytest.fixture
def stock():
    """``with stock(): MODELS.build(...)`` builds mmdet's own."""
    return mmdets_classes
