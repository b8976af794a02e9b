# SPDX-License-Identifier: Apache-2.0
"""A comparison trains what is left, says which run failed, and goes on where it was killed."""

import signal
import subprocess
import sys
import time

import cv2
import pytest
import torch
from commands import SMALL, TOOLS, TWIN, call, refused
from filelock import FileLock

from mmcarafe.comparison.runs import add_result, read_results

NAME = "compare_upsamplers.py"
SHORT = [*SMALL, "train_cfg.max_epochs=1"]
ARGS = [TWIN, "--upsamplers", "CARAFE", "--seeds", 0, "--jobs", 2]


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """Toy runs use the CPU wherever they are run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--upsamplers", "CARAFEE"], "did you mean 'CARAFE'?"),
        (["--upsamplers", "CARAFE,kernel=3"], "keyword argument 'kernel'"),
        (["--baseline", "nearest in head"], "is none of the arms"),
        (["--cfg-options", "val_evaluator.ann_file=no.json"], "no.json does not exist"),
    ],
    ids=["type", "argument", "baseline", "data"],
)
def test_mistakes_are_named_before_anything_is_trained(toy, tmp_path, args, match):
    refused(NAME, TWIN, "--out", tmp_path / "out", *args, cwd=toy, match=match)
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_not_there_are_named_before_anything_is_trained(toy, tmp_path):
    start = f"load_from={tmp_path}/seed-{{seed}}.pth"
    args = [NAME, *ARGS, "--out", tmp_path / "out", "--cfg-options", *SHORT, start]
    refused(*args, cwd=toy, match="seed-0.pth does not exist")
    assert not list((tmp_path / "out").glob("*/seed-0"))


def left_to_run(*args, cwd) -> list:
    """Return the runs that the command would start."""
    left = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmcarafe.comparison.processes.run_all", lambda runs, *_: left.extend(runs))
        call(NAME, *args, cwd=cwd)
    return left


@pytest.mark.slow
def test_a_failing_run_stops_no_other_and_is_all_that_is_left(toy, tmp_path):
    out = tmp_path / "out"
    args = [*ARGS, "--out", out, "--cfg-options", *SHORT]
    one, broken = left_to_run(*args, cwd=toy)
    assert [one.arm.name, broken.arm.name] == ["config", "CARAFE in neck"]
    broken.folder.mkdir(parents=True)
    (broken.folder / "epoch_1.pth").write_bytes(b"PK no checkpoint")  # from which that run shall go on
    result = call(NAME, *args, cwd=toy, check=False)
    assert result.returncode == 1
    (said,) = (line for line in result.stdout.splitlines() if " failed (" in line)
    assert said.startswith("CARAFE in neck, seed 0 failed (worker.py: none of the 1 checkpoints")
    assert said.endswith(f"see {broken.folder / 'log.txt'}")
    (line,) = read_results(out / "runs.jsonl")
    assert (line["arm"], line["seed"], line["shape"]) == ("config", 0, [160, 160])
    assert line["metrics"] == line["curve"][-1]["metrics"]
    assert line["train_seconds"] > 0 and line["seconds_an_image"] > 0 and line["flops"] > 1e8
    assert left_to_run(*args, cwd=toy) == [broken]
    other = [*args, "optim_wrapper.optimizer.lr=0.5"]
    assert len(left_to_run(*other, cwd=toy)) == 2, "another recipe has other results"


def test_a_finished_run_is_not_repeated_where_only_its_line_is_left(toy, tmp_path):
    out = tmp_path / "out"
    args = [*ARGS, "--seeds", 0, 1, "--out", out, "--cfg-options", *SHORT]
    runs = left_to_run(*args, cwd=toy)
    assert len(runs) == 4
    for run in runs[:2]:
        add_result(out / "runs.jsonl", dict(recipe=run.recipe, settings=run.settings, seed=run.seed))
    assert {path.name for path in out.iterdir()} <= {"runs.jsonl", ".lock"}
    assert left_to_run(*args, cwd=toy) == runs[2:]


def test_an_arm_that_is_the_config_of_another_recipe_is_not_done(toy, tmp_path):
    """Its weights began as those that the other recipe's arms share."""
    args = [*ARGS, "--out", tmp_path, "--cfg-options", *SHORT]
    _, carafe = left_to_run(*args, cwd=toy)
    add_result(tmp_path / "runs.jsonl", dict(recipe=carafe.recipe, settings=carafe.settings, seed=0))
    again, _ = left_to_run(*args, "model.neck.upsample_cfg.type=CARAFE", cwd=toy)
    assert again.arm.name == "config" and again.settings == carafe.settings


def test_two_comparisons_do_not_share_a_folder(toy, tmp_path):
    with FileLock(tmp_path / ".lock"):
        refused(NAME, *ARGS, "--out", tmp_path, cwd=toy, match="another comparison is running there")


def test_ctrl_c_ends_in_a_sentence(toy, tmp_path, monkeypatch):
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmcarafe.comparison.processes.run_all", interrupted)
    refused(NAME, *ARGS, "--out", tmp_path, cwd=toy, match="stopped, and no run is left behind")


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(toy, tmp_path):
    out = tmp_path / "out"
    args = [
        *ARGS,
        "--out",
        out,
        "--cfg-options",
        *SMALL,
        "train_cfg.max_epochs=3",
        "train_cfg.val_interval=1",
    ]
    command = subprocess.Popen([sys.executable, TOOLS[NAME], *map(str, args)], cwd=toy)
    while len({path.parent for path in out.glob("*/*/epoch_*.pth")}) < 2:  # both runs have written one
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGKILL)
    command.wait()
    call(NAME, *args, cwd=toy)
    lines = read_results(out / "runs.jsonl")
    assert {line["arm"] for line in lines} == {"config", "CARAFE in neck"}
    for line in lines:
        assert line["curve"][-1]["epoch"] == 3
        assert "resumed epoch: " in next(out.glob(f"*_{line['settings']}/seed-0/log.txt")).read_text()
    assert left_to_run(*args, cwd=toy) == []
    written = call(NAME, "--report", "--pictures", "--out", out, cwd=toy).stdout.split()
    assert "one seed: no interval" in (out / "report.md").read_text()
    assert written[-1].startswith(f"{out}/pictures/CARAFE-in-neck_") and cv2.imread(written[-1]).std() > 5
