# SPDX-License-Identifier: Apache-2.0
"""Weights that no CARAFE computes the same with are refused with the reason."""

import pytest
import torch
from fork import COMPRESSOR_BN, COPY, Fork, X

from mmcarafe.checkpoint.converting import convert
from mmcarafe.errors import InputError


@pytest.mark.parametrize(
    ("layout", "bias", "message"),
    [
        (
            COPY.format(COMPRESSOR_BN) + " KPModule.context_encoder.encoder_bn",
            True,
            "^up: a copy of KernelPredeictionModule with BatchNorm has a plain view .* the width, so it is "
            "another operator than CARAFE; train again",
        ),
        (
            COPY.format(""),
            False,
            "^up: a copy of KernelPredeictionModule without BatchNorm has .* the width, or neighbours from "
            "the enlarged map, so it is another operator",
        ),
        (
            "channel_compressor.conv channel_compressor.bn context_encoder.conv context_encoder.bn",
            False,
            "^up: a copy of .* with BatchNorm has neighbours from the enlarged map, so it is another",
        ),
        (
            COPY.format(COMPRESSOR_BN),
            True,
            r"^up: no known copy of .* holds .*compressor_conv.bias, .* no bias;",
        ),
        (
            "channel_compressor context_encoder",
            False,
            "no known copy of .* holds channel_compressor.weight, con",
        ),
    ],
    ids=["view", "no norm", "enlarged", "bias", "bare"],
)
def test_the_other_copies_are_refused_with_what_they_compute(layout, bias, message):
    with pytest.raises(InputError, match=message):
        convert(Fork(layout, bias).state_dict("up."), "none")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"model.13.comp.conv.weight": X, "model.13.encode.conv.weight": X},
            r"; the nearest: "
            r"model.13.comp.conv.weight \(no enc beside it\), model.13.encode.conv.weight$",
        ),
        (
            {"a.content_encoder.weight": X},
            r"nearest: a.content_encoder.weight \(no channel_compressor beside it\)$",
        ),
        ({"channel_compressor.weight": X}, r"\(no content_encoder or context_encoder beside it\)$"),
        (
            {"a.comp.weight": X, "b.enc.weight": X},
            r"a.comp.weight \(no enc .*, b.enc.weight \(no comp beside it\)$",
        ),
        ({"up.channel_compress.weight": X}, "; the nearest: up.channel_compress.weight$"),
        ({f"enc{i}.weight": X for i in range(6)}, "enc3.weight and 2 more$"),
        (
            {"head.weight": X, "comps": torch.ones(1)},
            "channel_compressor/content_encoder, .*, comp/enc, [^;]*$",
        ),
    ],
    ids=["other name", "encoder", "compressor", "apart", "similar", "many", "none"],
)
def test_where_nothing_is_found_what_comes_near_is_named(state, message):
    with pytest.raises(InputError, match=f"^no CARAFE weights found: no two convolutions beside .*{message}"):
        convert(state, "none")


NORM = Fork("comp bn enc").layers["bn"].state_dict()


def norm(path, channels):
    return {f"{path}.{name}": torch.rand(channels if value.ndim else ()) for name, value in NORM.items()}


