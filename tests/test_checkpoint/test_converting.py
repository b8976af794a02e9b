# SPDX-License-Identifier: Apache-2.0
"""Weights of other implementations give the same outputs here."""

import pytest
import torch
from fork import COMPRESSOR_BN, COPY, Fork, X, ours
from mmcv.ops import CARAFEPack
from samples import assert_close
from torch import nn

from mmcarafe.checkpoint.converting import convert
from mmcarafe.errors import InputError
from mmcarafe.layers import CARAFE


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "layout",
    [
        "comp enc",
        "comp.conv enc.conv",
        "comp.conv comp.bn enc.conv enc.bn",
        "comp.conv comp.bn enc",
        "comp enc.conv enc.bn",
        "comp.conv comp.bn enc bn",
        "comp bn enc",
        "comp enc enc_bn",
        "comp bn1 enc bn2",
        "comp.0 comp.1 enc",
        "comp.0 comp.1 enc.0 enc.1",
        "comp.conv comp.norm enc",
        "comp act1 enc act2",
        "comp bn act1 enc act2",
        "comp.conv comp.bn comp.act enc.conv enc.bn enc.act",
        "channel_compressor.conv channel_compressor.bn content_encoder.conv content_encoder.bn",
        "channel_compressor.conv channel_compressor.norm content_encoder",
        "channel_compressor content_encoder bn",
        "down encoder",
        "compress_conv encoder_conv",
    ],
)
def test_a_module_of_another_layout_gives_the_same_outputs(layout, bias):
    module = Fork(layout, bias, eps=1e-3)
    state = {**module.state_dict("model.13."), "model.14.conv.weight": X}
    activation = "both" if "act" in layout else "none"
    (line,) = convert(state, activation, eps=1e-3)
    names = [path for path, layer in module.layers.items() if isinstance(layer, nn.Conv2d)]
    assert line.startswith(f"model.13: {names[0]} -> channel_compressor")
    assert f", {names[1]} -> content_encoder" in line
    assert line.count("worked in") == sum(isinstance(v, nn.BatchNorm2d) for v in module.layers.values())
    assert state.pop("model.14.conv.weight") is X
    layer = ours(state, "model.13.", act_cfg=dict(type="ReLU") if activation == "both" else None)
    assert_close(layer(X), module(X), rtol=1e-9, atol=1e-9)


def test_the_copy_of_a_blogs_module_that_is_carafe_needs_no_activation():
    module = Fork(COPY.format(COMPRESSOR_BN))
    state = module.state_dict("up.")
    assert convert(state) == [
        "up: KPModule.channel_compressor.compressor_conv -> channel_compressor with "
        "KPModule.channel_compressor.compressor_bn worked in, "
        "KPModule.context_encoder.encoder_conv -> content_encoder"
    ]
    assert not state["up.content_encoder.bias"].any()
    assert_close(ours(state, "up.")(X), module(X), rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match=r"^up: an activation behind the compressor alone"):
        convert(module.state_dict("up."), "compressor")


def test_a_batch_norm_without_weights_is_folded_too():
    module = Fork(affine=False)
    state = module.state_dict()
    convert(state, "none")
    assert_close(ours(state)(X), module(X), rtol=1e-9, atol=1e-9)


def test_every_module_of_a_model_is_converted_and_nothing_else_is_touched():
    state = {**Fork().state_dict("neck.0."), **Fork("comp enc").state_dict("neck.1."), "head.weight": X}
    lines = convert(state, "none")
    assert [line.split(":")[0] for line in lines] == ["neck.0", "neck.1"]
    assert state.pop("head.weight") is X
    assert {key.split(".")[2] for key in state} == {"channel_compressor", "content_encoder"}


def test_a_part_that_is_alone_is_named_and_stays():
    state = {**Fork().state_dict("a."), "b.enc.0.weight": X, "c.down.weight": X}
    assert convert(state, "none")[1:] == ["b.enc.0.weight: left as it is, there is no comp beside it"]
    assert state["b.enc.0.weight"] is X


def test_our_names_need_nothing():
    kept = CARAFE(6, norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))
    for module in (CARAFEPack(6, 2), kept):
        state = {f"neck.{key}": value for key, value in module.state_dict().items()}
        before = dict(state)
        assert convert(state) == ["neck: named as here already"]
        assert state == before


def test_a_batch_norm_that_the_user_has_placed_is_folded():
    module = Fork("comp enc bn")
    placed = {
        key.replace("bn.", "enc.bn.") if key.startswith("bn.") else key: v
        for key, v in module.state_dict().items()
    }
    convert(placed, "none")
    assert_close(ours(placed)(X), module(X), rtol=1e-9, atol=1e-9)


def test_a_fold_beyond_the_range_of_the_numbers_is_refused():
    state = {key: value.half() for key, value in Fork().state_dict().items()}
    state["enc.bn.running_var"] = torch.zeros(36).half()
    state["enc.bn.weight"] = torch.full((36,), 6e4).half()
    with pytest.raises(InputError, match=r"^enc.conv.weight: .* beyond the range of torch.float16"):
        convert(state, "none")
