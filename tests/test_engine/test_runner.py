# SPDX-License-Identifier: Apache-2.0
"""The runner loads what has been read, once, and says in a sentence what of it does not fit."""

from datetime import timedelta

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from tiny_run import tiny_runner

from mmcarafe.checkpoint import state_dict
from mmcarafe.checkpoint.reading import read_checkpoint
from mmcarafe.engine import runner as module
from mmcarafe.errors import InputError


@pytest.fixture
def path(tmp_path) -> str:
    """A checkpoint of one epoch."""
    tiny_runner(tmp_path, epochs=1).train()
    return str(tmp_path / "epoch_1.pth")


def test_what_has_been_read_is_loaded_once(path, tmp_path, monkeypatch):
    runner, checkpoint, reads = tiny_runner(tmp_path), read_checkpoint(path), []
    monkeypatch.setattr(state_dict, "read_checkpoint", lambda file: reads.append(file) or checkpoint)
    runner.checkpoint = checkpoint
    runner.load_checkpoint(path)
    assert reads == []
    assert runner.checkpoint is None and not state_dict._ALREADY_READ
    assert runner.model.line.weight.equal(checkpoint["state_dict"]["line.weight"])
    runner.load_checkpoint(path)
    assert len(reads) == 1


@pytest.mark.parametrize("owner", [torch.optim.Optimizer, MessageHub], ids=["checked", "resumed"])
def test_a_gpu_without_memory_is_not_the_checkpoints_fault(path, tmp_path, monkeypatch, owner):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    cfg = tiny_runner(tmp_path, load_from=path, resume=True)
    monkeypatch.setattr(owner, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        cfg.train()


def test_what_does_not_fit_together_is_said(path, tmp_path):
    checkpoint = read_checkpoint(path)
    checkpoint["message_hub"] = {}
    runner = tiny_runner(tmp_path, load_from=path, resume=True)
    runner.checkpoint = checkpoint
    with pytest.raises(InputError, match=r"epoch_1.pth cannot be resumed from \(AssertionError: .*; use an"):
        runner.train()


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({}, False),
        (dict(env_cfg=dict(dist_cfg=dict(timeout=20))), False),
        (dict(find_unused_parameters=True), True),
        (dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", find_unused_parameters=True)), True),
        (dict(model_wrapper_cfg=dict(type="MMFullyShardedDataParallel", cpu_offload=True)), False),
    ],
    ids=["default", "timeout", "setting", "wrapper", "of GPUs"],
)
def test_processes_on_cpus_wrap_the_model_as_configured(settings, unused, monkeypatch):
    cfg = Config(dict(launcher="pytorch", **settings))
    given = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **options: given.update(options))
    monkeypatch.setattr(module, "get_device", lambda: "cpu")
    monkeypatch.setattr(module.Runner, "from_cfg", lambda cfg: cfg.model_wrapper_cfg)
    wrapper = module.build_runner(cfg)
    assert given["timeout"] == timedelta(seconds=20 if "env_cfg" in settings else 600)
    assert wrapper.type == "MMDistributedDataParallel" and "cpu_offload" not in wrapper
    assert (wrapper.find_unused_parameters, wrapper.device_ids, wrapper.broadcast_buffers) == (
        unused, None, False
    )  # fmt: skip
