# SPDX-License-Identifier: Apache-2.0
"""What is planned, what a run is trained with, and the file of results."""

from pathlib import Path

import pytest
from commands import ROOT, TWIN
from mmengine.config import Config

from mmcarafe.comparison.arms import Arm
from mmcarafe.comparison.runs import add_result, plan, read_results, run_config, write_whole
from mmcarafe.errors import InputError

ARMS = [Arm(), Arm("CARAFE", "neck")]


def test_all_arms_of_a_seed_come_before_the_next_seed():
    runs = plan(Config.fromfile(TWIN), ARMS, [0, 5], Path("out"))
    assert list(map(str, runs)) == [
        "config, seed 0", "CARAFE in neck, seed 0", "config, seed 5", "CARAFE in neck, seed 5"
    ]  # fmt: skip
    assert len({run.key for run in runs}) == len({run.folder for run in runs}) == 4


def test_a_changed_recipe_is_another_run_in_another_folder():
    cfg = Config.fromfile(TWIN)
    before = plan(cfg, ARMS, [0], Path("out"))
    cfg.optim_wrapper.optimizer.lr *= 2
    for old, new in zip(before, plan(cfg, ARMS, [0], Path("out")), strict=True):
        assert old.key != new.key and old.folder != new.folder


def test_a_config_without_an_evaluation_is_refused():
    cfg = Config.fromfile(TWIN)
    cfg.val_dataloader = None
    with pytest.raises(InputError, match="needs train_dataloader, val_dataloader and val_evaluator"):
        plan(cfg, ARMS, [0], Path("out"))


def test_a_run_has_its_seed_and_the_start_of_the_config_as_it_is():
    cfg = Config.fromfile(TWIN)
    run = plan(cfg, ARMS, [3], Path("out"))[1]
    trained = run_config(cfg, run)
    assert trained.randomness == dict(seed=3)
    assert trained.work_dir == str(run.folder)
    assert trained.custom_hooks[-1]["type"] == "SameStartHook"
    assert trained.custom_hooks[-1]["model"] == cfg.model != trained.model
    assert trained.default_hooks.checkpoint.max_keep_ckpts == 2
    assert "mmcarafe.comparison.variants" in trained.custom_imports.imports, "other commands know its types"
    assert cfg.randomness == dict(seed=0), "the config given is not changed"


def test_each_seed_goes_on_from_the_checkpoint_of_its_own():
    cfg = Config.fromfile(TWIN)
    cfg.load_from = "trained/seed-{seed}/epoch_7.pth"
    runs = plan(cfg, ARMS[:1], [0, 3], Path("out"))
    assert [run_config(cfg, run).load_from for run in runs] == [
        "trained/seed-0/epoch_7.pth",
        "trained/seed-3/epoch_7.pth",
    ]
    assert runs[0].settings == runs[1].settings, "they are one arm"


def test_results_are_added_whole(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    assert read_results(path) == []
    add_result(path, dict(arm="one"))
    add_result(path, dict(arm="two"))
    assert read_results(path) == [dict(arm="one"), dict(arm="two")]

    def killed(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmcarafe.comparison.runs.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        add_result(path, dict(arm="three"))
    assert read_results(path) == [dict(arm="one"), dict(arm="two")]


def test_a_file_that_is_no_file_of_results_is_named(tmp_path):
    write_whole(tmp_path / "runs.jsonl", '{"arm": "one"}\n{"arm')
    with pytest.raises(InputError, match=r"runs\.jsonl is no file of results"):
        read_results(tmp_path / "runs.jsonl")


def test_what_is_named_twice_is_run_once(tmp_path):
    cfg = Config.fromfile(ROOT / "configs/comparison/mask-rcnn_r18_fpn_nuclei.py")
    arms = [Arm(), Arm("CARAFE", "both"), Arm("CARAFE", "both")]
    runs = plan(cfg, arms, [0, 0, 1], tmp_path)
    assert [(run.arm.where, run.seed) for run in runs] == [("", 0), ("both", 0), ("", 1), ("both", 1)]
