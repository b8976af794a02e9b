# SPDX-License-Identifier: Apache-2.0
"""How the tools end: mistakes in a sentence, anything else with its trace."""

import logging
import os
import re
import sys

import pytest
import torch
from mmdet.registry import MODELS

from mmcarafe.errors import InputError
from mmcarafe.utils import cli
from mmcarafe.utils.cli import run


def test_a_class_that_is_not_registered():
    with pytest.raises(SystemExit) as ended:
        run(lambda: MODELS.build(dict(type="NobodysHead")))
    message = str(ended.value)
    assert re.search(r"NobodysHead is not in the mmdet::model registry: check its spelling", message)
    assert "custom_imports replaces that of its _base_" in message
    assert "http" not in message


@pytest.mark.parametrize("error", [KeyError("a"), KeyError(), KeyError(3)], ids=repr)
def test_any_other_key_error_keeps_its_trace(error):
    def main():
        raise error

    with pytest.raises(KeyError):
        run(main)


@pytest.mark.parametrize(
    ("error", "said"), [(InputError("no such thing"), "no such thing"), (ValueError("odd"), "Traceback")]
)
def test_a_process_that_fails_waits_for_no_other(error, said, monkeypatch, capsys):
    """With nccl, to free the group would: the others are in a collective call."""
    running = ["nccl"]

    def end(status):
        running.clear()
        raise SystemExit(status)

    def main():
        raise error

    monkeypatch.setattr(cli, "backend", lambda: running[0] if running else None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: pytest.fail("it waits"))
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 1 and said in capsys.readouterr().err


def test_an_operator_without_its_gpu_kernel():
    def main():
        raise RuntimeError("nms_impl: implementation for device cuda:0 not found.\n")

    with pytest.raises(SystemExit, match="mmcv was built without CUDA; put CUDA_VISIBLE_DEVICES= in front"):
        run(main)


def test_weights_that_need_torchvision(monkeypatch, tmp_path):
    """mmengine imports it, and setup_env.sh installs it beside torch's CUDA builds only."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    backbone = dict(
        type="ResNet", depth=18, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18")
    )
    with pytest.raises(SystemExit, match=r"come through torchvision, which is not installed.*init_cfg=None"):
        run(lambda: MODELS.build(dict(backbone, _scope_="mmdet")).init_weights())
