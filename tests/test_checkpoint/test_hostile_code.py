# SPDX-License-Identifier: Apache-2.0
"""No checkpoint file runs code or replaces what is called; each is refused in one sentence."""

import io
import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import CODE, Call, legacy, refusal, zipped
from mmengine.logging import HistoryBuffer
from torch import nn

from mmcarafe.checkpoint.state_dict import read_state_dict

pytestmark = pytest.mark.usefixtures("unprotected")


def bare(content, path):
    Path(path).write_bytes(pickle.dumps(content, protocol=2))


def in_tar(content, path):
    """torch 0.1's format: torch before 2.6 unpickles its parts without restrictions."""
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            part = tarfile.TarInfo(name)
            part.size = len(data := pickle.dumps(content, protocol=2))
            tar.addfile(part, io.BytesIO(data))


def payloads() -> dict:
    """By name, contents that run code when unpickled, at many places of a checkpoint."""
    inner = io.BytesIO()
    torch.save(Call(exec, CODE), inner)
    objects = np.empty(1, dtype=object)
    objects[0] = Call(exec, CODE)
    history = HistoryBuffer([0.5], [1])
    history.code = Call(exec, CODE)
    return {
        "alone": Call(exec, CODE),
        "system": dict(state_dict={}, extra=Call(os.system, "touch marker")),
        "nested": dict(state_dict=OrderedDict(), meta=dict(epoch=1, hooks=[(1, {"a": [Call(exec, CODE)]})])),
        "weight": dict(state_dict=OrderedDict(weight=Call(exec, CODE))),
        "storage": dict(state_dict={}, extra=Call(torch.storage._load_from_bytes, inner.getvalue())),
        "objects": dict(state_dict={}, extra=objects),
        "history": dict(state_dict={}, message_hub=dict(log_scalars=dict(loss=history))),
    }


@pytest.mark.parametrize("name", payloads())
@pytest.mark.parametrize("save", [zipped, legacy, bare, in_tar])
def test_code_is_refused_and_not_run(save, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(payloads()[name], "bad.pth")
    sentence = refusal("bad.pth")
    assert not Path("marker").exists()
    if save in (zipped, legacy):
        assert "; only data is read from checkpoints; if you trust where it comes from" in sentence
        assert "weights_only=False" in sentence
        torch.load("bad.pth", weights_only=False)  # the payload is alive
    elif save is bare:
        assert "does not start as a file of torch.save does" in sentence
        pickle.loads(Path("bad.pth").read_bytes())
    else:
        assert "does not start as a file of torch.save does" in sentence
        return
    assert Path("marker").exists()


def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pth"))
    assert "it is a TorchScript program" in refusal(tmp_path / "script.pth")


CALLS = {
    "system": Call(os.system, "false"),
    "eval": Call(eval, "1 + 1"),
    "array": Call(np.ndarray, (4,), "O"),
    "dtype": Call(np.dtype, "O"),
    "fields": Call(np.dtype, [("a", "O")]),
    "history": Call(HistoryBuffer, [1.0], [1]),
    "reconstruct": Call(np._core.multiarray._reconstruct, np.ndarray, (10**9,), "b"),
    "scalar": Call(np._core.multiarray.scalar, np.dtype("i4"), b"0000"),
    "update": Call(getattr, HistoryBuffer, "update"),
    "init": Call(getattr, HistoryBuffer, "__init__"),
    "tofile": Call(getattr, np.ndarray, "tofile"),
    "globals": Call(getattr, Call(getattr, HistoryBuffer, "mean"), "__globals__"),
}


@pytest.mark.parametrize("content", CALLS.values(), ids=CALLS)
def test_the_types_of_mmengine_take_only_what_mmengine_writes(content, tmp_path):
    torch.save(dict(state_dict={}, extra=content), tmp_path / "bad.pth")
    torch.load(tmp_path / "bad.pth", weights_only=False)  # each is a call that works
    refusal(tmp_path / "bad.pth")
    with pytest.raises((pickle.UnpicklingError, ValueError)):  # to programs of one's own as well
        torch.load(tmp_path / "bad.pth", weights_only=True)


def test_no_file_changes_what_a_number_type_means(tmp_path):
    """numpy lets a pickle say that the numbers of a dtype are addresses of objects."""
    state = (3, "<", None, None, None, -1, -1, 63)
    spoiled = pickle.loads(pickle.dumps(Call(np.dtype, "f8", False, True, state=state)))
    assert spoiled.flags == 63
    torch.save(
        dict(state_dict={}, extra=Call(np.dtype, "f8", False, True, state=state)), tmp_path / "bad.pth"
    )
    checkpoint, _ = read_state_dict(str(tmp_path / "bad.pth"))
    assert checkpoint["extra"].flags == 0


class Pickled:
    """Pickled as a call and the items and attributes that are then set."""

    def __init__(self, function, arguments=(), attributes=None, items=()):
        self.parts = (function, arguments, attributes, None, iter(items))

    def __reduce__(self):
        return self.parts


NAN = {"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}


def with_attributes(tensor: torch.Tensor, **attributes) -> Pickled:
    function, arguments = tensor.__reduce_ex__(2)[:2]
    return Pickled(torch._tensor._rebuild_from_type_v2, (function, torch.Tensor, arguments, attributes))


@pytest.mark.parametrize(
    "state",
    [
        {**NAN, "weight": with_attributes(NAN["weight"], isfinite=torch.Tensor)},
        {**NAN, "weight": with_attributes(NAN["weight"], untyped_storage="x")},
        Pickled(OrderedDict, attributes={"items": OrderedDict}, items=NAN.items()),
        Pickled(OrderedDict, attributes={"_metadata": 5}, items=NAN.items()),
        {**NAN, "bias": torch.Tensor},
    ],
    ids=["isfinite", "storage", "items", "metadata", "class"],
)
def test_a_file_cannot_replace_what_checks_call(state, tmp_path):
    torch.save(dict(state_dict=state), tmp_path / "bad.pth")
    torch.load(tmp_path / "bad.pth", weights_only=True)  # torch allows it
    assert "only data is read" in refusal(tmp_path / "bad.pth")


def test_the_history_of_a_file_changes_no_other(tmp_path, monkeypatch):
    history, path = HistoryBuffer([1.0, 2.0, 30.0], [1, 1, 1]), tmp_path / "history.pth"
    hostile = {**history.__dict__, "statistics_methods": {"mean": HistoryBuffer.max}}
    for stored in (hostile, dict(a=1)):
        with monkeypatch.context() as patch:
            patch.setattr(HistoryBuffer, "__getstate__", lambda _, stored=stored: stored)
            torch.save(dict(state_dict={}, log=history), path)
        if stored is hostile:
            loaded = read_state_dict(str(path))[0]["log"]
            assert type(loaded) is HistoryBuffer
            assert loaded.statistics("mean") == history.statistics("mean") == 11
        else:
            assert "without its two rows of numbers" in refusal(path)


def test_no_memory_or_time_is_spent_on_what_a_few_bytes_ask_for(tmp_path):
    torch.save(dict(state_dict={}, extra=Call(bytearray, 2**34)), tmp_path / "long.pth")
    assert "it asks for builtins.bytearray" in refusal(tmp_path / "long.pth")
    nested = ["a"]
    for _ in range(60):
        nested = [nested, nested]
    torch.save(dict(state_dict={}, extra=Call(np.dtype, nested)), tmp_path / "nested.pth")
    assert "numpy data of the type a list" in refusal(tmp_path / "nested.pth")
