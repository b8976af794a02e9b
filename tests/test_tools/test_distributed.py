# SPDX-License-Identifier: Apache-2.0
"""Training in several processes and on two hosts computes what one process does; a lost process ends the run.

The config makes the average of the processes' losses the loss of all images together: the same number of
samples in each image, whichever they are, chosen without random numbers, no batch statistics, one image size.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import CONFIG, ROOT, free_port, metrics, tool
from mmdet.registry import HOOKS

from mmcarafe.engine.hooks.logger_hook import LoggerHook

SLOW = pytest.mark.slow
STEPS = 6  # in three epochs of eight images, four in a step
LIMIT = 200  # seconds for a run, on a busy machine
EQUAL = f"""
_base_ = {str(CONFIG)!r}
custom_imports = dict(imports=["mmcarafe.models", "distributed_parts"])
norm_cfg = dict(type="GN", num_groups=4)
model = dict(
    backbone=dict(base_channels=8, norm_eval=True),
    neck=dict(in_channels=[8, 16, 32, 64], norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(fc_out_channels=32), mask_head=dict(norm_cfg=norm_cfg)),
    train_cfg=dict(
        rpn=dict(sampler=dict(type="FirstSampler")),
        # one positive sample, which an image always has: its own object
        rcnn=dict(sampler=dict(type="FirstSampler", num=32, pos_fraction=1 / 32)),
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=3, val_interval=9)
# a large step and no division by the gradient's size, which would make rounding errors large
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.02, momentum=0.9))
param_scheduler = []
find_unused_parameters = False
custom_hooks = [dict(type="MeanLosses")]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=9))
"""
# "full" would save with offload_to_cpu=True; mmengine clips by the norm of each process' part of the gradient
FSDP = """
_base_ = "equal.py"
runner_type = "FlexibleRunner"
strategy = dict(
    type="FSDPStrategy",
    model_wrapper=dict(type="MMFullyShardedDataParallel", device_id="cpu"),
    state_dict_cfg=dict(
        state_dict_type="FULL_STATE_DICT",
        state_dict_config=dict(type="FullStateDictConfig"),
        optim_state_dict_config=dict(type="FullOptimStateDictConfig"),
    ),
)
optim_wrapper = dict(clip_grad=None)
"""
# two hosts with an address each, joined by a cable: pulled out when the first one has written a checkpoint
TWO_HOSTS = """
set -eu
ip link add name veth0 type veth peer name veth1
unshare -n sleep 600 > /dev/null & other=$!
trap 'kill $other' EXIT
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link set veth1 netns $other
on_other() { nsenter -t $other -n "$@"; }
ip addr add 10.77.0.1/24 dev veth0; ip link set veth0 up; ip link set lo up
on_other ip addr add 10.77.0.2/24 dev veth1; on_other ip link set veth1 up; on_other ip link set lo up
[ $# -gt 0 ] || exit 0
export NNODES=2 MASTER_ADDR=10.77.0.1
NODE_RANK=1 GLOO_SOCKET_IFNAME=veth1 on_other "$@" --work-dir second > second.log 2>&1 & second=$!
NODE_RANK=0 GLOO_SOCKET_IFNAME=veth0 "$@" --work-dir hosts > hosts.log 2>&1 & first=$!
if [ -n "${PULL:-}" ]; then
    while [ ! -e hosts/epoch_1.pth ]; do sleep 0.05; done
    ip link set veth0 down
fi
wait $first || code=$?
wait $second || code=$?
exit ${code:-0}
"""


def run(command: list, folder: Path, **env) -> tuple[int, str]:
    """Exit status and output of a command; its processes are ended where it takes too long."""
    variables = dict(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH=str(Path(__file__).parents[1] / "helpers"),
        PORT=free_port(), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1",
    )  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), cwd=folder, start_new_session=True, text=True,
        env={**os.environ, **variables, **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(
            process.pid, signal.SIGTERM
        )  # torchrun then ends its workers, which have groups of their own
        time.sleep(5)
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, out


def train_command(processes: int, *options, config="equal.py", images=None) -> list:
    images = images or 4 // processes
    return ["bash", ROOT / "tools/dist_train.sh", config, processes, *options,
            "--cfg-options", f"train_dataloader.batch_size={images}"]  # fmt: skip


def train(folder: Path, work_dir: str, processes: int, *options, config="equal.py", **env) -> Path:
    code, out = run(train_command(processes, "--work-dir", work_dir, *options, config=config), folder, **env)
    assert code == 0, out[-3000:]
    return folder / work_dir


def weights(work_dir: Path, epoch: int = 3) -> dict:
    return torch.load(work_dir / f"epoch_{epoch}.pth", weights_only=True)["state_dict"]


def losses(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (work_dir / "losses.jsonl").read_text().splitlines()]


def assert_same_bits(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(value.equal(theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight images and the configs."""
    path = tmp_path_factory.mktemp("distributed")
    tool("make_shapes_dataset.py", "data/shapes", "--train", 8, "--val", 2, cwd=path)
    (path / "equal.py").write_text(EQUAL)
    (path / "fsdp.py").write_text(FSDP)
    return path


@pytest.fixture(scope="module")
def one(folder) -> Path:
    """The work directory of one process, without torchrun."""
    command = [sys.executable, ROOT / "tools/train.py", "equal.py", "--work-dir", "one"]
    code, out = run(command, folder)
    assert code == 0, out[-3000:]
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder) -> Path:
    """The work directory of two processes."""
    return train(folder, "two", 2)


