# SPDX-License-Identifier: Apache-2.0
"""The command that converts weights writes a checkpoint whole, and never over one."""

import resource

import pytest
import torch
from commands import call, refused
from fork import Fork, X, ours
from samples import assert_close

from mmcarafe.checkpoint.converting import check_target, write
from mmcarafe.errors import InputError


def test_the_command_writes_a_checkpoint_and_never_over_one(tmp_path):
    module = Fork()
    torch.save(dict(meta=dict(epoch=3), state_dict=module.state_dict()), tmp_path / "theirs.pth")
    done = call("convert_checkpoint.py", "theirs.pth", "ours.pth", "--activation", "none", cwd=tmp_path)
    assert "comp.conv -> channel_compressor" in done.stdout
    assert "outputs are the source's where its forward calls pixel_shuffle" in done.stdout
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert written["meta"] == dict(epoch=3)
    assert_close(ours(written["state_dict"])(X), module(X), rtol=1e-9, atol=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pth", "theirs.pth"]
    refused("convert_checkpoint.py", "theirs.pth", "ours.pth", cwd=tmp_path, match="ours.pth exists")
    refused("convert_checkpoint.py", "no.pth", "new.pth", cwd=tmp_path, match="no.pth does not exist")
    refused("convert_checkpoint.py", "theirs.pth", "a.safetensors", cwd=tmp_path, match="end it in .pth")
    torch.save(dict(state_dict=written["state_dict"], optimizer={}), tmp_path / "trained.pth")
    call("convert_checkpoint.py", "trained.pth", "same.pth", cwd=tmp_path)
    assert "optimizer" in torch.load(tmp_path / "same.pth"), "the names are as they were"
    torch.save(dict(state_dict=module.state_dict(), optimizer=dict(a=1)), tmp_path / "other.pth")
    args = ("other.pth", "other_ours.pth", "--activation", "none")
    assert "optimizer: left out" in call("convert_checkpoint.py", *args, cwd=tmp_path).stdout
    torch.save(dict(a=torch.ones(1)), tmp_path / "other.pth")
    refused("convert_checkpoint.py", "other.pth", "new.pth", cwd=tmp_path, match="no CARAFE weights found")
    (broken := module.state_dict())["comp.bn.running_var"].fill_(float("nan"))
    torch.save(broken, tmp_path / "nan.pth")
    refused("convert_checkpoint.py", "nan.pth", "new.pth", cwd=tmp_path, match="holds NaN or infinity in 1")


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Fork().state_dict(), "theirs.pth")
    with pytest.raises(InputError, match=r"gone/ours.pth: folder gone does not exist"):
        check_target("gone/ours.pth")
    (tmp_path / "mine").write_text("mine")
    for name in ("link.pth", "ours.pth.partial"):
        (tmp_path / name).symlink_to("mine" if "ours" in name else "nowhere")
        with pytest.raises(InputError, match=f"^{name} exists"):
            check_target(name.removesuffix(".partial"))
        (tmp_path / name).unlink()
    assert (tmp_path / "mine").read_text() == "mine"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: 'ours.pth'"):
            write(Fork().state_dict(), "ours.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "theirs.pth"]
    refused("convert_checkpoint.py", "theirs.pth", "gone/a.pth", cwd=tmp_path, match="folder gone does not")
    eps = ("--bn-eps", "nan")
    refused("convert_checkpoint.py", "theirs.pth", "a.pth", *eps, cwd=tmp_path, match="--bn-eps: expected")
