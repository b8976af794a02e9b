# SPDX-License-Identifier: Apache-2.0
"""A part that fixes its size cannot be exported for others, and says so."""

import pytest
import torch
from torch import nn

from mmcarafe.deploy.exporting import program_of
from mmcarafe.deploy.parts import Part
from mmcarafe.errors import InputError


class OfOneSize(nn.Module):
    def forward(self, image):
        return image + torch.zeros(192, 1)


@pytest.mark.needs(torch="2.10")
def test_a_fixed_size_is_named():
    part = Part(OfOneSize(), (torch.rand(2, 3, 192, 224),), [1])
    assert program_of(part, dynamic=False)
    with pytest.raises(InputError, match=r"--dynamic: this model fixes a size .* leave --dynamic out"):
        program_of(part, dynamic=True)