def assert_as_one_process(several: Path, one: Path) -> None:
    ours, theirs = losses(several), losses(one)
    assert len(ours) == len(theirs) == STEPS
    for step, expected in zip(ours, theirs, strict=True):
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-7)
    last, first = weights(one), weights(one, 1)
    carafe = [name for name in last if "content_encoder.weight" in name]
    assert len(carafe) == 4
    assert all((last[name] - first[name]).abs().max() > 1e-4 for name in carafe)  # they learn
    for name, value in weights(several).items():
        torch.testing.assert_close(value, last[name], rtol=1e-5, atol=1e-6)


@SLOW
def test_two_processes_compute_what_one_does(two, one):
    assert_as_one_process(two, one)


@SLOW
def test_four_processes_compute_what_one_does(folder, one):
    assert_as_one_process(train(folder, "four", 4), one)


def test_a_killed_worker_ends_the_run_and_it_resumes_to_the_same_bits(folder, two):
    code, out = run(train_command(2, "--work-dir", "killed"), folder, DIE="1:3")
    seconds = time.time() - (folder / "killed/losses.jsonl").stat().st_mtime
    assert code == 1
    assert seconds < 60
    last = out.strip().splitlines()[-1]
    assert last.startswith("launch.py: process 1 (local rank 1, pid "), last
    assert "was killed by SIGKILL, and the others were ended" in last
    assert "--resume" in last
    assert len(losses(folder / "killed")) == 3
    resumed = train(folder, "killed", 2, "--resume")
    assert losses(resumed)[3:] == losses(two)[2:]
    assert_same_bits(weights(resumed), weights(two))


@SLOW
def test_a_mistake_is_named_by_the_tool_and_the_process_by_the_launcher(folder):
    code, out = run([*train_command(1, "--resume"), "strategy.type=FSDPStrategy"], folder)
    assert code == 1
    assert "train.py: --resume is not possible with FSDPStrategy" in out
    assert out.strip().splitlines()[-1].startswith("launch.py: process 0 (local rank 0, pid ")
    assert "ended with exit status 1 and the message above" in out


