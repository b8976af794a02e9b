# SPDX-License-Identifier: Apache-2.0
"""The benchmark compares forms that compute the same, measures what it says, and writes its files."""

import copy
import json

import pytest
import torch
from benchmark import measure as benchmark_measure
from benchmark import peers as benchmark_peers
from benchmark import readme as benchmark_readme
from benchmark import report as benchmark_report
from commands import tool

from mmcarafe.errors import InputError
from mmcarafe.ops import carafe
from mmcarafe.utils.markdown import markers

BEGIN, END = markers(benchmark_readme.NAME)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """What the tool writes for one small FPN level."""
    out = tmp_path_factory.mktemp("benchmark")
    options = ["--shapes", "P5", "--rounds", 1, "--threads", 1, "--out", "here"]
    result = tool("benchmark_op.py", *options, cwd=out)
    assert "mmcarafe reference" in result.stdout
    assert (out / "here/benchmark.png").stat().st_size > 10_000
    return json.loads((out / "here/benchmark.json").read_text())


@pytest.mark.parametrize("name", benchmark_peers.FORMS)
def test_every_form_in_plain_pytorch_computes_carafe(name):
    inputs = benchmark_peers.Inputs.draw((2, 3, 5, 4), "contiguous", requires_grad=False)
    got = benchmark_peers.FORMS[name](inputs.features, inputs.masks, 5, 2)
    torch.testing.assert_close(got, carafe(inputs.features, inputs.masks, 5, 1, 2))


def test_layout_of_the_inputs():
    inputs = benchmark_peers.Inputs.draw((1, 8, 5, 4), "channels_last", requires_grad=True)
    for t in (inputs.features, inputs.masks, inputs.output_grad()):
        assert t.is_contiguous(memory_format=torch.channels_last)
    assert inputs.features.requires_grad
    assert inputs.masks.is_leaf


def test_extra_memory_finds_a_temporary():
    count = 2**22

    def call():
        temporary = torch.ones(count) + 1
        return temporary[:4].clone()

    assert 0.9 * 4 * count < benchmark_measure.extra_memory(benchmark_measure.Row(call)) < 4 * 4 * count


def test_rows_are_called_in_turn():
    calls = []
    rows = {name: benchmark_measure.Row(lambda name=name: calls.append(name)) for name in "ab"}
    times = benchmark_measure.in_turn(rows, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(t) for t in times.values()] == [2, 2]


def test_measures_both_passes_and_layouts(measured):
    rows = {(r["layout"], r["what"], r["row"]) for r in measured["results"]}
    for what in ("forward", "forward+backward"):
        assert ("channels_last", what, "nearest") in rows
        assert ("channels_last", what, "mmcarafe reference") in rows
        for name in ("CARAFE layer", "deconvolution", "unfold, einsum"):
            assert ("contiguous", what, name) in rows
    assert all(0 < r["least"] <= r["ms"] <= r["most"] for r in measured["results"])
    assert [r["threads"] for r in measured["scaling"]] == [1]
    assert measured["reused"]["matmul"]["gflops"] > 1
    assert "cpu not found" in measured["mmcv"]  # mmcv's operator has no kernel there, and says so


def complete(measured: dict) -> dict:
    """The measurements as if every shape and the model had been run."""
    data = copy.deepcopy(measured)
    data["results"] = [dict(r, shape=s) for s in ("P2", "P3", "P5", "100 RoIs") for r in measured["results"]]
    data["results"] += [
        dict(r, row=f"{r['row']}, compiled") for r in data["results"] if r["row"] in benchmark_peers.FORMS
    ]
    data["model"] = {f"{name}: FPN": dict(ms=ms) for name, ms in (("nearest + deconv", 100), ("CARAFE", 102))}
    data["targets"] = benchmark_report.targets(data)
    return data


def test_targets(measured):
    targets = {t["name"]: t for t in benchmark_report.targets(complete(measured))}
    assert len(targets) == 15
    model = targets["Mask R-CNN with CARAFE / nearest + deconv"]
    assert model["value"] == pytest.approx(1.02)
    assert model["met"]
    assert targets["slower layout / faster, P3, forward"]["value"] >= 1


def test_readme_section_is_replaced(measured, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    benchmark_readme.write_readme(complete(measured), readme)
    text = readme.read_text()
    assert text.startswith(f"above\n{BEGIN}\nOne run of")
    assert text.endswith(f"{END}\nbelow\n")
    assert "old" not in text.split()
    assert "| together | 100 | 102 |" in text
    assert (tmp_path / benchmark_readme.PLOT).is_file()


def test_readme_without_markers_is_left_alone(measured, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    with pytest.raises(InputError, match="benchmark: begin"):
        benchmark_readme.write_readme(complete(measured), readme)
    assert readme.read_text() == "mine"


def test_readme_needs_all(tmp_path):
    result = tool("benchmark_op.py", "--page", "README.md", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "--page needs --all" in result.stderr
