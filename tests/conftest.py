# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test: the same random numbers, NaN in uninitialised memory, CUDA mark, stock mmdet.

Tests of the operator need torch and pytest only: what imports mmdet is imported where it is asked for.
"""

import importlib
import os
import random
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import settings
from packaging.version import Version

if not torch.cuda.is_available():
    # read when Triton is imported: its kernels then run on CPU tensors, in Python
    os.environ["TRITON_INTERPRET"] = "1"

from samples import loop

from mmcarafe.ops import use_cpu_implementation

# For tests that state no number of examples of their own; --hypothesis-profile=long asks for the other.
settings.register_profile("short", max_examples=30)
settings.register_profile("long", max_examples=1300)
settings.load_profile("short")


def pytest_configure(config):
    # the NaN fixture asks torch for determinism; on CUDA some of torch's own backward passes have none
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation")
    # torch.jit is deprecated, not gone, and torch itself still uses it
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit:DeprecationWarning")
    # tensors are so small that a second thread only adds waiting
    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    if item.get_closest_marker("needs_cuda") and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    for mark in item.iter_markers("needs"):
        for package, version in mark.kwargs.items():
            found = {d.name: d.version for d in metadata.distributions(name=package)}.get(package, version)
            if Version(found) < Version(version):
                pytest.skip(f"known to fail before {package} {version}, see the README's combinations")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nan_in_uninitialised_memory():
    """What ``torch.empty`` returns is filled with NaN, so that an element never written is found."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def implementation(request):
    """The name of the implementation that CPU tensors are given to; parametrised in ``samples``."""
    with use_cpu_implementation(request.param):
        yield request.param


@pytest.fixture
def mmcv_on_cpu(monkeypatch):
    """Gives mmcv's CARAFE, which is CUDA only, the loop as its operator."""
    monkeypatch.setattr(importlib.import_module("mmcv.ops.carafe"), "carafe", loop)


@contextmanager
def mmdets_classes():
    """While active, the registry has mmdet's own classes under the names taken over."""
    from mmdet.registry import MODELS

    from mmcarafe import models

    ours = {name: getattr(models, name) for name in models.__all__ if name != "CARAFE"}
    try:
        for name, kind in ours.items():
            theirs = [c for c in kind.__mro__ if c.__name__ == name and c.__module__.startswith("mmdet.")]
            MODELS.register_module(name=name, module=theirs[0], force=True)
        yield
    finally:
        for name, kind in ours.items():
            MODELS.register_module(name=name, module=kind, force=True)


@pytest.fixture(scope="session")
def stock():
    """``with stock(): MODELS.build(...)`` builds mmdet's own."""
    return mmdets_classes
