# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds for a run to go on exactly, and which checkpoints are removed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop
from tiny_run import tiny_runner

from mmcarafe.checkpoint.random_state import random_state
from mmcarafe.checkpoint.reading import read_checkpoint
from mmcarafe.checkpoint.writing import WholeFileBackend
from mmcarafe.engine.hooks.checkpoint_hook import CheckpointHook


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".pth" in path.name)


def resumed(folder: Path, path: Path) -> tuple[dict, str]:
    """The weights after two epochs of a run that goes on from a checkpoint, and its log."""
    runner = tiny_runner(folder, load_from=str(path), resume=True, randomness=dict(seed=0))
    warnings = []
    runner.logger.warning = lambda text, *_: warnings.append(text)
    runner.train()
    return read_checkpoint(folder / "epoch_2.pth")["state_dict"], "\n".join(warnings)


def test_random_numbers_go_on_where_the_checkpoint_has_them(tmp_path):
    tiny_runner(tmp_path / "whole", randomness=dict(seed=0)).train()
    path, whole = tmp_path / "whole/epoch_1.pth", read_checkpoint(tmp_path / "whole/epoch_2.pth")
    weights, log = resumed(tmp_path / "exact", path)
    assert all(value.equal(weights[name]) for name, value in whole["state_dict"].items())
    assert "random state" not in log
    checkpoint = read_checkpoint(path)
    del checkpoint["meta"]["mmcarafe"]  # as mmengine's own hook writes it
    torch.save(checkpoint, path)
    weights, log = resumed(tmp_path / "other", path)
    assert not all(value.equal(weights[name]) for name, value in whole["state_dict"].items())
    assert "holds no random state for this number of processes" in log


@pytest.mark.parametrize(("iteration", "warns"), [(6, False), (7, True)])
def test_a_checkpoint_in_the_middle_of_an_epoch_is_reported(iteration, warns):
    warnings, hook = [], CheckpointHook()
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = range(3)
    hook._resumed = dict(random=[random_state()], input_sizes=[])
    logger = SimpleNamespace(warning=warnings.append)
    hook._continue(SimpleNamespace(train_loop=loop, iter=iteration, logger=logger, model=torch.nn.Identity()))
    assert warnings == ["resumed in the middle of an epoch: mmengine begins this epoch anew"] * warns


@pytest.mark.parametrize("schedule", [dict(type="MultiStepLR", milestones=[1]), ()], ids=["steps", "none"])
@pytest.mark.parametrize("last", [3, 4, 8])
def test_iterations_may_end_with_an_epoch(last, schedule, tmp_path):
    """mmengine writes such a checkpoint before it counts the epoch, and would learn it again."""
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False))
    options = dict(default_hooks=hooks, randomness=dict(seed=0), schedule=schedule)
    tiny_runner(tmp_path / "whole", **options).train()
    path = tmp_path / f"whole/iter_{last}.pth"
    runner = tiny_runner(tmp_path / "on", **options, load_from=str(path), resume=True)
    warnings = []
    runner.logger.warning = lambda text, *_: warnings.append(text)
    runner.train()
    again = "resumed in the middle of an epoch: mmengine begins this epoch anew"
    assert (again in warnings) == (last == 3)
    assert runner.iter == (11 if last == 3 else 8)
    if last == 4:
        whole, on = (read_checkpoint(tmp_path / name / "iter_8.pth") for name in ("whole", "on"))
        assert all(value.equal(on["state_dict"][name]) for name, value in whole["state_dict"].items())
        assert whole["param_schedulers"] == on["param_schedulers"]
        assert runner.optim_wrapper.param_groups[0]["lr"] == pytest.approx(0.01 if schedule else 0.1)


class Level(BaseMetric):
    """A metric that never gets better."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(level=1.0)


def test_a_schedule_by_metrics_goes_on_as_it_was(tmp_path):
    """mmengine's checkpoint of an epoch is written before its validation, which the schedule counts."""
    schedule = dict(type="ReduceOnPlateauLR", monitor="level", patience=1, by_epoch=True)
    data = dict(dataset=[torch.zeros(2)] * 2, sampler=dict(type="DefaultSampler", shuffle=False))
    options = dict(
        schedule=[schedule], epochs=4, val_cfg=dict(), val_evaluator=dict(type=Level),
        val_dataloader=dict(data, batch_size=1, collate_fn=dict(type="pseudo_collate")),
        randomness=dict(seed=0),
    )  # fmt: skip
    whole = tiny_runner(tmp_path / "whole", **options)
    whole.train()
    for epoch in (1, 2, 3):
        path = tmp_path / f"whole/epoch_{epoch}.pth"
        runner = tiny_runner(tmp_path / str(epoch), **options, load_from=str(path), resume=True)
        runner.train()
        folders = (tmp_path / "whole", tmp_path / str(epoch))
        expected, actual = (read_checkpoint(folder / "epoch_4.pth") for folder in folders)
        for name, value in expected["state_dict"].items():
            assert value.equal(actual["state_dict"][name])
        assert expected["param_schedulers"] == actual["param_schedulers"]
    assert whole.optim_wrapper.param_groups[0]["lr"] < 0.05, "it was reduced"


