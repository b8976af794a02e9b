# SPDX-License-Identifier: Apache-2.0
"""The page of measurements is made of committed results, and says no more than they do."""

import copy
import json

import cv2
import evidence_page
import pytest
from commands import ROOT, call

from mmcarafe.comparison.intervals import summarise
from mmcarafe.comparison.page import _points, at_a_glance, section
from mmcarafe.comparison.report import cell
from mmcarafe.comparison.runs import add_result
from mmcarafe.errors import InputError
from mmcarafe.utils.markdown import split_section

CARAFE = "CARAFE,mask_head.compressed_channels=32 in both"


def line(arm: str, seed: int, ap: float) -> dict:
    def metrics(ap: float) -> dict:
        ends = ("", "_50", "_75", "_s")
        aps = {f"coco/{kind}_mAP{end}": ap for kind in ("bbox", "segm", "boundary") for end in ends}
        return aps | {"coco/segm_mAP_l": -1.0}

    curve = [dict(epoch=epoch, iter=epoch, metrics=metrics(ap - less)) for epoch, less in ((1, 0.2), (2, 0))]
    cost = dict(train_seconds=1800.0, seconds_an_image=0.05, parameters=1_500_000, flops=2_000_000_000)
    what = dict(config="some_config", recipe="aaaa", settings=arm, arm=arm, seed=seed, shape=[160, 160])
    where = dict(device="x86_64", versions=dict(mmcarafe="0.1.0", torch="2.13.0"))
    return what | dict(metrics=metrics(ap), curve=curve) | cost | where


ONE = [line(CARAFE, 0, 0.45), line("config", 0, 0.40)]
RENEW = "run python tools/misc/evidence_page.py --pages docs"
THREE = [*ONE, line(CARAFE, 1, 0.48), line("config", 1, 0.42), line("config", 2, 0.44), line(CARAFE, 2, 0.51)]


def written(lines: list[dict]) -> str:
    return section(lines, "config", "differences.png", "curves.png")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs/evidence").glob("*.jsonl")))
def test_the_page_is_made_of_the_committed_results(name):
    _, inside, _ = split_section(ROOT / "docs/evidence.md", name)
    expected = evidence_page.sections(ROOT / "docs")[name]
    assert inside.strip() == expected, RENEW
    for picture in evidence_page.pictures_of(name):
        assert (ROOT / "docs/evidence" / picture).is_file()


def test_the_page_begins_with_all_that_was_found():
    above, inside, _ = split_section(ROOT / "docs/evidence.md", evidence_page.GLANCE)
    assert "## " not in above
    assert inside.strip() == evidence_page.sections(ROOT / "docs")[evidence_page.GLANCE], RENEW


def test_each_arm_has_a_row_at_a_glance_and_runs_of_two_comparisons_one():
    maps = [
        dict(line("maps", seed, 0), arm=arm, recipe="bbbb", metrics={"mIoU": value, "mBoundaryF": value})
        for seed, arm, value in [(0, "config", 80.0), (1, "config", 81.0), (0, "CARAFE in neck", 82.0)]
    ]
    text = at_a_glance(
        {"[One](#one)": THREE, "two": [*THREE, line("bilinear in neck", 0, 0.4)], "maps": maps}, "config"
    )
    one, other, count = text.split("\n\n")
    assert count == "3 of these 3 intervals leave 0 out; by chance one in twenty does."
    said = "+6.00 (+3.52 to +8.48, 3 seeds)"
    assert one.splitlines() == [
        "| comparison | arm | box AP | mask AP | boundary AP |",
        "| --- | --- | --- | --- | --- |",
        f"| [One](#one) | CARAFE in both | {said} | {said} | {said} |",
        "| two | bilinear in neck" + 3 * " | +0.00, one seed: no interval" + " |",
    ]
    assert other.splitlines()[2:] == [
        "| maps | CARAFE in neck | +2.00, one seed: no interval | +2.00, one seed: no interval |"
    ]


def test_arms_of_one_short_name_that_are_not_the_same_runs_are_both_at_a_glance():
    other = [line("CARAFE,up_kernel=3 in both", seed, 0.4) for seed in (0, 1)] + THREE[1:2]
    rows = at_a_glance({"one": THREE, "two": other}, "config").splitlines()
    assert [row.split(" | ")[:2] for row in rows[2:4]] == [
        ["| one", "CARAFE in both"],
        ["| two", "CARAFE in both"],
    ]


def test_three_seeds_have_means_differences_and_intervals():
    text = written(THREE)
    assert "6 runs of `some_config` (fingerprint aaaa), 3 for each arm: 3.0 hours" in text
    assert "on x86_64, with mmcarafe 0.1.0, torch 2.13.0" in text
    # differences 5, 6 and 7 points: the half of the interval is 4.3027 / sqrt(3)
    said = "+6.00 (+3.52 to +8.48, 3 seeds)"
    columns = (f"{kind} {name}" for kind in ("box", "mask", "boundary") for name in ("AP", "AP50", "AP75"))
    assert f"| arm | seeds | {' | '.join(columns)} |" in text
    assert f"| CARAFE in both | 3 | 48.0 ± 3.0<br>{said} |" in text
    assert "| arm | seeds | box AP small | mask AP small | boundary AP small |" in text, "-1 is no AP"
    assert "from epoch 1 to 2 it changed by +20.0 to +20.0 points" in text
    assert "| CARAFE in both | 28.0 | 48.0 |" in text
    assert "nothing can be concluded" not in text and "fewer seeds" not in text


