# SPDX-License-Identifier: Apache-2.0
"""What a hostile checkpoint holds, and how it is written and refused."""

import pytest
import torch

from mmcarafe.checkpoint.state_dict import read_state_dict
from mmcarafe.errors import InputError

CODE = "open('marker', 'w').close()"


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def zipped(content, path):
    torch.save(content, path)


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def refusal(path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as refused:
        read_state_dict(str(path))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"checkpoint {path} ")
    return sentence
