# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU kernels: loading them, and choosing between them and the reference."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
from torch.library import Library

from .carafe import DEFAULT_KERNELS
from .carafe_downsample import DOWNSAMPLE_KERNELS


def load() -> None:
    """Load the compiled kernels, unless ``MMCARAFE_CPU`` says ``reference``; warn where they cannot be.

    ``MMCARAFE_CPU`` may also name one of ``implementations("cpu")``, to be used instead of the best.
    """
    wanted = os.environ.get("MMCARAFE_CPU", "")
    if wanted == "reference":
        return
    try:
        import_module("mmcarafe._C")
    except ImportError as error:
        warnings.warn(
            f"CARAFE's compiled CPU kernels are missing ({error}); it runs in plain PyTorch, several times "
            "slower. To build them: pip install -e . --no-build-isolation (needs torch and a C++ compiler)",
            stacklevel=2,
        )
        return
    if wanted:
        torch.ops.mmcarafe._use_variant(wanted)


def names() -> list[str]:
    """List what this build and machine have, fastest first; the last is ``reference``."""
    compiled = hasattr(torch.ops.mmcarafe, "_available_variants")
    return [*(torch.ops.mmcarafe._available_variants() if compiled else []), "reference"]


@contextmanager
def using(name: str) -> Iterator[None]:
    """Run the operator on CPU tensors with one of :func:`names` while active."""
    if name != "reference":
        previous = torch.ops.mmcarafe._use_variant(name)
        try:
            yield
        finally:
            torch.ops.mmcarafe._use_variant(previous)
        return
    override = Library("mmcarafe", "IMPL", "CPU")
    try:
        with warnings.catch_warnings():
            # overriding a registered kernel is the purpose
            warnings.filterwarnings("ignore", message="(?s)Warning only once for all operators")
            for op, kernel in (DEFAULT_KERNELS | DOWNSAMPLE_KERNELS).items():
                override.impl(op, kernel)
        yield
    finally:
        override._destroy()
