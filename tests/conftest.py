# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test: the same random numbers, NaN in uninitialised memory, CUDA mark, stock mmdet.

Tests of the operator need torch and pytest only: what imports mmdet is imported where it is asked for.
"""

import gc
import importlib
import os
import pickle
import random
import shutil
import sys
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from packaging.version import Version

if not torch.cuda.is_available():
    # read when Triton is imported: its kernels then run on CPU tensors, in Python
    os.environ["TRITON_INTERPRET"] = "1"

from samples import loop

from mmcarafe.ops import use_implementation

# For tests that state no number of examples of their own; --hypothesis-profile=long asks for the other.
settings.register_profile("short", max_examples=30)
settings.register_profile("long", max_examples=1300)
settings.load_profile("short")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run what takes long")


def pytest_configure(config):
    # the NaN fixture asks torch for determinism; on CUDA some of torch's own backward passes have none
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation")
    # torch.jit is deprecated, not gone, and torch itself still uses it
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit:DeprecationWarning")
    # tensors are so small that a second thread only adds waiting
    torch.set_num_threads(1)
    # on a GPU convolutions would round float32 to 10 bits, and tests compare with the CPU's
    torch.backends.cudnn.allow_tf32 = False


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="--slow runs it"))
    if not torch.cuda.is_available():
        config.left_out = [item for item in items if item.get_closest_marker("needs_cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("needs_cuda")]


def pytest_collection_finish(session):
    """Spare the tests what mmengine does anew for each config and data set, half of their time.

    It reads the 102 files of mmdet's index for a base config of mmdet, formats a config for each line and
    checkpoint that holds it, and collects garbage after a data set is read. With the modules imported by now
    left out, and texts and files that were seen before taken from memory, the results are the same.
    """
    gc.freeze()
    if config := sys.modules.get("mmengine.config.config"):
        yapf_api = importlib.import_module("yapf.yapflib.yapf_api")
        yapf_api.FormatCode = seen_before(yapf_api.FormatCode)
        if hasattr(config, "FormatCode"):  # onedl-mmengine's imports it where it formats
            config.FormatCode = yapf_api.FormatCode
        utils = sys.modules["mmengine.config.utils"]
        utils.load = seen_before(utils.load)


def seen_before(function):
    """The function, called once for the same arguments, each caller with a copy of the result."""
    results = {}

    def call(*args, **kwargs):
        key = repr((args, sorted(kwargs.items())))
        if key not in results:
            results[key] = pickle.dumps(function(*args, **kwargs))
        return pickle.loads(results[key])

    return call


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Keep what a worker of pytest-xdist says, unless it crashed; all workers collect the same tests."""
    if said := getattr(node, "workeroutput", None):
        node.config.left_out = said.get("left_out", 0)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = len(getattr(session.config, "left_out", ()))


def pytest_terminal_summary(terminalreporter, config):
    left_out = getattr(config, "left_out", 0)
    if count := left_out if isinstance(left_out, int) else len(left_out):
        terminalreporter.write_line(f"{count} tests need a GPU and were left out: torch sees no CUDA device")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs"):
        for package, version in mark.kwargs.items():
            found = {d.name: d.version for d in metadata.distributions(name=package)}.get(package, version)
            if Version(found) < Version(version):
                pytest.skip(f"known to fail before {package} {version}, see docs/compatibility.md")


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


def registries() -> list:
    """mmengine's registries and the libraries' below them, as far as they are imported."""
    module = sys.modules.get("mmengine.registry")
    found = [each for each in vars(module).values() if isinstance(each, module.Registry)] if module else []
    return found + [child for each in found for child in each.children.values()]


@pytest.fixture(autouse=True)
def registries_as_before():
    """What a test registers is gone after it; what libraries register when a test imports them stays."""
    before = {registry: dict(registry.module_dict) for registry in registries()}
    yield
    for registry in registries():
        earlier, now = before.get(registry, {}), registry.module_dict
        for name in [name for name, kind in now.items() if kind is not earlier.get(name)]:
            module = getattr(now[name], "__module__", "")
            if module == "__main__" or module.startswith("test_"):  # a guide's block is run as __main__
                del now[name]
                now.update({name: earlier[name]} if name in earlier else {})


@pytest.fixture
def unprotected(monkeypatch):
    """Lets a test load without restrictions as well; the commands' setting would forbid it."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)


@pytest.fixture
def implementation(request):
    """The name of the implementation that CPU tensors are given to; parametrised in ``samples``."""
    with use_implementation("cpu", request.param):
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


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A folder with data/shapes (6 + 3 images) in it, where the commands are run."""
    from commands import call

    folder = tmp_path_factory.mktemp("toy")
    call("make_shapes_dataset.py", "data/shapes", "--train", 6, "--val", 3, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory, worker_id) -> Path:
    """A work directory with a checkpoint of one epoch: trained once, and copied for each worker."""
    from commands import CONFIG, SMALL, tool

    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(shared / "trained.lock"):
        if not (shared / "trained").is_dir():
            work_dir = toy / "work"
            short = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
            tool("train.py", CONFIG, "--work-dir", work_dir, "--cfg-options", *SMALL, *short, cwd=toy)
            shutil.copytree(work_dir, shared / "trained")
    return Path(shutil.copytree(shared / "trained", toy / "work", dirs_exist_ok=True))
