# SPDX-License-Identifier: Apache-2.0
"""No command runs code of a checkpoint."""

import runpy
from pickle import UnpicklingError

import pytest
import torch
from commands import CONFIG, SMALL, refused
from hostile import CODE, Call

from mmcarafe.utils import cli

pytestmark = pytest.mark.usefixtures("unprotected")


def test_tools_refuse_code(trained, toy, tmp_path):
    bad = toy / "bad.pth"
    torch.save(dict(state_dict={}, extra=Call(exec, CODE)), bad)
    small = ("--cfg-options", *SMALL)
    match = "checkpoint bad.pth cannot be read as weights: it asks for exec"
    refused("test.py", CONFIG, "bad.pth", *small, cwd=toy, match=match)
    refused("train.py", CONFIG, "--resume", "bad.pth", *small, cwd=toy, match=match)
    refused("train.py", CONFIG, *small, "load_from=bad.pth", cwd=toy, match=match)
    pretrained = ("model.neck.init_cfg.type=Pretrained", "model.neck.init_cfg.checkpoint=bad.pth")
    refused("train.py", CONFIG, *small, *pretrained, cwd=toy, match=match)
    refused("convert_checkpoint.py", "bad.pth", "new.pth", cwd=toy, match=match)
    image = next((toy / "data/shapes/val2017").glob("*.png"))
    refused("demo.py", image, CONFIG, "bad.pth", cwd=toy, match=match)
    refused("visualize_kernels.py", CONFIG, "bad.pth", image, "--out", "kernels", cwd=toy, match=match)
    assert not (toy / "marker").exists()


def test_environment_variables_do_not_turn_the_protection_off(toy, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(dict(state_dict={}, extra=Call(exec, CODE)), toy / "bad.pth")
    runpy.run_path(cli.__file__)  # as a command imports it
    with pytest.raises(UnpicklingError):
        torch.load(toy / "bad.pth")
    assert not (toy / "marker").exists()


def test_resuming_runs_no_config_of_a_checkpoint(trained, toy):
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=True)
    checkpoint["meta"]["config"] = CODE
    torch.save(checkpoint, toy / "config.pth")
    refused("train.py", CONFIG, "--resume", "config.pth", "--cfg-options", *SMALL, "train_cfg.max_epochs=1",
            cwd=toy, match="has a meta.config, which mmengine would run as Python")  # fmt: skip
    assert not (toy / "marker").exists()
