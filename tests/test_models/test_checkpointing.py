# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing, whose second pass runs in backward, with a selected upsampler."""

import copy

import pytest
import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch.utils.checkpoint import checkpoint

from mmcarafe import models

PANOPTIC = dict(
    num_things_classes=2, num_stuff_classes=2, in_channels=4, inner_channels=32, end_level=3, fpn_sizes=None
)


def semantic_head(kind):
    options = {name: value for name, value in PANOPTIC.items() if value is not None}
    torch.manual_seed(0)
    return models.PanopticFPNHead(**options, upsample_cfg=dict(type=kind) if kind else None)


def gradients(head):
    torch.manual_seed(1)
    maps = [torch.rand(1, 4, 16 // 2**i, 16 // 2**i, requires_grad=True) for i in range(3)]
    head.zero_grad()
    head(maps)["seg_preds"].square().sum().backward()
    return [p.grad for p in head.parameters()] + [x.grad for x in maps]


@pytest.mark.parametrize("kind", ["CARAFE", "bilinear"])
def test_a_part_that_upsamples_is_refused_whole_components_are_exact(kind):
    """The second pass of a part would run mmdet's interpolation, without a word."""
    head = semantic_head(kind)
    expected = gradients(head)
    part = copy.deepcopy(head)
    turn_on_activation_checkpointing(part, ["conv_upsample_layers.1"])
    with pytest.raises(RuntimeError, match="part of a component in which an upsampler is selected: name the"):
        gradients(part)
    torch.testing.assert_close(gradients(head), expected)
    whole = copy.deepcopy(head)
    forward = whole.forward
    whole.forward = lambda maps: dict(
        seg_preds=checkpoint(lambda *x: forward(list(x))["seg_preds"], *maps, use_reentrant=True)
    )
    torch.testing.assert_close(gradients(whole), expected)
    convolutions = copy.deepcopy(head)
    turn_on_activation_checkpointing(convolutions, ["conv_logits"])
    torch.testing.assert_close(gradients(convolutions), expected)


def test_mmdets_own_interpolation_is_left_alone():
    head = semantic_head(None)
    expected = gradients(head)
    turn_on_activation_checkpointing(head, ["conv_upsample_layers.1"])
    torch.testing.assert_close(gradients(head), expected)
