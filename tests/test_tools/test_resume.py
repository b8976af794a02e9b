# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, or whose disk is full, goes on with --resume to the weights it would have had."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import CONFIG, ROOT, SMALL, refused, tool
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop

from mmcarafe.checkpoint import writing
from mmcarafe.checkpoint.random_state import random_state
from mmcarafe.checkpoint.resuming import (
    checkpoint_folder,
    checkpoint_to_resume,
    read_training_state,
    written_checkpoints,
)
from mmcarafe.checkpoint.writing import WholeFileBackend
from mmcarafe.engine.hooks.checkpoint_hook import CheckpointHook
from mmcarafe.engine.hooks.sampler_seed_hook import DistSamplerSeedHook
from mmcarafe.errors import CheckpointWriteError, InputError

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
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))"


@pytest.fixture(scope="module")
def rich(toy) -> Path:
    """The folder with the data and two configs."""
    (toy / "augmented.py").write_text(AUGMENTED)
    (toy / "by_iteration.py").write_text(BY_ITERATION)
    return toy


@pytest.fixture(scope="module")
def whole_run(rich) -> Path:
    """The work directory of a run nothing happened to, with all its checkpoints."""
    train(rich, "whole", "default_hooks.checkpoint.max_keep_ckpts=9")
    return rich / "whole"


def train(folder: Path, work_dir: str, *options, resume=(), config="augmented.py"):
    return tool("train.py", config, "--work-dir", work_dir, *resume, "--cfg-options", *SMALL, *options,
                cwd=folder)  # fmt: skip


def start_with(prelude: str, folder: Path, work_dir: str, *options, resume=()) -> subprocess.Popen:
    """train.py in a process that first runs some lines of Python."""
    script = str(ROOT / "tools/train.py")
    code = f"{prelude}\nimport runpy\nsys = __import__('sys')\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n"
    code += f"sys.argv[0] = {script!r}\nrunpy.run_path({script!r}, run_name='__main__')\n"
    args = ["augmented.py", "--work-dir", work_dir, *resume, "--cfg-options", *SMALL, *options]
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
    (path.parent / "frozen").unlink(missing_ok=True)


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


def test_killed_at_any_moment_it_ends_with_the_same_weights(rich, whole_run):
    work = rich / "killed"
    process = start_with("", rich, "killed")
    kill_when(work / "last_checkpoint", process)  # in validation or early in the second epoch
    assert names(work) == ["epoch_1.pth"]

    freeze = partial(FREEZE.format, name="epoch_2.pth")
    process = start_with(freeze(moment="half"), rich, "killed", resume=["--resume"])
    kill_when(rich / "frozen", process)
    # only one checkpoint is kept, and it goes when the next one is there
    assert names(work) == ["epoch_1.pth", "epoch_2.pth.partial"]
    half = (work / "epoch_2.pth.partial").read_bytes()

    process = start_with(freeze(moment="renamed"), rich, "killed", resume=["--resume"])
    kill_when(rich / "frozen", process)
    assert names(work) == ["epoch_1.pth", "epoch_2.pth"]
    assert (work / "epoch_2.pth").stat().st_size > len(half)
    assert "epoch_2.pth" not in (work / "last_checkpoint").read_text()

    result = train(rich, "killed", resume=["--resume"])
    assert "resumed epoch: 2" in result.stdout + result.stderr
    assert "epoch_3.pth" in names(work)
    assert differences(whole_run / "epoch_3.pth", work / "epoch_3.pth") == []


