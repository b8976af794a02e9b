# SPDX-License-Identifier: Apache-2.0
"""What mmengine and mmdet load passes the tools' checks, whatever its layout, and only data does."""

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import train
from hostile import CODE, Call
from mmdet.models.backbones import DetectoRS_ResNet, PyramidVisionTransformer, SwinTransformer
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule, PretrainedInit, initialize
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from mmcarafe.checkpoint.state_dict import load_from_local
from mmcarafe.errors import InputError

pytestmark = pytest.mark.usefixtures("unprotected")
TINY = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2)
# mmdet's names of Swin's parameters, and those of its authors
OFFICIAL = (
    ("stages.", "layers."), ("attn.w_msa.", "attn."), ("ffn.layers.0.0.", "mlp.fc1."),
    ("ffn.layers.1.", "mlp.fc2."), ("patch_embed.projection", "patch_embed.proj"),
)  # fmt: skip


class Backbone(BaseModule):
    """Initialised as its ``init_cfg`` says."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 2, 1)


def ones() -> OrderedDict:
    return OrderedDict({"conv.weight": torch.ones(2, 3, 1, 1), "conv.bias": torch.ones(2)})


def prefixed(prefix: str) -> dict:
    return {prefix + key: value for key, value in ones().items()}


@pytest.fixture
def path(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return "weights.pth"


LAYOUTS = {
    "bare": ones(),
    "state_dict": dict(state_dict=ones(), meta=dict(epoch=1)),
    "parallel": dict(state_dict=prefixed("module."), optimizer=dict(a=torch.tensor(torch.nan))),
    "numbers": {**ones(), "epoch": 3, "classes": ("a", "b")},
    "mask": {**ones(), "text.attn_mask": torch.full((3, 3), -torch.inf).triu(1)},
}  # fmt: skip
PRETRAINED = {
    "dict": lambda path: Backbone(dict(type="Pretrained", checkpoint=path)),
    "list": lambda path: Backbone([dict(type="Pretrained", checkpoint=path)]),
    "class": lambda path: Backbone(dict(type=PretrainedInit, checkpoint=path)),
}


@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("build", PRETRAINED.values(), ids=PRETRAINED)
def test_layouts_that_mmengine_reads(build, content, path):
    torch.save(content, path)
    model = build(path)
    model.init_weights()
    assert all(value.eq(1).all() for value in model.state_dict().values())


@pytest.mark.parametrize("wrapped", [lambda state: state, lambda state: dict(state_dict=state)])
def test_a_part_of_a_detector(wrapped, path):
    torch.save(wrapped({**prefixed("backbone."), "neck.weight": torch.zeros(1)}), path)
    model = Backbone(dict(type="Pretrained", checkpoint=path, prefix="backbone."))
    model.init_weights()
    assert all(value.eq(1).all() for value in model.state_dict().values())


def official_swin() -> dict:
    state = {}
    for key, value in SwinTransformer(**TINY).state_dict().items():
        for ours, theirs in OFFICIAL:
            key = key.replace(ours, theirs)
        state[key] = torch.zeros_like(value) if value.is_floating_point() else value
    return state


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_official_weights_of_swin(key, path):
    torch.save({key: official_swin()} if key else official_swin(), path)
    cfg = ConfigDict(type="Pretrained", checkpoint=path)
    model = SwinTransformer(**TINY, convert_weights=True, init_cfg=cfg)
    model.init_weights()
    assert model.stages[3].blocks[0].attn.w_msa.qkv.weight.eq(0).all()


def test_training_asks_nothing_of_a_file_that_its_reader_does_not(path, monkeypatch):
    torch.save(dict(model=official_swin()), path)
    init_cfg = dict(type="Pretrained", checkpoint=path)
    cfg = Config(
        dict(model=dict(backbone=dict(type="SwinTransformer", convert_weights=True, init_cfg=init_cfg)))
    )
    monkeypatch.setattr(train, "load_config", lambda _: cfg)
    monkeypatch.setattr(train, "check_data", lambda *_: None)
    monkeypatch.setattr("mmcarafe.apis.training.build_runner", lambda _: sys.exit("started"))
    monkeypatch.setattr("sys.argv", ["train.py", "swin.py"])
    with pytest.raises(SystemExit, match="started"):
        train.main()


def test_weights_of_pvt(path):
    tiny = dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1] * 4, pretrain_img_size=32)
    zeros = {k: torch.zeros_like(v) for k, v in PyramidVisionTransformer(**tiny).state_dict().items()}
    torch.save(dict(model=zeros), path)
    cfg = ConfigDict(type="Pretrained", checkpoint=path)
    model = PyramidVisionTransformer(**tiny, convert_weights=False, init_cfg=cfg)
    model.init_weights()
    assert all(value.eq(0).all() for value in model.state_dict().values())


# where weights can be: what a check of one layout would not look at
PLACES = {
    "bare": lambda value: {**ones(), "conv.bias": value},
    "state_dict": lambda value: dict(state_dict={**ones(), "conv.bias": value}),
    "model": lambda value: dict(model={**ones(), "conv.bias": value}),
    "deep": lambda value: dict(epoch=1, models=[dict(student=ones()), {**ones(), "conv.bias": value}]),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.tensor([1.0, torch.nan]), r"checkpoint weights.pth holds NaN .* \(first: '.*conv.bias'\)"),
        (torch.tensor([torch.inf, 0]), r"holds NaN or infinity in 1 parameters \(first: '.*conv.bias'\)"),
        (torch.tensor([-torch.inf, 1]), "holds NaN or infinity in 1 parameters"),
        (torch.tensor([-torch.inf, -torch.inf]), "holds NaN or infinity in 1 parameters"),
        (Call(exec, CODE), "cannot be read as weights: it asks for exec; only data is read"),
    ],
    ids=["nan", "inf", "-inf", "all-inf", "code"],
)
def test_what_is_no_data_or_not_finite_is_refused_wherever_it_is(place, value, match, path):
    torch.save(place(value), path)
    model = Backbone(dict(type="Pretrained", checkpoint=path))
    with pytest.raises(InputError, match=match):
        model.init_weights()
    assert not Path("marker").exists()


def test_every_reader_comes_through_the_same_check(path):
    """Also those that name their file elsewhere than in an init_cfg, as mmdet's teachers do."""
    torch.save(PLACES["model"](Call(exec, CODE)), path)
    detectors = DetectoRS_ResNet(depth=50, sac=None, pretrained=path)
    for read in (
        detectors.init_weights,
        lambda: load_checkpoint(Backbone(), path),
        lambda: initialize(Backbone(), dict(type="Pretrained", checkpoint=path, prefix="backbone.")),
        lambda: CheckpointLoader.load_checkpoint(path, map_location="cpu"),
    ):
        with pytest.raises(InputError, match="it asks for exec; only data is read from checkpoints"):
            read()


def test_what_a_file_does_not_hold_is_not_computed_with(path):
    torch.save(dict(model=dict(a=torch.ones(1).expand(10**12)), b=torch.ones(3).to_sparse()), path)
    assert load_from_local(path)["model"]["a"].shape == (10**12,)


@pytest.mark.skipif(not importlib.util.find_spec("safetensors"), reason="safetensors is not installed")
def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(ones(), tmp_path / "weights.safetensors")
    model = Backbone(dict(type="Pretrained", checkpoint=str(tmp_path / "weights.safetensors")))
    model.init_weights()
    assert model.conv.bias.eq(1).all()
