# SPDX-License-Identifier: Apache-2.0
"""The random numbers of a run, of types that can be stored in a checkpoint that is read as data."""

import random

import numpy as np
import torch


def random_state() -> dict:
    """Return the state of Python's, numpy's and torch's generators, of types that can be read as data."""
    name, keys, *rest = np.random.get_state()
    state = dict(python=random.getstate(), numpy=(name, keys.tolist(), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Continue with the random numbers that followed :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def check_random_state(stored: dict) -> None:
    """Try out what :class:`CheckpointHook` stores in ``meta``; generators raise errors of any type."""
    for state in stored["random"]:
        random.Random().setstate(state["python"])
        np.random.RandomState().set_state(state["numpy"])
        torch.Generator().set_state(state["torch"])
    for size in stored["input_sizes"]:
        if size is not None and not all(type(length) is int and length > 0 for length in size):
            raise ValueError(f"expected a height and a width, got {size!r:.40}")
    batches = stored.get("batches", [0, 1])  # absent in files of older versions
    if len(batches) != 2 or any(type(count) is not int for count in batches):
        raise ValueError(f"expected two numbers of batches, got {batches!r:.40}")


def is_epoch_complete(stored: dict) -> bool:
    """Tell whether all batches of an epoch were learnt when :class:`CheckpointHook` stored this."""
    done, every = stored.get("batches", (0, 1))
    return done == every