@SLOW
def test_fsdp_computes_what_ddp_does(folder):
    command = train_command(2, "--work-dir", "unclipped")
    code, out = run([*command, "optim_wrapper.clip_grad=None"], folder)
    assert code == 0, out[-3000:]
    sharded = train(folder, "fsdp", 2, config="fsdp.py")
    assert losses(sharded) == losses(folder / "unclipped")
    assert_same_bits(weights(sharded), weights(folder / "unclipped"))
    other = ["model.neck.upsample_cfg.up_kernel=3", "--work-dir", "tested"]
    command = [sys.executable, ROOT / "tools/test.py", "fsdp.py", sharded / "epoch_2.pth", "--cfg-options"]
    code, out = run([*command, *other], folder)
    assert code == 1 and "epoch_2.pth was made by another architecture than this config builds" in out, out
    for name, processes in (("equal.py", 1), ("fsdp.py", 2)):
        command = ["bash", ROOT / "tools/dist_test.sh", name, sharded / "epoch_2.pth", processes]
        found = ["--cfg-options", "model.test_cfg.rcnn.score_thr=0.0"]  # whatever has learnt so little
        code, out = run([*command, "--work-dir", f"tested {name}", *found], folder)
        assert code == 0, out[-3000:]
        assert "coco/segm_mAP" in metrics(folder / f"tested {name}")


def hosts(folder: Path, *command, **env) -> tuple[int, str]:
    isolate = ["unshare", "--user", "--map-root-user", "--net", "--fork", "--kill-child"]
    return run([*isolate, "bash", "-c", TWO_HOSTS, "hosts", *command], folder, **env)


@pytest.fixture
def two_hosts(folder):
    """A function that runs a command on two hosts of a network, where this machine lets one be made."""
    try:
        code, out = hosts(folder)
    except FileNotFoundError as error:
        code, out = 1, str(error)
    if code != 0:
        pytest.skip(f"network namespaces are not permitted here: {out.strip()}")
    return hosts


@SLOW
def test_two_hosts_compute_what_one_does(two_hosts, folder, two):
    code, _ = two_hosts(folder, *train_command(1, images=2))
    assert code == 0, (folder / "hosts.log").read_text()[-3000:] + (folder / "second.log").read_text()[-3000:]
    assert not list((folder / "second").glob("*.pth"))  # the first host writes
    assert losses(folder / "hosts") == losses(two)
    assert_same_bits(weights(folder / "hosts"), weights(two))


@SLOW
def test_hosts_that_see_different_checkpoints_are_told_so(two_hosts, folder, tmp_path, two):
    for name in ("data", "equal.py"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "hosts").symlink_to(two)
    code, _ = two_hosts(tmp_path, *train_command(1, "--resume", images=2))
    assert code == 1
    for log in ("hosts.log", "second.log"):
        assert "train.py: the processes find different checkpoints to start" in (tmp_path / log).read_text()


@SLOW
def test_a_host_that_is_cut_off_ends_the_run_after_the_timeout(two_hosts, tmp_path, folder):
    for name in ("data", "equal.py"):
        (tmp_path / name).symlink_to(folder / name)
    command = [*train_command(1, images=2), "env_cfg.dist_cfg.timeout=20", "train_cfg.max_epochs=1000"]
    code, _ = two_hosts(tmp_path, *command, PULL="1")
    log = (tmp_path / "hosts.log").read_text()
    assert code == 1
    assert time.time() - (tmp_path / "hosts/losses.jsonl").stat().st_mtime < 60
    assert log.strip().splitlines()[-1].startswith("launch.py: process 0"), log[-3000:]
    assert "--resume" in log


@SLOW
def test_amp_trains_in_bfloat16_near_float32(folder, one):
    command = [sys.executable, ROOT / "tools/train.py", "equal.py", "--work-dir", "amp", "--amp"]
    code, out = run(command, folder)
    assert code == 0, out[-3000:]
    for name, value in weights(folder / "amp").items():
        assert value.isfinite().all() and value.dtype in (torch.float32, torch.int64), name
    for ours, theirs in zip(losses(folder / "amp"), losses(one), strict=True):
        assert ours["loss"] != theirs["loss"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


def test_the_first_process_alone_writes_the_metrics_of_a_test(monkeypatch):
    assert HOOKS.get("LoggerHook") is LoggerHook
    with pytest.raises(AttributeError):  # it asks the runner for them
        LoggerHook().after_test_epoch(None)
    monkeypatch.setattr("mmengine.dist.utils.get_rank", lambda group=None: 1)
    LoggerHook().after_test_epoch(None)
