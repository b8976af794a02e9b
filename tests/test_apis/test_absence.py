# SPDX-License-Identifier: Apache-2.0
"""What a detector needs and has not is named; faults keep their trace."""

import pytest
import torch
from mmcv.ops import carafe
from mmdet import models
from mmdet.registry import MODELS

import mmcarafe.apis.detection  # noqa: F401  registers the heads
from mmcarafe.apis.config import BUILDERS, KERNELS, absence_named
from mmcarafe.errors import InputError


def test_a_missing_kernel_is_named():
    with (
        pytest.raises(InputError, match=r"it does not run: .*implementation for device cpu not found"),
        absence_named("it does not run", KERNELS),
    ):
        carafe(torch.zeros(1, 4, 2, 2), torch.zeros(1, 25, 4, 4), 5, 1, 2)


def test_a_fault_keeps_its_trace():
    layer = models.FPN([4, 8], 4, 2)
    with pytest.raises(RuntimeError, match="expected input"), absence_named("", BUILDERS):
        layer([torch.zeros(1, 5, 4, 4), torch.zeros(1, 8, 2, 2)])
    with pytest.raises(TypeError, match="NoneType"), absence_named("", BUILDERS):
        len(None)


@pytest.mark.parametrize("name", ["SSDHead", "PISASSDHead"])
def test_mmdets_heads_without_a_loss_are_left_as_they_are(name):
    ours, theirs = MODELS.get(name), getattr(models, name)
    assert ours.loss_cls is None and issubclass(ours, theirs)
    assert not hasattr(theirs, "loss_cls")