@pytest.mark.parametrize(
    ("change", "activation", "message"),
    [
        ({}, None, "say with --activation"),
        ({}, "compressor", "behind the compressor alone cannot be worked into a convolution"),
        ({}, "encoder", "behind the encoder alone"),
        (
            {"comp.conv.weight": torch.rand(4, 6, 3, 3)},
            "none",
            "^comp.conv.weight: expected a 1 x 1 convolution",
        ),
        (
            {"enc.conv.weight": torch.rand(36, 5, 3, 3)},
            "none",
            r"^enc.conv.weight: .* the 4 channels .*\(36, 5, 3, 3\)$",
        ),
        (
            {"enc.conv.weight": torch.rand(36, 4, 2, 2)},
            "none",
            r"^enc.conv.weight: .* odd kernel .*\(36, 4, 2, 2\)$",
        ),
        (
            {"enc.conv.weight": torch.rand(36, 4, 3, 5)},
            "none",
            "^enc.conv.weight: expected a square, odd kernel",
        ),
        ({"out.weight": torch.rand(6, 6, 1, 1)}, "none", "^out.weight belongs to a layer that cannot"),
        ({"comp.gn.weight": torch.rand(4)}, "none", "^comp.gn.weight belongs to a layer that cannot"),
        ({"enc.bn.running_var": None}, "none", "^enc.bn.weight belongs to a layer that cannot"),
        ({"gamma": torch.rand(1)}, None, "^gamma belongs to a layer that cannot"),
        (norm("comp.norm", 4), "none", "^comp.norm.weight belongs to a layer that cannot"),
        (norm("attention.bn", 36), "none", "^attention.bn.weight belongs to a layer that cannot"),
        (norm("bn", 36), "none", "^bn.weight belongs to a layer that cannot"),
        (
            norm("bn", 6),
            "none",
            "^bn: with the 6 channels of the feature map it stands in front of the compressor or",
        ),
        (
            norm("bn", 9),
            "none",
            r"^bn: expected .* \(compressor 4, encoder 36, feature map 6\), got one for 9; train",
        ),
        (
            {"comp.conv.weight": torch.rand(4, 36, 1, 1), **norm("bn", 36)},
            "none",
            "^bn: the keys do not tell where it stands, encoder and feature map have 36 channels each; .* "
            r"rename its entries to comp.bn.\* or enc.bn.\*",
        ),
        (
            {"comp.weight": torch.rand(4, 6, 1, 1)},
            "none",
            "^the module has weights under the names of two impl",
        ),
    ],
    ids=[
        "silent",
        "compressor",
        "encoder",
        "kernel",
        "channels",
        "even",
        "oblong",
        "out",
        "norm",
        "statistics",
        "parameter",
        "two norms",
        "elsewhere",
        "two beside",
        "behind all",
        "nowhere",
        "anywhere",
        "twice",
    ],
)
def test_what_has_no_counterpart_is_refused(change, activation, message):
    state = {**Fork().state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    before = dict(state)
    with pytest.raises(InputError, match=message):
        convert(state, activation)
    assert state == before


@pytest.mark.parametrize(
    ("layout", "more"), [("down encoder", "out"), ("channel_compressor content_encoder", "gate")]
)
def test_a_convolution_more_is_not_carafe(layout, more):
    state = {**Fork(layout, bias=True).state_dict("up."), f"up.{more}.weight": torch.rand(6, 6, 1, 1)}
    with pytest.raises(InputError, match=rf"^up\.{more}\.weight belongs to a layer that cannot be worked"):
        convert(state, "none")


ONES = torch.ones(4, 6, 1, 1)


@pytest.mark.parametrize("activation", ["none", "both"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comp.conv.weight": ONES[..., 0, 0]}, r"^comp.conv.weight: .* got float32 of shape \(4, 6\)$"),
        ({"enc.conv.weight": torch.ones(())}, r"^enc.conv.weight: .* got float32 of shape \(\)$"),
        ({"enc.conv.weight": torch.ones(36)}, r"^enc.conv.weight: .* got float32 of shape \(36,\)$"),
        ({"comp.conv.weight": ONES.long()}, r"^comp.conv.weight: expected .*floating-point .* got int64"),
        ({"comp.conv.weight": ONES + 0j}, r"^comp.conv.weight: expected .*floating-point .* got complex64"),
        ({"comp.conv.bias": torch.ones(1)}, r"^comp.conv.bias: .* each of the 4 .* shape \(1,\)$"),
        ({"comp.bn.bias": torch.ones(4, 1)}, r"^comp.bn.bias: .* each of the 4 .* shape \(4, 1\)$"),
        ({"enc.bn.weight": torch.ones(36).long()}, r"^enc.bn.weight: expected a floating-point .* got int64"),
        ({"enc.bn.running_mean": torch.ones(4)}, r"^enc.bn.running_mean: .* each of the 36 .*\(4,\)$"),
        ({"enc.bn.running_var": torch.ones(1)}, r"^enc.bn.running_var: .* each of the 36 .*\(1,\)$"),
        ({"comp.bn.running_var": -torch.ones(4)}, r"^comp.bn.running_var: expected variances, .* got -1$"),
        ({"content_encoder.weight": ONES, "channel_compressor.weight": ONES}, "names of two implementations"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_values_that_would_be_broadcast_or_cast_are_refused(change, message, activation):
    state = {**Fork().state_dict(), **change}
    before = dict(state)
    with pytest.raises(InputError, match=message):
        convert(state, activation)
    assert state == before