def test_a_point_that_an_interrupted_run_lost_is_left_out_of_the_rise():
    lost = dict(THREE[2], curve=THREE[2]["curve"][1:])
    text = written([*THREE[:2], lost, *THREE[3:]])
    assert "from epoch 1 to 2 it changed by +20.0 to +20.0 points" in text
    assert "| CARAFE in both | 28.0 (2 seeds) | 48.0 |" in text
    assert "its value there is lost" in text and "its value there is lost" not in written(THREE)


def test_one_seed_is_no_evidence():
    text = written(ONE)
    assert "**One seed for each arm so far: nothing can be concluded yet.**" in text
    assert "| 45.0<br>+5.00, one seed: no interval |" in text
    text = written([*ONE, line("config", 1, 0.41)])
    assert "3 runs of `some_config` (fingerprint aaaa), 1 to 2 for each arm" in text
    assert "An arm with fewer seeds than the first row is compared with it over its own" in text
    assert "**Arms with one seed have no interval: nothing can be concluded of them yet.**" in text


def test_an_interval_with_zero_in_it_is_said_to_be_none():
    text = written([*ONE, line(CARAFE, 1, 0.39), line("config", 1, 0.40)])
    assert "<br>no difference seen: +2.00 (-36.12 to +40.12, 2 seeds) |" in text


def test_an_arm_without_a_seed_of_the_baseline_has_no_difference():
    assert "| CARAFE in both | 1 | 40.0 | 40.0 |" in written([line(CARAFE, 5, 0.4), ONE[1]])
    assert at_a_glance({"one": [line(CARAFE, 5, 0.4), ONE[1]]}, "config").endswith(
        "| CARAFE in both | - | - | - |"
    )


def test_arguments_are_named_where_they_tell_arms_apart():
    assert "| CARAFE,start=nearest in both | 1 |" in written(
        [*ONE, line("CARAFE,start=nearest in both", 0, 0.4)]
    )


def test_the_baseline_may_have_arguments():
    text = section(ONE, CARAFE, "differences.png", "curves.png")
    assert "| config | 1 | 40.0<br>-5.00" in text and "differences to CARAFE in both" in text


def test_results_of_several_recipes_are_refused():
    with pytest.raises(InputError, match="results of one recipe, got those of 2"):
        written([*ONE, ONE[1] | dict(recipe="bbbb")])
    with pytest.raises(InputError, match="results of one recipe, got those of 0"):
        written([])


def test_the_command_writes_sections_and_plots(tmp_path):
    (tmp_path / "evidence").mkdir()
    page = tmp_path / "evidence.md"
    glance = "<!-- at-a-glance: begin -->\n{}<!-- at-a-glance: end -->\n"
    glance += "## Some, small\n<!-- small: begin -->\n{}<!-- small: end -->\n"
    page.write_text(glance.format("", ""))
    for one in THREE:
        add_result(tmp_path / "evidence/small.jsonl", one)
    call("evidence_page.py", "--pages", tmp_path, cwd=tmp_path)
    expected = section(THREE, "config", "evidence/small-differences.png", "evidence/small-curves.png")
    all_of_it = at_a_glance({"[Some, small](#some-small)": THREE}, "config")
    assert page.read_text() == glance.format(f"{all_of_it}\n", f"{expected}\n")
    for name in ("small-differences.png", "small-curves.png"):
        assert cv2.imread(str(tmp_path / "evidence" / name)).std() > 5
    assert call("evidence_page.py", cwd=tmp_path).stdout.count("hours in the training loop") >= 1


def test_curves_go_forward_where_the_first_run_lost_a_point():
    lines = copy.deepcopy(THREE)
    lost = lines[0]["curve"].pop(0)["epoch"]
    epochs = [*_points(lines, "config")[lines[0]["arm"]]]
    assert lost in epochs and epochs == sorted(epochs)


@pytest.mark.parametrize("arm", ["CARAFE in neck", "CARAFE in mask_head", "CARAFE in both"])
def test_what_was_found_one_by_one_is_what_the_page_says(arm):
    runs = json.loads((ROOT / "docs/evidence/nuclei-imagenet-one-by-one.json").read_text())["runs"]
    row = [arm]
    for kind in ("bbox", "segm", "boundary"):
        ours, theirs = (
            {run["seed"]: run["metrics"][f"coco/{kind}_mAP"] for run in runs if run["arm"] == name}
            for name in (arm, "config")
        )
        row.append(cell(summarise(ours, theirs, 0.001), 100, 1))
    assert f"| {' | '.join(row)} |" in (ROOT / "docs/evidence.md").read_text()
