# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, or whose disk is full, goes on with --resume to the weights it would have had."""

import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import CONFIG, ROOT, SMALL, call, refused, tool

from mmcarafe.checkpoint import state_dict
from mmcarafe.checkpoint.reading import read_checkpoint

SLOW = pytest.mark.slow
# everything that keeps a state: random augmentation in workers that persist, EMA, warm-up, validation
AUGMENTED = f"""
_base_ = {str(CONFIG)!r}
model = dict(roi_head=dict(bbox_head=dict(fc_out_channels=16)))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(160, 160), ratio_range=(0.7, 1.3), keep_ratio=True),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(num_workers=2, persistent_workers=True, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=3, val_interval=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", update_buffers=True, priority=49)]
"""
BY_ITERATION = """
_base_ = "augmented.py"
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=5, val_interval=4)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, sampler=dict(_delete_=True, type="InfiniteSampler")
)
param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=9))
"""
NO_WORKERS = ("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False")
# stops while the checkpoint of an epoch is written; the process is then killed
FREEZE = """
import os, sys, time
moment, name = {moment!r}, {name!r}
fsync, replace = os.fsync, os.replace
def wait():
    open("frozen", "w").close()
    time.sleep(600)
def slow_fsync(file):
    if moment == "half" and os.readlink(f"/proc/self/fd/{{file}}").endswith(name + ".partial"):
        os.ftruncate(file, os.fstat(file).st_size // 2)
        wait()
    fsync(file)
def slow_replace(source, target):
    replace(source, target)
    if moment == "renamed" and str(target).endswith(name):
        wait()
os.fsync, os.replace = slow_fsync, slow_replace
"""


@pytest.fixture(scope="module")
def rich(toy) -> Path:
    """The folder with the data and two configs."""
    (toy / "augmented.py").write_text(AUGMENTED)
    (toy / "by_iteration.py").write_text(BY_ITERATION)
    return toy


@pytest.fixture(scope="module")
def whole_run(rich) -> Path:
    """The work directory of a run nothing happened to, with all its checkpoints."""
    train(rich, "whole", "default_hooks.checkpoint.max_keep_ckpts=9", run=call)
    return rich / "whole"


def train(folder: Path, work_dir: str, *options, resume=(), config="augmented.py", run=tool):
    return run("train.py", config, "--work-dir", work_dir, *resume, "--cfg-options", *SMALL, *options,
               cwd=folder)  # fmt: skip


def start_with(prelude: str, folder: Path, work_dir: str, resume=()) -> subprocess.Popen:
    """Start train.py in a process that first runs some lines of Python."""
    script = str(ROOT / "tools/train.py")
    code = f"{prelude}\nimport runpy\nsys = __import__('sys')\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n"
    code += f"sys.argv[0] = {script!r}\nrunpy.run_path({script!r}, run_name='__main__')\n"
    args = ["augmented.py", "--work-dir", work_dir, *resume, "--cfg-options", *SMALL]
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=folder, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill_when(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    path.unlink()


def flat(value, name=()):
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, (*name, key))
    else:
        yield name, value


def differences(one: Path, other: Path) -> list:
    """What differs of weights, averaged weights, optimizer, schedule and random state, bit for bit."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    assert first.keys() == second.keys() >= {"state_dict", "ema_state_dict", "optimizer", "param_schedulers"}
    found = []
    for part in (*(first.keys() - {"meta", "message_hub"}), "mmcarafe"):
        a, b = (dict(flat((x["meta"] if part == "mmcarafe" else x)[part])) for x in (first, second))
        assert a.keys() == b.keys()
        assert len(a) > 10
        found += [
            (part, key) for key in a
            if not (torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key])
        ]  # fmt: skip
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".pth" in path.name)


def damaged(data: bytes) -> bytes:
    """The same with one wrong bit, which torch.load does not notice."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_killed_while_it_writes_and_damaged_it_ends_with_the_same_weights(rich, whole_run):
    work = rich / "killed"
    freeze = partial(FREEZE.format, name="epoch_2.pth")
    process = start_with(freeze(moment="half"), rich, "killed")
    kill_when(rich / "frozen", process)
    # only one checkpoint is kept, and it goes when the next one is there
    assert names(work) == ["epoch_1.pth", "epoch_2.pth.partial"]
    half = (work / "epoch_2.pth.partial").read_bytes()

    # two checkpoints that are newer, but not whole: the one before them is used
    (work / "epoch_2.pth").write_bytes(damaged((whole_run / "epoch_2.pth").read_bytes()))
    (work / "epoch_3.pth").write_bytes(half)
    process = start_with(freeze(moment="renamed"), rich, "killed", resume=["--resume"])
    kill_when(rich / "frozen", process)
    log = max(work.glob("*/*.log")).read_text()
    assert "killed/epoch_3.pth cannot be read as weights: it is cut off or damaged" in log
    assert "killed/epoch_2.pth cannot be read as weights: it is damaged, the checksum of" in log
    assert "resumed epoch: 1" in log
    assert "epoch_2.pth.partial, which a run was killed while writing" in log
    assert names(work) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
    assert (work / "epoch_2.pth").stat().st_size > len(half)
    assert "epoch_2.pth" not in (work / "last_checkpoint").read_text()

    result = train(rich, "killed", resume=["--resume"])
    assert "resumed epoch: 2" in result.stdout + result.stderr
    assert "epoch_3.pth" in names(work)
    assert differences(whole_run / "epoch_3.pth", work / "epoch_3.pth") == []
    assert differences(whole_run / "epoch_2.pth", work / "epoch_3.pth") != []


