# SPDX-License-Identifier: Apache-2.0
"""The newest whole checkpoint is gone on from, if all its state is there and is of the config's parts."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from tiny_run import SGD, tiny_runner

from mmcarafe.checkpoint.reading import read_checkpoint
from mmcarafe.checkpoint.resuming import (
    check_fit,
    checkpoint_folder,
    checkpoint_to_resume,
    epochs_done,
    read_training_state,
    written_checkpoints,
)
from mmcarafe.errors import InputError

ADAM = dict(optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.1))
PLAN = dict(
    schedule=dict(type="MultiStepLR", milestones=[1], end=2),
    optimizer=ADAM,
    custom_hooks=[dict(type="EMAHook", ema_type="ExpMomentumEMA", update_buffers=True)],
)


@pytest.fixture(scope="module")
def trained_tiny(tmp_path_factory) -> Path:
    """The work directory of a run with an averaged model."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runner(folder, **PLAN).train()
    return folder


def test_without_a_whole_checkpoint_it_says_so(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert checkpoint_to_resume(cfg) == (None, None, [])
    for epoch in (1, 2):
        (tmp_path / f"epoch_{epoch}.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints .* resumed from; the newest: .*epoch_2.pth"
    ):
        checkpoint_to_resume(cfg)


def test_order_of_checkpoints(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))

    def made(*files):
        for age, name in enumerate(files):
            (tmp_path / name).write_text(str(tmp_path / "epoch_3.pth"))
            os.utime(tmp_path / name, (age, age))
        return [path.name for path in written_checkpoints(cfg)]

    assert made() == []
    assert made("epoch_2.pth", "epoch_10.pth", "best_mAP_epoch_11.pth", "other.pth") == [
        "epoch_10.pth", "epoch_2.pth"
    ]  # fmt: skip
    # 10 was left by an earlier run in the same folder; 4 is younger than the note
    files = ("epoch_10.pth", "epoch_2.pth", "epoch_3.pth", "iter_5.pth", "last_checkpoint", "epoch_4.pth")
    assert made(*files) == ["epoch_4.pth", "epoch_3.pth", "epoch_2.pth"]
    elsewhere = tmp_path / "elsewhere"  # the folder was copied from there, and training went on
    elsewhere.mkdir()
    (elsewhere / "epoch_3.pth").touch()
    for path in ("/moved/epoch_3.pth", elsewhere / "epoch_3.pth"):
        (tmp_path / "last_checkpoint").write_text(str(path))
        assert tmp_path / "epoch_3.pth" in written_checkpoints(cfg)[:2]  # behind 4, which is younger
    # killed while the note was written, or it is none: the youngest file
    for note in (b"", b"/moved/epo", b"\xff" * 5000):
        (tmp_path / "last_checkpoint").write_bytes(note)
        assert [path.name for path in written_checkpoints(cfg)][:2] == ["epoch_4.pth", "iter_5.pth"]
    (tmp_path / "epoch_99.pth").symlink_to("nowhere")  # is then refused by name
    assert written_checkpoints(cfg)[0].name == "epoch_99.pth"


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(out_dir="{}/big"),
        dict(out_dir="{}/run"),
        dict(filename_tmpl="epoch{{:03d}}.pth"),
        dict(filename_tmpl="3.{{}}_last.pth"),
        dict(filename_tmpl="epoch_{{}}_seed_0.pth"),
        dict(filename_tmpl="epoch_{{}}.pt"),
    ],
    ids=["default", "out_dir", "same", "digits", "dots", "seed", "pt"],
)
@pytest.mark.parametrize("work_dir", ["run", "."])
def test_checkpoints_are_found_where_and_as_the_hook_writes_them(options, work_dir, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path if work_dir == "run" else tmp_path / "run")
    hook = dict(
        type="CheckpointHook", interval=1, **{name: value.format(tmp_path) for name, value in options.items()}
    )
    cfg = Config(dict(work_dir=work_dir, default_hooks=dict(checkpoint=hook)))
    tiny_runner(Path(work_dir), default_hooks=cfg.default_hooks).train()
    written = [path.resolve() for path in written_checkpoints(cfg)]
    assert len(written) == 2
    assert {*written} == {*tmp_path.glob("**/*.pt*")}
    assert checkpoint_to_resume(cfg)[1]["meta"]["epoch"] == 2


def test_without_a_hook_there_are_none(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), default_hooks=dict(checkpoint=None)))
    assert checkpoint_folder(cfg) == tmp_path
    assert written_checkpoints(cfg) == []


