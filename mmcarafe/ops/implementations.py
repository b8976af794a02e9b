# SPDX-License-Identifier: Apache-2.0
"""The implementations of the operator on each device, and choosing one by hand."""

from collections.abc import Iterator
from contextlib import contextmanager

from . import cpu, cuda

DEVICES = {"cpu": cpu, "cuda": cuda}


def implementations(device: str) -> list[str]:
    """List the implementations for tensors on a device, ``"cpu"`` or ``"cuda"``.

    On a CPU they are those that this build and machine have, fastest first. Whether one of those for CUDA can
    run depends on the call, too.

    Example:
        >>> from mmcarafe.ops import implementations
        >>> implementations("cuda")
        ['triton', 'mmcv', 'reference']
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    return DEVICES[device].names()


@contextmanager
def use_implementation(device: str, name: str) -> Iterator[None]:
    """Run the operator on tensors of a device with one implementation, for tests and comparisons.

    Affects all threads. On a CPU none but the caller may be running the operator at the beginning and at the
    end: torch's table of kernels is changed, which is not safe while it is read. On CUDA a call that the
    implementation cannot serve is an error that says why; a backward pass is served by what is chosen when it
    runs, so it belongs inside too.

    Args:
        device (str): ``"cpu"`` or ``"cuda"``.
        name (str): one of :func:`implementations`.

    Raises:
        ValueError: there is no such device, or no such implementation for it here.

    Example:
        >>> import torch
        >>> from mmcarafe.ops import carafe, use_implementation
        >>> with use_implementation("cpu", "reference"):
        ...     carafe(torch.rand(1, 4, 6, 6), torch.rand(1, 9, 12, 12), 3, 1, 2).shape
        torch.Size([1, 4, 12, 12])
    """
    if name not in (known := implementations(device)):
        raise ValueError(
            f"implementation for {device} tensors: expected one of {', '.join(known)}, got {name!r}"
        )
    with DEVICES[device].using(name):
        yield
