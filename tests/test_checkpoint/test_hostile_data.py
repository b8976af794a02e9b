# SPDX-License-Identifier: Apache-2.0
"""No checkpoint takes memory that its file does not hold; what is damaged or no weight is refused."""

import multiprocessing
import resource
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from hostile import Call, legacy, refusal, zipped
from torch import nn

from mmcarafe.checkpoint.state_dict import check_checkpoint, read_state_dict
from mmcarafe.errors import InputError

pytestmark = pytest.mark.usefixtures("unprotected")


def rewrite(source: Path, target: Path, change, **options) -> Path:
    """A zip archive with its parts changed: change(name, data)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.fixture
def huge(tmp_path) -> list[Path]:
    """Small files that declare a terabyte and more, or more than half a GiB in compressed form."""
    number, huge = b"M\xe8\x03", b"\x8a\x07" + (10**15).to_bytes(7, "little")
    weights, files = dict(state_dict=dict(a=torch.arange(1000.0))), []
    zipped(weights, tmp_path / "good.pth")
    files.append(rewrite(tmp_path / "good.pth", tmp_path / "numel.pth", lambda _, x: x.replace(number, huge)))
    legacy(weights, tmp_path / "legacy.pth")
    data = (tmp_path / "legacy.pth").read_bytes()
    assert data.count(number) == 2
    (tmp_path / "legacy.pth").write_bytes(data.replace(number, huge))
    files.append(tmp_path / "legacy.pth")
    bomb = bytes(2**29 + 2**20)
    files.append(rewrite(
        tmp_path / "good.pth", tmp_path / "bomb.pth", lambda name, x: bomb if name.endswith("data/0") else x,
        compression=zipfile.ZIP_DEFLATED, compresslevel=1,
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


def read_in_half_a_gib(paths: list[Path]) -> list[str]:
    """What reading each file ends with, in a process that cannot have more memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
    return [refusal(path) for path in paths]


def test_what_a_file_does_not_hold_is_not_allocated(huge):
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert len(pool.submit(read_in_half_a_gib, huge).result(timeout=200)) == len(huge) == 8


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
    assert "cannot be read as weights" in refusal(tmp_path / "cut.pth")


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