def copy(source: Path, target: Path, *files: str) -> None:
    target.mkdir()
    for name in files:
        (target / name).write_bytes((source / name).read_bytes())
    (target / "last_checkpoint").write_text(str(target / files[-1]))


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(rich, whole_run):
    work = rich / "damaged"
    copy(whole_run, work, "epoch_1.pth", "epoch_2.pth", "epoch_3.pth")
    data = (work / "epoch_3.pth").read_bytes()
    (work / "epoch_3.pth").write_bytes(data[: len(data) // 2])
    data = bytearray((work / "epoch_2.pth").read_bytes())
    data[len(data) // 2] ^= 1  # torch.load does not notice
    (work / "epoch_2.pth").write_bytes(data)
    (work / "epoch_9.pth.partial").write_bytes(b"half")
    result = train(rich, "damaged", "default_hooks.checkpoint.max_keep_ckpts=9", resume=["--resume"])
    log = result.stdout + result.stderr
    assert "damaged/epoch_3.pth cannot be read as weights: it is cut off or damaged" in log
    assert "damaged/epoch_2.pth cannot be read as weights: it is damaged, the checksum of" in log
    assert "resumed epoch: 1" in log
    assert "epoch_9.pth.partial, which a run was killed while writing" in log
    assert names(work) == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]
    assert differences(whole_run / "epoch_3.pth", work / "epoch_3.pth") == []


def test_without_a_whole_checkpoint_it_says_so(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert checkpoint_to_resume(cfg) == (None, None, [])
    for epoch in (1, 2):
        (tmp_path / f"epoch_{epoch}.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints .* resumed from; the newest: .*epoch_2.pth"
    ):
        checkpoint_to_resume(cfg)


def test_without_the_random_state_it_warns_and_differs(rich, whole_run):
    work = rich / "other"
    copy(whole_run, work, "epoch_1.pth")
    checkpoint = torch.load(work / "epoch_1.pth", weights_only=True)
    del checkpoint["meta"]["mmcarafe"]  # as mmengine's own hook writes it
    torch.save(checkpoint, work / "epoch_1.pth")
    result = train(rich, "other", "train_cfg.max_epochs=2", resume=["--resume"])
    assert "holds no random state for this number of processes" in result.stdout + result.stderr
    assert differences(whole_run / "epoch_2.pth", work / "epoch_2.pth") != []


def test_iterations_resumed_in_the_middle_of_the_data(rich):
    """Three batches are all the data, and the batches come from the training process itself."""
    by_iteration = partial(train, rich, config="by_iteration.py")
    by_iteration("iterations")
    copy(rich / "iterations", rich / "iterations2", "iter_2.pth")
    by_iteration("iterations2", resume=["--resume"])
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
    process = start_with(LIMIT, rich, "full", resume=["--resume"])
    _, log = process.communicate(timeout=120)
    assert process.returncode == 1
    last = log.strip().splitlines()[-1]
    assert "Traceback" not in log, log[-3000:]
    assert last.startswith("train.py: ")
    assert "full/epoch_2.pth could not be written (File too large): it needs" in last
    assert "MiB are free; earlier checkpoints are whole, make room and go on with --resume" in last
    assert names(work) == ["epoch_1.pth"]
    assert (work / "epoch_1.pth").read_bytes() == (whole_run / "epoch_1.pth").read_bytes()


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "new folder/epoch_1.pth"
    WholeFileBackend().put(b"good", path)
    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(
        CheckpointWriteError, match=r"epoch_1.pth could not be written \(No space left on dev"
    ):
        WholeFileBackend().put(b"better", path)
    assert path.read_bytes() == b"good"
    assert list(path.parent.iterdir()) == [path]


def test_order_of_checkpoints(tmp_path):
    def made(*files):
        for age, name in enumerate(files):
            (tmp_path / name).write_text(str(tmp_path / "epoch_3.pth"))
            os.utime(tmp_path / name, (age, age))
        return [path.name for path in written_checkpoints(tmp_path, tmp_path)]

    assert made() == []
    assert made("epoch_2.pth", "epoch_10.pth", "best_mAP_epoch_11.pth", "other.pth") == [
        "epoch_10.pth", "epoch_2.pth"
    ]  # fmt: skip
    # 10 was left by an earlier run in the same folder; 4 is younger than the note
    young = ("last_checkpoint", "epoch_4.pth")
    assert made("epoch_10.pth", "epoch_2.pth", "epoch_3.pth", "iter_5.pth", *young) == [
        "epoch_4.pth", "epoch_3.pth", "epoch_2.pth"
    ]  # fmt: skip
    elsewhere = tmp_path / "elsewhere"  # the folder was copied from there, and training went on
    elsewhere.mkdir()
    (elsewhere / "epoch_3.pth").touch()
    for path in ("/moved/epoch_3.pth", elsewhere / "epoch_3.pth"):
        (tmp_path / "last_checkpoint").write_text(str(path))
        assert written_checkpoints(tmp_path, tmp_path)[0] == tmp_path / "epoch_3.pth"
    # killed while the note was written, or it is none: the youngest file
    for note in (b"", b"/moved/epo", b"\xff" * 5000):
        (tmp_path / "last_checkpoint").write_bytes(note)
        assert [path.name for path in written_checkpoints(tmp_path, tmp_path)][:2] == [
            "epoch_4.pth",
            "iter_5.pth",
        ]
    (tmp_path / "epoch_99.pth").symlink_to("nowhere")  # is then refused by name
    assert written_checkpoints(tmp_path, tmp_path)[0].name == "epoch_99.pth"


def test_checkpoints_are_looked_for_where_the_hook_writes_them():
    assert checkpoint_folder(Config(dict(work_dir="work/run"))) == Path("work/run")
    hook = dict(checkpoint=dict(type="CheckpointHook", out_dir="/big"))
    assert checkpoint_folder(Config(dict(work_dir="work/run", default_hooks=hook))) == Path("/big/run")


def test_a_state_that_cannot_be_resumed_is_named(whole_run, tmp_path):
    good = torch.load(whole_run / "epoch_1.pth", weights_only=True)
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
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=match):
            read_training_state(path)


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        ('optimizer=dict(_delete_=True, type="SGD", lr=1e-4)', "than the config's SGD (momentum)"),
        (
            "paramwise_cfg=dict(bias_decay_mult=0.0)",
            "than the config's AdamW (loaded state dict has a different",
        ),
    ],
    ids=["kind", "groups"],
)
def test_another_optimizer_is_refused(rich, whole_run, optimizer, match):
    (rich / "other_optimizer.py").write_text(f'_base_ = "augmented.py"\noptim_wrapper = dict({optimizer})\n')
    refused("train.py", "other_optimizer.py", "--work-dir", "refused", "--resume", whole_run / "epoch_1.pth",
            "--cfg-options", *SMALL, cwd=rich, match=match)  # fmt: skip


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
        changed("ema_state_dict", "module.backbone.bn1.running_var", value=torch.full((8,), torch.nan)),
        "holds NaN or infinity in 1 parameters (first: 'backbone.bn1.running_var')",
    ),
    "history": (changed("message_hub", value={}), "cannot be resumed from (AssertionError: "),
}