def test_yolox_goes_on_with_the_size_of_its_last_batch(monkeypatch):
    def runner(size):
        resize = BatchSyncRandomResize(random_size_range=(32, 64))
        resize._input_size = size
        model = SimpleNamespace(data_preprocessor=SimpleNamespace(batch_augments=[resize]))
        return SimpleNamespace(model=model, train_loop=None, iter=7, message_hub=MessageHub("yolox")), resize

    meta, hook = {}, CheckpointHook()
    hook.file_backend = WholeFileBackend()
    monkeypatch.setattr(CheckpointHook.__base__, "_save_checkpoint_with_step", lambda *args: None)
    hook._save_checkpoint_with_step(runner((64, 96))[0], 1, meta)
    hook.after_load_checkpoint(None, dict(meta=meta))
    expected = torch.rand(3)
    resumed, resize = runner(None)
    hook._continue(resumed)
    assert resize._input_size == (64, 96)
    assert torch.equal(torch.rand(3), expected)


def test_a_resumed_run_removes_nothing_of_others(tmp_path):
    (work := tmp_path / "work").mkdir()
    (foreign := tmp_path / "best_other.pth").touch()
    (own := work / "best_mAP_epoch_1.pth").touch()
    hub = MessageHub("foreign")
    runner = SimpleNamespace(work_dir=str(work), message_hub=hub)
    for stored, expected in (
        (tmp_path, None),
        (foreign, None),
        (5, None),
        ("/moved/best_mAP_epoch_1.pth", str(own)),
    ):
        hub._runtime_info.clear()
        hub._runtime_info.update(best_ckpt=stored, best_score=0.5, keep_ckpt_ids=["../x"])
        CheckpointHook()._forget_foreign_checkpoints(runner)
        assert hub.runtime_info.get("best_ckpt") == expected
        assert hub.runtime_info.keys() <= {"best_ckpt", "best_score"}


def test_outdated_files_are_removed_when_the_new_one_is_there(tmp_path):
    hook, hub = CheckpointHook(), MessageHub("outdated")
    hook.file_backend = WholeFileBackend()
    old, same = str(tmp_path / "old.pth"), str(tmp_path / "same.pth")
    for path in (old, same):
        hook.file_backend.put(b"", path)
    with hook._outdated_removed_last(SimpleNamespace(message_hub=hub)):
        hook.file_backend.remove(old)
        hook.file_backend.remove(same)
        assert names(tmp_path) == ["old.pth", "same.pth"]
        hub.update_info("best_ckpt", same)  # the new one has the name of the old one
    assert names(tmp_path) == ["same.pth"]


def test_outdated_files_stay_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    def full(hook, runner, step, meta):
        hook.file_backend.remove(str(tmp_path / "old.pth"))
        raise OSError("full")

    hook, runner = (
        CheckpointHook(),
        SimpleNamespace(message_hub=MessageHub("full"), model=torch.nn.Identity()),
    )
    hook.file_backend = WholeFileBackend()
    hook.file_backend.put(b"", tmp_path / "old.pth")
    monkeypatch.setattr(CheckpointHook.__base__, "_save_checkpoint_with_step", full)
    with pytest.raises(OSError, match="full"):
        hook._save_checkpoint_with_step(runner, 1, {})
    assert names(tmp_path) == ["old.pth"]


def test_an_epoch_is_counted_once_however_many_hooks_there_are(tmp_path):
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=4, by_epoch=False))
    more = [dict(type="CheckpointHook", interval=1, out_dir=str(tmp_path / "more"))]
    options = dict(default_hooks=hooks, custom_hooks=more, epochs=3)
    tiny_runner(tmp_path / "whole", **options).train()
    path = str(tmp_path / "whole/iter_4.pth")
    runner = tiny_runner(tmp_path / "on", **options, load_from=path, resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 12)
