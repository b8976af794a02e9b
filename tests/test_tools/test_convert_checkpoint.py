# SPDX-License-Identifier: Apache-2.0
"""Weights of other implementations give the same outputs here, or are refused with the reason."""

import resource

import pytest
import torch
from common import InputError
from convert_checkpoint import check_target, convert, write
from mmcv.ops import CARAFEPack
from samples import assert_close, loop
from test_train_and_test import refused, tool
from torch import nn

from mmcarafe.layers import CARAFE


class ConvNorm(nn.Module):
    """A convolution without bias and a BatchNorm, as projects wrap them."""

    def __init__(self, channels, out_channels, kernel, eps, activation):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)
        self.act = nn.ReLU() if activation else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Wrapped(nn.Module):
    """The operator with wrapped convolutions; ``names`` are those of the two wrappers."""

    def __init__(self, names=("comp", "enc"), eps=1e-5, activations=(False, False)):
        super().__init__()
        self.names = names
        self.add_module(names[0], ConvNorm(6, 4, 1, eps, activations[0]))
        self.add_module(names[1], ConvNorm(4, 36, 3, eps, activations[1]))

    def forward(self, x):
        masks = x
        for name in self.names:
            masks = getattr(self, name)(masks)
        return loop(x, nn.functional.pixel_shuffle(masks, 2).softmax(1), 3, 1, 2)


def trained(**options):
    """A module whose norms have seen data and whose kernels are far from uniform, in evaluation mode."""
    module = Wrapped(**options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module(torch.randn(8, 6, 4, 4).double())
    return module.eval()


def ours(state, **options):
    layer = CARAFE(6, up_kernel=3, compressed_channels=4, **options).double().eval()
    layer.load_state_dict(state, strict=True)
    return layer


X = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("names", [("comp", "enc"), ("channel_compressor", "content_encoder")], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_a_batch_norm_is_folded_exactly(names, eps):
    module = trained(names=names, eps=eps)
    state = module.state_dict()
    (line,) = convert(state, "none", eps)
    assert f"{names[0]}.conv -> channel_compressor with its BatchNorm" in line
    assert set(state) == set(CARAFE(6).state_dict())
    assert_close(ours(state)(X), module(X), rtol=1e-9, atol=1e-9)


def test_a_batch_norm_without_weights_is_folded_too():
    module = trained()
    module.comp.bn = nn.BatchNorm2d(4, affine=False).double()
    module.train()(torch.randn(8, 6, 4, 4).double())
    module.eval()
    state = module.state_dict()
    convert(state, "none")
    assert_close(ours(state)(X), module(X), rtol=1e-9, atol=1e-9)


def test_norms_with_an_activation_behind_both_are_kept():
    module = trained(activations=(True, True))
    state = module.state_dict()
    convert(state, "both")
    layer = ours(state, norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))
    assert_close(layer(X), module(X), rtol=1e-9, atol=1e-9)


def test_every_module_of_a_model_is_converted_and_nothing_else_is_touched():
    model = nn.ModuleDict(dict(neck=nn.ModuleList([trained(), trained()]), head=nn.Linear(2, 2)))
    state = model.state_dict()
    head = state["head.weight"]
    lines = convert(state, "none")
    assert [line.split(":")[0] for line in lines] == ["neck.0", "neck.1"]
    assert state["head.weight"] is head
    assert {key.split(".")[2] for key in state if key.startswith("neck")} == {
        "channel_compressor",
        "content_encoder",
    }


def test_our_names_need_nothing():
    state = {f"neck.{key}": value for key, value in CARAFEPack(6, 2).state_dict().items()}
    before = dict(state)
    assert convert(state) == ["neck: named as here already"]
    assert state == before


@pytest.mark.parametrize(
    ("change", "activation", "message"),
    [
        ({}, None, "say with --activation"),
        ({}, "compressor", "behind the compressor alone cannot be worked into a convolution"),
        ({}, "encoder", "behind the encoder alone"),
        ({"comp.conv.weight": torch.rand(4, 6, 3, 3)}, "none", "expected a 1 x 1 convolution"),
        ({"out.weight": torch.rand(6, 6, 1, 1)}, "none", "^out.weight belongs to a layer that cannot"),
        ({"comp.gn.weight": torch.rand(4)}, "none", "^comp.gn.weight belongs to a layer that cannot"),
        ({"enc.bn.running_var": None}, "none", "^enc.bn.weight belongs to a layer that cannot"),
    ],
    ids=["silent", "compressor", "encoder", "kernel", "out", "norm", "statistics"],
)
def test_what_has_no_counterpart_is_refused(change, activation, message):
    state = {**trained().state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    before = dict(state)
    with pytest.raises(InputError, match=message):
        convert(state, activation)
    assert state == before


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
    state = {**trained().state_dict(), **change}
    before = dict(state)
    with pytest.raises(InputError, match=message):
        convert(state, activation)
    assert state == before


def test_a_fold_beyond_the_range_of_the_numbers_is_refused():
    state = {key: value.half() for key, value in trained().state_dict().items()}
    state["enc.bn.running_var"] = torch.zeros(36).half()
    state["enc.bn.weight"] = torch.full((36,), 6e4).half()
    with pytest.raises(InputError, match=r"^enc.conv.weight: .* beyond the range of torch.float16"):
        convert(state, "none")


def test_a_layout_with_several_operators_is_refused():
    state = {
        "channel_compressor.compressor_conv.weight": torch.rand(4, 6, 1, 1),
        "context_encoder.encoder_conv.weight": torch.rand(36, 4, 3, 3),
    }
    with pytest.raises(InputError, match="softmax over the width"):
        convert(state, "none")


def test_the_command_writes_a_checkpoint_and_never_over_one(tmp_path):
    module = trained()
    torch.save(dict(meta=dict(epoch=3), state_dict=module.state_dict()), tmp_path / "theirs.pth")
    done = tool("convert_checkpoint.py", "theirs.pth", "ours.pth", "--activation", "none", cwd=tmp_path)
    assert "comp.conv -> channel_compressor" in done.stdout
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
    torch.save(trained().state_dict(), "theirs.pth")
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
            write(trained().state_dict(), "ours.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "theirs.pth"]
    refused("convert_checkpoint.py", "theirs.pth", "gone/a.pth", cwd=tmp_path, match="folder gone does not")
    eps = ("--bn-eps", "nan")
    refused("convert_checkpoint.py", "theirs.pth", "a.pth", *eps, cwd=tmp_path, match="--bn-eps: expected")
