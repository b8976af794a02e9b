# SPDX-License-Identifier: Apache-2.0
"""make_shapes_dataset.py makes the data set, or says in one sentence why not, and replaces nothing else."""

import json
from pathlib import Path

import pytest
from commands import call

SMALL = ("--train", 2, "--val", 1, "--size", 64)


def _run(*args):
    return call("make_shapes_dataset.py", *args, cwd=Path.cwd(), check=False)


def _assert_one_sentence(done, status, *words):
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert str(word) in lines[0]


def _info(root):
    return json.loads((root / "annotations" / "instances_val2017.json").read_text())["info"]


def test_it_makes_the_data_set_once_and_replaces_it_with_force(tmp_path):
    out = tmp_path / "deep" / "shapes"
    done = _run(out, *SMALL, "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1
    assert "2 + 1 images" in done.stdout and str(out) in done.stdout
    made = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert len(made) == 8 and _info(out).items() >= dict(train=2, val=1, size=64, seed=7).items()
    done = _run(out, *SMALL, "--seed", 7)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("already there") and len(done.stdout.splitlines()) == 1
    other = (out, *SMALL[2:], "--train", 1)
    _assert_one_sentence(_run(*other), 1, out, "--force")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == made
    done = _run(*other, "--force")
    assert done.returncode == 0 and "1 + 1 images" in done.stdout
    assert _info(out)["train"] == 1
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("option", [[], ["--force"]], ids=["plain", "force"])
def test_a_foreign_folder_is_never_replaced(option, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    _assert_one_sentence(_run(tmp_path, *option), 1, tmp_path, "another folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("option", ["--size=8", "--train=-1", "--val=1000000000", "--seed=-1"])
def test_bad_arguments(option, tmp_path):
    word = option[2:].split("=")[0]
    _assert_one_sentence(_run(tmp_path / "shapes", option), 2, f"error: {word} must be")
    assert not list(tmp_path.iterdir())


def test_what_is_no_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    _assert_one_sentence(_run(file), 1, file, "is a file")
    _assert_one_sentence(_run(file / "new", "--train", 1), 1, file / "new", "can't be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
