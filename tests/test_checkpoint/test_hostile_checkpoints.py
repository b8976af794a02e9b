# SPDX-License-Identifier: Apache-2.0
"""No checkpoint file runs code or takes memory it does not hold; each is refused in one sentence."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIG, SMALL, refused
from hostile import CODE, Call
from mmengine.logging import HistoryBuffer
from torch import nn

from mmcarafe.checkpoint.state_dict import check_checkpoint, read_state_dict
from mmcarafe.errors import InputError

pytestmark = pytest.mark.usefixtures("unprotected")


def zipped(content, path):
    torch.save(content, path)


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


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


def read(path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as refusal:
        read_state_dict(str(path))
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"checkpoint {path} ")
    return sentence


@pytest.mark.parametrize("name", payloads())
@pytest.mark.parametrize("save", [zipped, legacy, bare, in_tar])
def test_code_is_refused_and_not_run(save, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(payloads()[name], "bad.pth")
    sentence = read("bad.pth")
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
    assert "it is a TorchScript program" in read(tmp_path / "script.pth")


@pytest.mark.parametrize(
    "content",
    [
        Call(np.ndarray, (4,), "O"),
        Call(np.dtype, "O"),
        Call(np.dtype, [("a", "O")]),
        Call(HistoryBuffer, [1.0], [1]),
        Call(np._core.multiarray._reconstruct, np.ndarray, (10**9,), "b"),
        Call(np._core.multiarray.scalar, np.dtype("i4"), b"0000"),
        Call(getattr, HistoryBuffer, "update"),
    ],
    ids=["array", "dtype", "fields", "history", "reconstruct", "scalar", "getattr"],
)
def test_the_types_of_mmengine_take_only_what_mmengine_writes(content, tmp_path):
    torch.save(dict(state_dict={}, extra=content), tmp_path / "bad.pth")
    torch.load(tmp_path / "bad.pth", weights_only=False)  # each is a call that works
    read(tmp_path / "bad.pth")


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


def rewrite(source: Path, target: Path, change, **options) -> Path:
    """A zip archive with its parts changed: change(name, data)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.fixture
def huge(tmp_path) -> list[Path]:
    """Small files that declare a terabyte and more, or a GiB in compressed form."""
    number, huge = b"M\xe8\x03", b"\x8a\x07" + (10**15).to_bytes(7, "little")
    weights, files = dict(state_dict=dict(a=torch.arange(1000.0))), []
    zipped(weights, tmp_path / "good.pth")
    files.append(rewrite(tmp_path / "good.pth", tmp_path / "numel.pth", lambda _, x: x.replace(number, huge)))
    legacy(weights, tmp_path / "legacy.pth")
    data = (tmp_path / "legacy.pth").read_bytes()
    assert data.count(number) == 2
    (tmp_path / "legacy.pth").write_bytes(data.replace(number, huge))
    files.append(tmp_path / "legacy.pth")
    bomb = bytes(2**30)
    files.append(rewrite(
        tmp_path / "good.pth", tmp_path / "bomb.pth", lambda name, x: bomb if name.endswith("data/0") else x,
        compression=zipfile.ZIP_DEFLATED,
    ))  # fmt: skip
    for name, content in (
        ("expanded", dict(a=torch.ones(1).expand(10**12))),
        ("bytes", dict(a=Call(bytearray, 10**13))),
        ("tensor", dict(a=Call(torch.FloatTensor, 10**13))),
        ("allocated", dict(a=Call(torch.FloatTensor, 10**8))),
        ("size", dict(a=Call(torch.Tensor, 10**13))),
    ):
        files.append(tmp_path / f"{name}.pth")
        torch.save(content, files[-1])
    return files