@pytest.mark.parametrize(("change", "match"), BROKEN.values(), ids=BROKEN)
def test_a_state_that_does_not_fit_is_refused(rich, whole_run, change, match, tmp_path):
    checkpoint = torch.load(whole_run / "epoch_1.pth", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.pth")
    refused("train.py", "augmented.py", "--work-dir", tmp_path / "work", "--resume", tmp_path / "changed.pth",
            "--cfg-options", *SMALL, cwd=rich, match=match)  # fmt: skip


def test_a_start_from_weights_none_of_which_fits_is_refused(rich, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    refused("train.py", "augmented.py", "--cfg-options", *SMALL, f"load_from={tmp_path}/other.pth", cwd=rich,
            match="holds no parameter of the config's model (its first: 'conv1.weight')")  # fmt: skip


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


def test_the_hooks_have_mmengines_names():
    init_default_scope("mmdet")
    assert type(HOOKS.build(dict(type="CheckpointHook"))) is CheckpointHook
    assert type(HOOKS.build(dict(type="DistSamplerSeedHook"))) is DistSamplerSeedHook


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


@pytest.mark.parametrize(("seed", "epochs"), [(5, [[5, 6], [7, 8]]), (None, [[5, 6], [5, 6]])])
def test_workers_draw_other_numbers_in_each_epoch_of_a_seeded_run(seed, epochs):
    init = partial(worker_init_fn, num_workers=2, rank=0, seed=5)
    loader = SimpleNamespace(num_workers=2, worker_init_fn=init, _iterator="workers")
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = loader
    for epoch, expected in enumerate(epochs):
        runner = SimpleNamespace(train_loop=loop, epoch=epoch, seed=5, _randomness_cfg=dict(seed=seed))
        DistSamplerSeedHook().before_train_epoch(runner)
        for worker, worker_seed in enumerate(expected):
            loader.worker_init_fn(worker)
            assert torch.initial_seed() == worker_seed
    assert (loader._iterator is None) == (seed is not None)


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


@pytest.mark.parametrize(("iteration", "warns"), [(6, False), (7, True)])
def test_a_checkpoint_in_the_middle_of_an_epoch_is_reported(iteration, warns):
    warnings, hook = [], CheckpointHook()
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = range(3)
    hook._resumed = dict(random=[random_state()], input_sizes=[])
    logger = SimpleNamespace(warning=warnings.append)
    hook._continue(SimpleNamespace(train_loop=loop, iter=iteration, logger=logger, model=torch.nn.Identity()))
    assert warnings == ["resumed in the middle of an epoch: mmengine begins this epoch anew"] * warns
