# SPDX-License-Identifier: Apache-2.0
"""Weights of other implementations give the same outputs here, or are refused with the reason."""

import resource

import pytest
import torch
from commands import call, refused
from mmcv.ops import CARAFEPack
from samples import assert_close
from torch import nn

from mmcarafe.checkpoint.converting import check_target, convert, write
from mmcarafe.errors import InputError
from mmcarafe.layers import CARAFE


class Fork:
    """The operator as public PyTorch modules compute it; a layout has the paths of its layers, in order."""

    def __init__(self, layout="comp.conv comp.bn enc.conv enc.bn", bias=False, eps=1e-5, affine=True):
        self.layers, channels, sizes = {}, 6, iter([(4, 1), (36, 3)])
        for path in layout.split():
            name = path.rsplit(".", 1)[-1]
            if "bn" in name or name in ("norm", "1"):
                self.layers[path] = nn.BatchNorm2d(channels, eps, affine=affine)
            elif "act" in name:
                self.layers[path] = nn.ReLU()
            else:
                before, (channels, kernel) = channels, next(sizes)
                self.layers[path] = nn.Conv2d(before, channels, kernel, padding=kernel // 2, bias=bias)
        for layer in self.layers.values():
            for tensor in layer.state_dict().values():
                tensor.abs_().add_(1) if tensor.ndim == 0 else nn.init.normal_(tensor)
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_var, 0.1, 2)
            layer.double().eval()

    def state_dict(self, prefix=""):
        return {
            f"{prefix}{path}.{key}": value
            for path, layer in self.layers.items()
            for key, value in layer.state_dict().items()
        }

    @torch.no_grad()
    def __call__(self, x):
        masks = x
        for layer in self.layers.values():
            masks = layer(masks)
        masks = nn.functional.pixel_shuffle(masks, 2).softmax(1)
        enlarged = nn.functional.interpolate(x, scale_factor=2)
        neighbours = nn.functional.unfold(enlarged, 3, dilation=2, padding=2)
        return (neighbours.view(*x.shape[:2], 9, *enlarged.shape[2:]) * masks[:, None]).sum(2)


def ours(state, prefix="", **options):
    layer = CARAFE(6, up_kernel=3, compressed_channels=4, **options).double().eval()
    layer.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()}, strict=True)
    return layer


X = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0)).double()
COPY = "KPModule.channel_compressor.compressor_conv {}KPModule.context_encoder.encoder_conv"
COMPRESSOR_BN = "KPModule.channel_compressor.compressor_bn "


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


def test_our_names_need_nothing():
    kept = CARAFE(6, norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))
    for module in (CARAFEPack(6, 2), kept):
        state = {f"neck.{key}": value for key, value in module.state_dict().items()}
        before = dict(state)
        assert convert(state) == ["neck: named as here already"]
        assert state == before


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


def test_a_batch_norm_that_the_user_has_placed_is_folded():
    module = Fork("comp enc bn")
    placed = {
        key.replace("bn.", "enc.bn.") if key.startswith("bn.") else key: v
        for key, v in module.state_dict().items()
    }
    convert(placed, "none")
    assert_close(ours(placed)(X), module(X), rtol=1e-9, atol=1e-9)


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


def test_a_fold_beyond_the_range_of_the_numbers_is_refused():
    state = {key: value.half() for key, value in Fork().state_dict().items()}
    state["enc.bn.running_var"] = torch.zeros(36).half()
    state["enc.bn.weight"] = torch.full((36,), 6e4).half()
    with pytest.raises(InputError, match=r"^enc.conv.weight: .* beyond the range of torch.float16"):
        convert(state, "none")


def test_the_command_writes_a_checkpoint_and_never_over_one(tmp_path):
    module = Fork()
    torch.save(dict(meta=dict(epoch=3), state_dict=module.state_dict()), tmp_path / "theirs.pth")
    done = call("convert_checkpoint.py", "theirs.pth", "ours.pth", "--activation", "none", cwd=tmp_path)
    assert "comp.conv -> channel_compressor" in done.stdout
    assert "outputs are the source's where its forward calls pixel_shuffle" in done.stdout
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert written["meta"] == dict(epoch=3)
    assert_close(ours(written["state_dict"])(X), module(X), rtol=1e-9, atol=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pth", "theirs.pth"]
    refused("convert_checkpoint.py", "theirs.pth", "ours.pth", cwd=tmp_path, match="ours.pth exists")
    refused("convert_checkpoint.py", "no.pth", "new.pth", cwd=tmp_path, match="no.pth does not exist")
    torch.save(dict(a=torch.ones(1)), tmp_path / "other.pth")
    refused("convert_checkpoint.py", "other.pth", "new.pth", cwd=tmp_path, match="no CARAFE weights found")
    (broken := module.state_dict())["comp.bn.running_var"].fill_(float("nan"))
    torch.save(broken, tmp_path / "nan.pth")
    refused("convert_checkpoint.py", "nan.pth", "new.pth", cwd=tmp_path, match="holds NaN or infinity in 1")


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Fork().state_dict(), "theirs.pth")
    with pytest.raises(InputError, match=r"gone/ours.pth: folder gone does not exist"):
        check_target("gone/ours.pth")
    (tmp_path / "mine").write_text("mine")
    for name in ("link.pth", "ours.pth.partial"):
        (tmp_path / name).symlink_to("mine" if "ours" in name else "nowhere")
        with pytest.raises(InputError, match=f"^{name} exists"):
            check_target(name.removesuffix(".partial"))
        (tmp_path / name).unlink()
    assert (tmp_path / "mine").read_text() == "mine"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: 'ours.pth'"):
            write(Fork().state_dict(), "ours.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "theirs.pth"]
    refused("convert_checkpoint.py", "theirs.pth", "gone/a.pth", cwd=tmp_path, match="folder gone does not")
    eps = ("--bn-eps", "nan")
    refused("convert_checkpoint.py", "theirs.pth", "a.pth", *eps, cwd=tmp_path, match="--bn-eps: expected")
