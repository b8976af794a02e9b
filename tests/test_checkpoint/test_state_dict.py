# SPDX-License-Identifier: Apache-2.0
"""Weights are compared with a model before they are used."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from mmcarafe.checkpoint.state_dict import (
    check_checkpoint,
    load_from_local,
    load_start,
    read_state_dict,
)
from mmcarafe.errors import InputError

pytestmark = pytest.mark.usefixtures("unprotected")


class Backbone(nn.Module):
    """A convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)


def ones(prefix: str = "") -> dict:
    return {f"{prefix}conv.weight": torch.ones(2, 3, 1, 1), f"{prefix}conv.bias": torch.ones(2)}


@pytest.fixture
def path(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return "weights.pth"


def test_files_and_addresses_are_told_apart_as_mmengine_does(path, monkeypatch):
    torch.save(ones(), path)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert read_state_dict(f"~/{path}")[1].keys() == ones().keys()
    assert load_from_local(f"~/{path}").keys() == ones().keys()
    for name, match in (
        ("missing.pth", "checkpoint missing.pth does not exist"),
        (".", "checkpoint . is no regular file"),
        (f"file://{path}", f"checkpoint file://{path} does not exist"),
    ):
        for read in (read_state_dict, CheckpointLoader.load_checkpoint):
            with pytest.raises(InputError, match=match):
                read(name)
    with pytest.raises(
        InputError, match=r"checkpoint open-mmlab://none cannot be fetched \(KeyError: 'none'\)"
    ):
        read_state_dict("open-mmlab://none")


@pytest.mark.parametrize("left", [0, 100])
def test_a_download_that_was_cut_short(left, path, monkeypatch):
    """It stays where torch keeps downloads, and would be taken from there each time."""
    monkeypatch.setenv("TORCH_HOME", str(Path.cwd()))
    Path("hub/checkpoints").mkdir(parents=True)
    torch.save(ones(), path)
    Path("hub/checkpoints/cut.pth").write_bytes(Path(path).read_bytes()[:left])
    expected = (
        f"checkpoint http://nowhere.invalid/cut.pth cannot be read .*remove what is left .*{Path.cwd()}/hub"
    )
    with pytest.raises(InputError, match=expected):
        read_state_dict("http://nowhere.invalid/cut.pth")


class Detector(nn.Module):
    """A backbone and a norm; takes weights from before its head was called head, as mmdet's detectors do."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = Backbone(), nn.BatchNorm1d(2)
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.register_buffer("mean", torch.ones(3), persistent=False)

    def _load_from_state_dict(self, state, *arguments):
        for key in [key for key in state if key.startswith("old_head.")]:
            state[key.removeprefix("old_")] = state.pop(key)
        super()._load_from_state_dict(state, *arguments)


def full(**changes) -> dict:
    state = {key: torch.ones_like(value) for key, value in Detector().state_dict().items()}
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


ACCEPTED = {
    "same": full(),
    "parallel": {f"module.{key}": value for key, value in full().items()},
    "old-names": {key.replace("head.", "old_head."): value for key, value in full().items()},
    "old-norm": full(**{"head.num_batches_tracked": None}),
    # written before mmengine left its data preprocessor out, as RTMDet's released checkpoints
    "old-preprocessor": full(**{"data_preprocessor.mean": torch.zeros(3)}),
    "other-parts": full(**{"teacher.backbone.conv.weight": torch.zeros(1), "ema_head_weight": torch.ones(2)}),
}


@pytest.mark.parametrize("state", ACCEPTED.values(), ids=ACCEPTED)
def test_a_checkpoint_that_gives_a_model_all_it_has(state, path):
    torch.save(dict(state_dict=state), path)
    check_checkpoint(Detector(), path)
    model = Detector()
    load_checkpoint(model, path)
    assert all(value.eq(1).all() for key, value in model.state_dict().items() if "num_batches" not in key)


REFUSED = {
    "missing": (full(**{"head.weight": None}), r"1 parameters are missing \(first: 'head.weight'\)"),
    "upsampler": (
        full(**{"backbone.upsample.weight": torch.ones(1)}),
        r"1 parameters are not in the model \(first: 'backbone.upsample.weight'\)",
    ),
    "shape": (full(**{"head.bias": torch.ones(3)}), "1 parameters do not fit .*size mismatch for head.bias"),
    "old-shape": (
        {"old_head.bias": torch.ones(3), **full(**{"head.bias": None})},
        "1 parameters do not fit .*size mismatch for head.bias",
    ),
    "kind": (full(**{"head.bias": torch.ones(2, dtype=torch.int64)}), "1 parameters are other kinds of num"),
    "parallel-kind": (
        {f"module.{k}": v.long() for k, v in full().items()},
        "6 parameters are other kinds of num",
    ),
    "nan": (full(**{"head.bias": torch.full((2,), torch.nan)}), "NaN or infinity in 1 parameters"),
}


@pytest.mark.parametrize(("state", "match"), REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_of_another_model(state, match, path):
    torch.save(dict(state_dict=state), path)
    with pytest.raises(InputError, match=match):
        check_checkpoint(Detector(), path)


def test_a_start_needs_one_parameter_that_the_model_takes(path):
    for state in (
        {"old_head.bias": torch.ones(2)},
        {"module.backbone.conv.bias": torch.ones(2)},
        {"head.bias": torch.ones(3), "backbone.conv.bias": torch.ones(2)},  # for other classes
    ):
        torch.save(state, path)
        load_start(Detector(), path, read_state_dict(path)[1])
    for state in (ones("other."), {name: torch.ones(7) for name in Detector().state_dict()}):
        torch.save(state, path)
        first = next(iter(state))
        with pytest.raises(
            InputError, match=rf"no parameter that fits the config's .* \(its first: '{first}'"
        ):
            load_start(Detector(), path, read_state_dict(path)[1])


class Swapped(Detector):
    """With two upsamplers where the detector has none, and one where it has another."""

    def __init__(self):
        super().__init__()
        self.neck = nn.Module()
        self.neck.upsample_modules = nn.ModuleList([Backbone(), Backbone()])
        self.neck.lateral = nn.Linear(2, 2)
        self.mask_head = nn.Module()
        self.mask_head.upsample = Backbone()
        self.mask_head.logits = nn.Linear(2, 2)


def test_parts_that_start_fresh_are_named_once(path):
    state = {key: value for key, value in Swapped().state_dict().items() if "upsample" not in key}
    assert load_start(Swapped(), path, Swapped().state_dict()) == []
    del state["mask_head.logits.bias"]
    old = {"mask_head.upsample.weight": torch.ones(1), "mask_head.upsample.bias": torch.ones(1)}
    assert load_start(Swapped(), path, state | old) == [
        "neck.upsample_modules is not in weights.pth: its 4 parameters start fresh",
        "mask_head.upsample is not in weights.pth: its 2 parameters start fresh; mask_head.upsample.weight, "
        "mask_head.upsample.bias, of another module there, are left out",
        "mask_head.logits.bias is not in weights.pth: it starts fresh",
    ]
    other = Detector().state_dict() | {"head.bias": torch.ones(3)}
    (line,) = load_start(Detector(), path, other)
    assert line.startswith("size mismatch for head.bias:") and line.endswith(
        "torch.Size([2]): it starts fresh"
    )
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    lines = load_start(Swapped(), path, backbone)
    assert [line.split()[0] for line in lines] == ["head", "neck", "mask_head"]