def test_what_a_file_does_not_hold_is_not_allocated(huge):
    code = (
        "import resource, sys\nfrom mmcarafe.errors import InputError\n"
        "from mmcarafe.checkpoint.state_dict import read_state_dict\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_state_dict(path)\n        print('read')\n"
        "    except InputError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, huge)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.startswith(f"checkpoint {path} ") for line, path in zip(lines, huge, strict=True)], lines


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (torch.full((2, 3), float("nan")), r"NaN or infinity in 1 parameters \(first: 'weight'\)"),
        (torch.full((2, 3), float("inf")), r"NaN or infinity in 1 parameters \(first: 'weight'\)"),
        (torch.ones(3, 2), r"another architecture .* 1 parameters do not fit \(first: 'size mismatch for w"),
        (torch.ones(2, 3).to_sparse(), "holds no state dict"),
        (torch.ones(2, 3, device="meta"), "holds no state dict"),
        (torch.quantize_per_tensor(torch.ones(2, 3), 1.0, 0, torch.qint8), "holds no state dict"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "holds no state dict"),
        (torch.full((2, 3), float("nan")).to(torch.float8_e4m3fn), "NaN or infinity in 1 parameters"),
        (torch.ones(2, 3, dtype=torch.int64), "1 parameters are other kinds of numbers"),
        (torch.ones(2, 3, dtype=torch.complex64), "1 parameters are other kinds of numbers"),
        ([[1.0] * 3] * 2, "holds no state dict"),
        (None, "another architecture .* 1 parameters are missing"),
    ],
    ids=[
        "nan",
        "inf",
        "shape",
        "sparse",
        "meta",
        "quantized",
        "nested",
        "float8",
        "integer",
        "complex",
        "list",
        "missing",
    ],
)
def test_weights_that_are_none_are_refused(weight, match, tmp_path):
    state = {"bias": torch.zeros(2)} | ({} if weight is None else {"weight": weight})
    torch.save(dict(state_dict=state), tmp_path / "bad.pth")
    with pytest.raises(InputError, match=match):
        check_checkpoint(nn.Linear(3, 2), str(tmp_path / "bad.pth"))


@pytest.mark.parametrize("cut", [0, 1, 30, 0.3, 0.9, -1])
@pytest.mark.parametrize("save", [zipped, legacy])
def test_cut_files_are_refused(cut, save, tmp_path):
    save(dict(state_dict=nn.Linear(9, 9).state_dict(), meta=dict(epoch=1)), tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * cut) if 0 < cut < 1 else cut])
    assert "cannot be read as weights" in read(tmp_path / "cut.pth")


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
    assert "only data is read" in read(tmp_path / "bad.pth")


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
            assert "without its two rows of numbers" in read(path)


def test_no_memory_or_time_is_spent_on_what_a_few_bytes_ask_for(tmp_path):
    torch.save(dict(state_dict={}, extra=Call(bytearray, 2**34)), tmp_path / "long.pth")
    assert "it asks for builtins.bytearray" in read(tmp_path / "long.pth")
    nested = ["a"]
    for _ in range(60):
        nested = [nested, nested]
    torch.save(dict(state_dict={}, extra=Call(np.dtype, nested)), tmp_path / "nested.pth")
    assert "numpy data of the type a list" in read(tmp_path / "nested.pth")


def test_a_wrong_bit_anywhere_is_found(tmp_path):
    """One bit at each byte of the archive's directory, and of every 7th byte before it."""
    path, state = tmp_path / "bit.pth", nn.Linear(9, 9).state_dict()
    torch.save(dict(state_dict=state), path)
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    for position in (*range(0, directory, 7), *range(directory, len(data))):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        try:
            found = read_state_dict(str(path))[1]
        except InputError:
            continue
        assert found.keys() == state.keys()  # a bit of a date, say
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_parameters_that_share_their_data_are_accepted(tmp_path):
    """mmdet's DETRs hold one head under several names; a file has its data once."""
    weight = torch.ones(300, 300)
    torch.save(dict(state_dict=dict(a=weight, b=weight, c=weight[:, :5])), tmp_path / "shared.pth")
    assert read_state_dict(str(tmp_path / "shared.pth"))[1].keys() == {"a", "b", "c"}


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
    code = "import mmcarafe.utils.cli, torch; torch.load('bad.pth')"
    done = subprocess.run([sys.executable, "-c", code], cwd=toy, capture_output=True, text=True)
    assert "UnpicklingError" in done.stderr
    assert not (toy / "marker").exists()


def test_resuming_runs_no_config_of_a_checkpoint(trained, toy):
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=True)
    checkpoint["meta"]["config"] = CODE
    torch.save(checkpoint, toy / "config.pth")
    refused("train.py", CONFIG, "--resume", "config.pth", "--cfg-options", *SMALL, "train_cfg.max_epochs=1",
            cwd=toy, match="has a meta.config, which mmengine would run as Python")  # fmt: skip
    assert not (toy / "marker").exists()
