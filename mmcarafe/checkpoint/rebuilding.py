# SPDX-License-Identifier: Apache-2.0
"""Rebuild what torch loads from plain types, so that nothing of a file's own making is left in it."""

from collections import Counter, OrderedDict

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import Tensor, nn

from mmcarafe.checkpoint.allow_list import DTYPES, NUMBERS, RefusedError, word

# types without attributes; a history was made anew from its numbers when it was loaded
PLAIN_TYPES = (
    type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout,
    HistoryBuffer, np.ndarray, *(np.dtype(code).type for code in NUMBERS), *DTYPES,
)  # fmt: skip


def rebuild(content: object) -> object:
    """Return a copy of what torch loaded: dicts, lists, tuples, sets, numbers, strings and plain tensors.

    torch restores attributes of tensors and ordered dicts, which can hide their methods: ``isfinite`` or
    ``items`` would then say what a file wants. Tensors share their data with the original ones; what is in
    several places, or inside itself, is so in the copy. The time it takes is in proportion to the number of
    objects, however deep or often they are nested.

    Raises:
        RefusedError: there is anything else, a function for instance, or an attribute other than FSDP's.
    """
    copies: dict[int, object] = {}  # by the id of the original
    unfilled, waiting = [], [content]
    while waiting:
        stack = [waiting.pop()]
        while stack:
            value = stack[-1]
            if id(value) in copies:
                stack.pop()
            elif type(value) not in (tuple, torch.Size, set):
                copies[id(value)] = copy = _begin(value)
                if isinstance(copy, (dict, list)):
                    unfilled.append((value, copy))
                    waiting += _parts(value)
            # these cannot be filled later, and are made of what was there before them: no circles among them
            elif missing := [part for part in value if id(part) not in copies]:
                stack += missing
            else:
                copies[id(value)] = type(value)(copies[id(part)] for part in value)
    for value, copy in unfilled:
        if isinstance(copy, list):
            copy += [copies[id(part)] for part in value]
            continue
        for key, part in value.items():
            copy[copies[id(key)]] = copies[id(part)]
        if metadata := getattr(value, "_metadata", None):  # of a module's state dict
            copy._metadata = copies[id(metadata)]
    return copies[id(content)]


def _begin(value: object) -> object:
    """Return the copy of a value; of a dict or a list an empty one."""
    kind, attributes = type(value), getattr(value, "__dict__", {})
    if kind in PLAIN_TYPES:
        return value
    if kind is OrderedDict and type(attributes.get("_metadata")) in (dict, OrderedDict, type(None)):
        attributes = attributes.keys() - {"_metadata"}
    if kind is Tensor:  # FSDP's own note on what it gathered, which the copy is without
        attributes = attributes.keys() - {"_has_been_cloned"}
    if attributes:
        raise RefusedError(f"it sets attributes of {word(value)}")
    if kind in (Tensor, nn.Parameter):
        return value.detach()
    if kind in (dict, OrderedDict, Counter, list):
        return kind()
    raise RefusedError(f"it holds {word(value)}")


def _parts(value: dict | list) -> list:
    if isinstance(value, list):
        return value
    return [*value, *value.values(), getattr(value, "_metadata", None)]
