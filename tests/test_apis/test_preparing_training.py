# SPDX-License-Identifier: Apache-2.0
"""Which file a training starts from, of those that its config and its work directory name."""

from pathlib import Path

import pytest
from mmengine.config import Config
from tiny_run import tiny_runner

from mmcarafe.apis import training
from mmcarafe.errors import InputError


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare a training of a work directory, with a run's two checkpoints beside it; return file, whether
    it is gone on from, and what is warned of."""
    tiny_runner(tmp_path / "first").train()
    warnings = []

    def build_runner(cfg):
        runner = tiny_runner(Path(cfg.work_dir), load_from=cfg.load_from, resume=cfg.resume)
        monkeypatch.setattr(runner.logger, "warning", warnings.append)
        return runner

    def prepare(work_dir, given=None, **settings):
        cfg = Config(dict(work_dir=str(tmp_path / work_dir), default_scope="mmdet", **settings))
        runner = training.prepare_training(cfg, given)
        return runner._load_from, runner._resume, "; ".join(warnings)

    monkeypatch.setattr(training, "build_runner", build_runner)
    return prepare


def test_a_job_that_is_always_resumed_starts_as_it_would_without(prepared, tmp_path):
    start = str(tmp_path / "first/epoch_1.pth")
    assert prepared("new", load_from=start) == (start, False, "")
    path, resumes, warning = prepared("new", "auto", load_from=start)
    assert (path, resumes) == (start, False)
    assert f"training starts at the beginning, from the weights in {start}" in warning
    with pytest.raises(InputError, match=r"lost.pth does not exist"):
        prepared("new", "auto", load_from="lost.pth")
    assert prepared("new", "auto")[:2] == (None, False)


def test_what_is_resumed_goes_before_what_training_starts_from(prepared, tmp_path):
    first, second = (str(tmp_path / f"first/epoch_{n}.pth") for n in (1, 2))
    assert prepared("first", "auto", load_from=first)[:2] == (second, True)
    assert prepared("new", first, load_from=second)[:2] == (first, True)
    assert prepared("new", resume=True, load_from=first)[:2] == (first, True)  # of the config, as in mmengine
    assert prepared("first", None)[:2] == (None, False)
    assert prepared("first", "", load_from=second)[:2] == (second, False)  # an empty variable of a shell