def copy(source: Path, target: Path, *files: str) -> None:
    target.mkdir()
    for name in files:
        (target / name).write_bytes((source / name).read_bytes())
    (target / "last_checkpoint").write_text(str(target / files[-1]))


def test_iterations_resumed_in_the_middle_of_the_data(rich, monkeypatch):
    """Three batches are all the data, and the batches come from the training process itself."""
    by_iteration = partial(train, rich, config="by_iteration.py", run=call)
    by_iteration("iterations")
    copy(rich / "iterations", rich / "iterations2", "iter_2.pth")
    reads = []
    monkeypatch.setattr(
        state_dict, "read_checkpoint", lambda path: reads.append(path.name) or read_checkpoint(path)
    )
    by_iteration("iterations2", resume=["--resume"])
    assert reads == ["iter_2.pth"]
    assert differences(rich / "iterations/iter_5.pth", rich / "iterations2/iter_5.pth") == []


@SLOW
def test_two_processes_resume_exactly(rich):
    for work_dir, more in (("two", []), ("two2", ["--resume"])):
        tool("dist_train.sh", "augmented.py", 2, "--work-dir", work_dir, *more, "--cfg-options", *SMALL,
             "default_hooks.checkpoint.max_keep_ckpts=9", cwd=rich)  # fmt: skip
        if not more:
            copy(rich / "two", rich / "two2", "epoch_1.pth")
    assert differences(rich / "two/epoch_3.pth", rich / "two2/epoch_3.pth") == []


def test_a_full_disk_ends_in_one_sentence_and_the_last_checkpoint_stays(rich, whole_run):
    """No file may grow beyond half a MiB, as on a disk that is full."""
    work = rich / "full"
    copy(whole_run, work, "epoch_1.pth")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limits[1]))
    try:
        result = train(rich, "full", *NO_WORKERS, resume=["--resume"], run=partial(call, check=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    assert last.startswith("train.py: ")
    assert "full/epoch_2.pth could not be written (File too large): it needs" in last
    assert "MiB are free; earlier checkpoints are whole, make room and go on with --resume" in last
    assert names(work) == ["epoch_1.pth"]
    assert (work / "epoch_1.pth").read_bytes() == (whole_run / "epoch_1.pth").read_bytes()


def test_a_state_that_does_not_fit_is_refused(rich, whole_run, tmp_path):
    """By the checks before the run, and by what mmengine raises while it resumes."""
    good = torch.load(whole_run / "epoch_1.pth", weights_only=True)
    for changes, match in (
        (dict(param_schedulers=None), "the state of 0 parts of a schedule"),
        (dict(message_hub={}), "cannot be resumed from (AssertionError: "),
    ):
        torch.save(good | changes, tmp_path / "changed.pth")
        refused("train.py", "augmented.py", "--work-dir", tmp_path / "work", "--resume",
                tmp_path / "changed.pth", "--cfg-options", *SMALL, cwd=rich, match=match)  # fmt: skip


def test_a_start_from_weights_none_of_which_fits_is_refused(rich, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    refused("train.py", "augmented.py", "--cfg-options", *SMALL, f"load_from={tmp_path}/other.pth", cwd=rich,
            match="holds no parameter that fits the config's model (its first: 'conv1.weight')")  # fmt: skip
