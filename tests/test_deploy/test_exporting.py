# SPDX-License-Identifier: Apache-2.0
"""A part that fixes its size cannot be exported for others, and says so; files are written whole."""

import pytest
import torch
from torch import nn

from mmcarafe.deploy import exporting
from mmcarafe.deploy.exporting import program_of, save
from mmcarafe.deploy.parts import Part
from mmcarafe.deploy.runtimes import megabytes, runtime
from mmcarafe.errors import InputError


class OfOneSize(nn.Module):
    def forward(self, image):
        return image + torch.zeros(192, 1)


@pytest.mark.needs(torch="2.10")
def test_a_fixed_size_is_named():
    part = Part(OfOneSize(), (torch.rand(2, 3, 192, 224),), [1])
    assert program_of(part, dynamic=False)
    with pytest.raises(InputError, match=r"--dynamic: this model fixes a size .* leave --dynamic out"):
        program_of(part, dynamic=True)


@pytest.mark.needs(torch="2.10")
def test_files_are_replaced_when_new_ones_are_whole(tmp_path, monkeypatch):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the ONNX tools, an optional requirement, are not installed")
    monkeypatch.setattr(exporting, "MAX_IN_ONE_FILE", 0)  # weights have a file of their own
    part = Part(nn.Conv2d(3, 64, 3), (torch.rand(1, 3, 32, 32),), [1])
    program, path = program_of(part, dynamic=False), tmp_path / "model.onnx"
    save(program, part, path, 19)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert megabytes(path) * 1e6 == sum(file.stat().st_size for file in tmp_path.iterdir())
    torch.testing.assert_close(runtime(path)[0](part.inputs)[0], part.module(*part.inputs))
    before = path.read_bytes()

    def interrupted(program, part, path, opset):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(program, part, path, 19)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
