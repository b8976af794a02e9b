# SPDX-License-Identifier: Apache-2.0
"""The table of upsamplers has every type, is written into its section, and the run says what is left."""

import json

import benchmark_op
import pytest
from benchmark import measure, page, progress, report, rows, upsamplers
from commands import call

from mmcarafe.errors import InputError
from mmcarafe.layers import TYPES
from mmcarafe.utils.markdown import markers

BEGIN, END = markers(page.NAMES["upsamplers"])
SMALL = (1, 16, 6, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tool wrote the table, for small maps in the place of an FPN's."""
    folder = tmp_path_factory.mktemp("upsamplers")
    with pytest.MonkeyPatch.context() as patch:
        for shape in upsamplers.LEVELS:
            patch.setitem(rows.SHAPES, shape, SMALL)
        benchmark_op.main(["--upsamplers", "--rounds", "1", "--threads", "1", "--out", str(folder)])
    return folder


@pytest.fixture
def data(folder) -> dict:
    return json.loads((folder / "benchmark.json").read_text())["upsamplers"]


def test_every_type_is_measured_at_every_level_in_both_layouts_and_passes(data):
    found = [(r["row"], r["shape"], r["layout"], r["what"]) for r in data["results"]]
    assert sorted(found) == sorted(
        (kind, shape, layout, what)
        for kind in set(TYPES) - {"carafe"}  # the same layer as CARAFE
        for shape in ("P3", "P4", "P5")
        for layout in rows.LAYOUTS
        for what in rows.PASSES
    )
    assert all(r["ms"] > 0 for r in data["results"])
    assert all(r["extra"] >= 0 for r in data["results"] if r["what"] == rows.FORWARD)


def test_costs_are_those_of_the_layer():
    """As in tests/test_layers/test_flops.py, for P3."""
    assert upsamplers.costs("DySample", "P3") == dict(parameters=8_224, gflop=24_576 * 16_800 / 1e9)
    assert upsamplers.costs("SAPA", "P3") == dict(parameters=17_472, gflop=139_520 * 16_800 / 1e9)


def test_carafe_is_aimed_at_the_fastest_but_interpolations(data):
    for r in data["results"]:
        r["ms"] = {"nearest": 1, "bilinear": 2, "CARAFE": 6, "DySample": 5}.get(r["row"], 9)
    targets = report.targets("upsamplers", data)
    assert len(targets) == 4
    assert all(t["value"] == pytest.approx(6 / 5) and not t["met"] for t in targets)


def test_the_section_is_written_and_made_again_of_its_measurements(data, tmp_path):
    path, empty = tmp_path / "page.md", f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    path.write_text(empty)
    page.write_page(path, "upsamplers", data)
    text = path.read_text()
    assert text.startswith(f"above\n{BEGIN}\nOne run of")
    assert text.endswith(f"{END}\nbelow\n")
    assert "nan" not in text and "old" not in text.split()
    assert text.count("| `FADE` |") == 3
    first = next(line for line in text.splitlines() if line.startswith("| P3 | `nearest` |"))
    assert first.count("(1.0)") == 4
    for options in ([], ["--upsamplers"]):
        path.write_text(empty)
        call("benchmark_op.py", "--from", "page.json", "--page", "page.md", *options, cwd=tmp_path)
        assert path.read_text() == text


def test_a_part_of_the_table_is_no_section(data, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"{BEGIN}\n{END}\n")
    data["results"] = [r for r in data["results"] if r["layout"] == "contiguous"]
    with pytest.raises(InputError, match="both layouts"):
        page.write_page(path, "upsamplers", data)


def test_types_are_compared_on_the_cpu(tmp_path):
    result = call("benchmark_op.py", "--upsamplers", "--device", "cuda", cwd=tmp_path, check=False)
    assert "--upsamplers: the types are compared on the CPU" in result.stderr


def test_progress_learns_from_what_is_over(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = progress.Progress([10, 10, 100])
    told.begin("a")
    now[0] = 20  # twice as long as expected
    told.begin("b")
    now[0] += progress.INTERVAL - 1
    told.within(7)
    now[0] += 1
    told.within(7)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 3: a; about 2 min left",
        "2 of 3: b; about 4 min left",
        "2 of 3: still b; about 3 min left",
    ]


def test_every_case_of_a_run_is_expected():
    args = benchmark_op.parse_args(["--all"])
    assert benchmark_op.tables_of(args) == ["upsamplers", "cpu"]
    table = benchmark_op.settings_of("upsamplers", args)
    assert len(measure.expected_seconds_of(table)) == 3 * 2 * 2
    compiled, eager = (
        progress.expected_seconds("P3", "contiguous", rows.FORWARD, peers) for peers in ("compiled", "eager")
    )
    assert compiled > eager
    assert progress.expected_seconds("P4", "contiguous", rows.BOTH, "compiled") == pytest.approx(
        eager * 3 / 4
    )