def test_a_state_that_cannot_be_resumed_is_named(trained_tiny, tmp_path):
    good = read_checkpoint(trained_tiny / "epoch_1.pth")
    path = str(tmp_path / "weights.pth")
    for content, match in (
        (good["state_dict"], "it holds no meta, message_hub, optimizer: to start a new training from its"),
        ({key: good[key] for key in ("meta", "message_hub", "optimizer")}, "holds no state dict"),
        ({**good, "meta": {"epoch": "1"}}, "its meta has no numbers epoch and iter"),
        ({**good, "meta": {**good["meta"], "mmcarafe": [1]}}, "its meta.mmcarafe is no random state"),
        (
            {**good, "meta": {**good["meta"], "mmcarafe": dict(random=[{}], input_sizes=[])}},
            "its meta.mmcarafe is no random state",
        ),
        (
            {**good, "meta": {**good["meta"], "mmcarafe": dict(random=[], input_sizes=[], batches=[1])}},
            "its meta.mmcarafe is no random state",
        ),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=match):
            read_training_state(path)


def wrong_size(checkpoint):
    for state in checkpoint["optimizer"]["state"].values():
        state["exp_avg"] = torch.ones(1)


def changed(*keys, value):
    """A change of what a path of keys leads to; without a value it is removed."""

    def change(checkpoint):
        part = checkpoint
        for key in keys[:-1]:
            part = part[key]
        if value is None:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value

    return change


BROKEN = {
    "optimizer-size": (wrong_size, "(exp_avg is not of its parameter's size)"),
    "optimizer-nan": (
        changed("optimizer", "state", 0, "exp_avg", value=torch.tensor(torch.nan)),
        "exp_avg is not",
    ),
    "optimizer-lr": (changed("optimizer", "param_groups", 0, "lr", value="x"), "(lr 'x')"),
    "schedule-none": (changed("param_schedulers", value=None), "the state of 0 parts of a schedule"),
    "schedule-other": (
        changed("param_schedulers", 0, value={"last_step": "x"}),
        "the config's param_scheduler has",
    ),
    "average-none": (changed("ema_state_dict", value=5), "its ema_state_dict is no state dict"),
    "average-part": (
        changed("ema_state_dict", value={"module.backbone.conv1.weight": torch.zeros(1)}),
        "parameters are missing",
    ),
    "average-nan": (
        changed("ema_state_dict", "module.norm.running_var", value=torch.full((3,), torch.nan)),
        "holds NaN or infinity in 1 parameters (first: 'norm.running_var')",
    ),
}


@pytest.mark.parametrize(("change", "match"), BROKEN.values(), ids=BROKEN)
def test_a_state_that_does_not_fit_is_refused(trained_tiny, change, match, tmp_path):
    checkpoint = read_checkpoint(trained_tiny / "epoch_1.pth")
    change(checkpoint)
    with pytest.raises(InputError, match=re.escape(match)):
        check_fit(tiny_runner(tmp_path, **PLAN), "changed.pth", checkpoint)


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (SGD, r"than the config's SGD \(momentum\)"),
        (
            ADAM | dict(paramwise_cfg=dict(bias_decay_mult=0.0)),
            r"than the config's AdamW \(loaded state dict has a different",
        ),
    ],
    ids=["kind", "groups"],
)
def test_another_optimizer_is_refused(trained_tiny, optimizer, match, tmp_path):
    with pytest.raises(InputError, match=match):
        check_fit(
            tiny_runner(tmp_path, **PLAN | dict(optimizer=optimizer)),
            path := str(trained_tiny / "epoch_1.pth"),
            read_checkpoint(path),
        )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_training_that_is_done_is_said_to_be(trained_tiny, epochs, monkeypatch, tmp_path):
    runner, warnings = tiny_runner(tmp_path, **PLAN, epochs=epochs), []
    monkeypatch.setattr(runner, "logger", SimpleNamespace(warning=warnings.append, debug=lambda _: None))
    check_fit(runner, path := str(trained_tiny / "epoch_2.pth"), read_checkpoint(path))
    said = f"nothing is left to train: {path} was written at 2, max_epochs is {epochs}"
    assert warnings == [said] * (epochs <= 2)


def test_the_end_of_an_epoch_counts_also_where_iterations_are_counted():
    assert epochs_done(dict(epoch=1)) == epochs_done(dict(epoch=1, mmcarafe=dict(batches=[3, 4]))) == 1
    assert epochs_done(dict(epoch=1, mmcarafe=dict(batches=[4, 4]))) == 2


def test_the_average_of_a_run_without_its_hook_is_refused(trained_tiny, tmp_path):
    path = str(trained_tiny / "epoch_1.pth")
    runner = tiny_runner(tmp_path, **PLAN | dict(custom_hooks=[]))
    with pytest.raises(InputError, match=r"holds an average of the model \(EMA\), and the config has no"):
        check_fit(runner, path, read_checkpoint(path))


def test_several_optimizers_are_left_to_mmengine(trained_tiny, tmp_path):
    def several(model):
        parts = dict(line=model.line, norm=model.norm)
        return OptimWrapperDict(
            **{name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1)) for name, part in parts.items()}
        )

    checkpoint, runner = read_checkpoint(trained_tiny / "epoch_2.pth"), tiny_runner(tmp_path, **PLAN)
    runner.optim_wrapper = several(runner.model)
    checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
    check_fit(runner, "several.pth", checkpoint)
