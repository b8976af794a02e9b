# SPDX-License-Identifier: Apache-2.0
"""The benchmark compares forms that compute the same, measures what it says, and writes its files."""

import copy
import json

import benchmark_op
import pytest
import torch
from benchmark import cpu, page, report, rows
from benchmark.forms import FORMS, Inputs
from benchmark.measure import Call, in_turn
from commands import ROOT, call, refused, tool

from mmcarafe.errors import InputError
from mmcarafe.ops import carafe
from mmcarafe.utils.markdown import markers, split_section

BEGIN, END = markers(page.NAMES["cpu"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the tool wrote, for small maps in the place of an FPN's."""
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        for shape in ("P3", "P5"):
            patch.setitem(rows.SHAPES, shape, (1, 8, 6, 10))
        patch.setattr(cpu, "MATRIX_SIDE", 256)
        patch.setattr(cpu, "reuse_memory", lambda: None)  # it cannot be undone in this process
        benchmark_op.main(["--shapes", "P5", "--rounds", "1", "--threads", "1", "--out", str(folder)])
    return folder


@pytest.fixture
def measured(written) -> dict:
    return json.loads((written / "benchmark.json").read_text())["cpu"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_in_plain_pytorch_computes_carafe(name):
    inputs = Inputs.draw((2, 3, 5, 4), "contiguous", requires_grad=False)
    got = FORMS[name](inputs.features, inputs.masks, 5, 2)
    torch.testing.assert_close(got, carafe(inputs.features, inputs.masks, 5, 1, 2))


def test_layout_of_the_inputs():
    inputs = Inputs.draw((1, 8, 5, 4), "channels_last", requires_grad=True)
    for t in (inputs.features, inputs.masks, inputs.output_grad()):
        assert t.is_contiguous(memory_format=torch.channels_last)
    assert inputs.features.requires_grad
    assert inputs.masks.is_leaf


def test_extra_memory_finds_a_temporary():
    count = 2**22

    def function(_):
        temporary = torch.ones(count) + 1
        return temporary[:4].clone()

    assert 0.9 * 4 * count < cpu.Cpu().extra_memory(Call(function)) < 4 * 4 * count


def test_rows_are_called_in_turn():
    called = []
    calls = {name: [Call(lambda _, name=name: called.append(name))] for name in "ab"}
    times = in_turn(cpu.Cpu(), calls, rounds=2)
    assert called == ["a", "b"] * 3
    assert [result["calls"] for result in times.values()] == [2, 2]


def test_compiling_is_for_one_shape_and_forms_for_contiguous_maps():
    small, large = (
        Inputs.draw((1, size, 8, 8), "contiguous", False) for size in (1, rows.MAX_FEATURES // 64 + 1)
    )

    def names(inputs, shape, layout="contiguous"):
        return set(rows.rows_of("cpu", inputs, "compiled", shape, layout)[0])

    assert names(small, "P3") - names(small, "P4") == {f"{name}, compiled" for name in FORMS}
    assert names(small, "P4") - names(small, "P4", "channels_last") == set(FORMS)
    assert names(small, "P4") - names(large, "P4") == set(FORMS)


def test_measures_both_passes_and_layouts(written, measured):
    assert (written / page.PLOT).stat().st_size > 10_000
    found = {(r["layout"], r["what"], r["row"]) for r in measured["results"]}
    for what in rows.PASSES:
        assert ("channels_last", what, "nearest") in found
        assert ("channels_last", what, "mmcarafe reference") in found
        for name in ("CARAFE layer", "deconvolution", "unfold, einsum"):
            assert ("contiguous", what, name) in found
    assert all(0 < r["least"] <= r["ms"] <= r["most"] for r in measured["results"])
    assert [r["row"] for r in measured["results"] if r["what"] == "forward+backward by threads"] == ["1"]
    assert report.of(measured, "matrix product", what="forward, memory reused", key="gflops") > 1
    # mmcv's operator has no kernel there, and says so
    assert any("cpu not found" in r["why"] for r in measured["left_out"] if r["row"] == "mmcv")


def complete(measured: dict) -> dict:
    """The measurements as if every shape and the model had been run."""
    data, results = copy.deepcopy(measured), measured["results"]
    data["results"] = [dict(r, shape=s) for s in rows.SHAPES for r in results if r["what"] in rows.PASSES]
    data["results"] += [dict(r, row=f"{r['row']}, compiled") for r in data["results"] if r["row"] in FORMS]
    data["results"] += [r for r in results if r["what"] not in rows.PASSES]
    case = dict(shape=page.MODEL, layout="contiguous", dtype="float32", what="forward")
    for name, ms in (("nearest + deconv", 100), ("CARAFE", 102)):
        data["results"].append(case | dict(row=f"{name}: FPN", ms=ms))
    return data


def test_targets(measured):
    targets = {t["name"]: t for t in report.targets("cpu", complete(measured))}
    assert len(targets) == 21
    model = targets["Mask R-CNN with CARAFE / nearest + deconv"]
    assert model["value"] == pytest.approx(1.02)
    assert model["met"]
    assert targets["slower layout / faster, P3, forward"]["value"] >= 1


def test_the_page_is_written_again_from_its_measurements(measured, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    page.write_page(path, "cpu", complete(measured))
    text = path.read_text()
    assert text.startswith(f"above\n{BEGIN}\nOne run of")
    assert text.endswith(f"{END}\nbelow\n")
    assert "old" not in text.split()
    assert "| together | 100 | 102 |" in text
    assert "nan" not in text
    assert (tmp_path / page.PLOT).is_file()
    path.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    call("benchmark_op.py", "--from", "page.json", "--page", "page.md", cwd=tmp_path)
    assert path.read_text() == text
    refused(
        "benchmark_op.py",
        "--from",
        "page.json",
        "--device",
        "cuda",
        cwd=tmp_path,
        match="page.json: expected",
    )


@pytest.mark.parametrize("device", page.SECTIONS)
def test_the_page_is_what_its_measurements_give(device):
    data = page.read(ROOT / "docs/benchmarks.json").get(device)
    if data is None:
        pytest.skip(f"no measurements on {device}: a run with --page docs/benchmarks.md writes them")
    _, inside, _ = split_section(ROOT / "docs/benchmarks.md", page.NAMES[device])
    assert inside.strip() == page.SECTIONS[device](data).strip()


def test_a_page_that_does_not_fit_is_left_alone(measured, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("mine")
    with pytest.raises(InputError, match="benchmark: begin"):
        page.write_page(path, "cpu", complete(measured))
    with pytest.raises(InputError, match="of a run with --all"):
        page.write_page(path, "cpu", measured)
    assert path.read_text() == "mine"


def test_a_page_needs_all(tmp_path):
    result = call("benchmark_op.py", "--page", "README.md", cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "--page needs --all" in result.stderr


@pytest.mark.slow
def test_memory_is_reused_in_a_process_of_its_own(tmp_path):
    options = ["--shapes", "P5", "--peers", "none", "--rounds", 1, "--threads", 1, "--out", "here"]
    said = tool("benchmark_op.py", *options, cwd=tmp_path).stdout
    assert "mmcarafe reference" in said and "memory reused" in said
