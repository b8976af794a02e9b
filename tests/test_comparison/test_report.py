# SPDX-License-Identifier: Apache-2.0
"""Reports say what was measured, and call nothing a difference that may be chance."""

import json

import cv2
import pytest
from commands import call, refused

from mmcarafe.comparison.report import difference_text, kinds_of, summary
from mmcarafe.comparison.runs import add_result


def line(arm: str, seed: int, ap: float, recipe: str = "aaaa") -> dict:
    metrics = {f"coco/segm_mAP{end}": ap for end in ("", "_50", "_75", "_s", "_m")} | {
        "coco/segm_mAP_l": -1.0
    }
    cost = dict(train_seconds=60.0 + seed, seconds_an_image=0.05, parameters=1_500_000, flops=2_000_000_000)
    what = dict(config="some_config", recipe=recipe, settings=recipe + arm, arm=arm, seed=seed)
    return what | dict(metrics=metrics, curve=[], shape=[160, 160]) | cost


# by seed 0.40, 0.42, 0.41; CARAFE 1, 2 and 3 points better, deconv exactly 2, bilinear has one seed
LINES = [
    *(line("CARAFE in neck", seed, ap) for seed, ap in enumerate([0.41, 0.44, 0.44])),
    *(line("config", seed, ap) for seed, ap in enumerate([0.40, 0.42, 0.41])),
    *(line("deconv in neck", seed, ap) for seed, ap in enumerate([0.4201, 0.44, 0.4299])),
    line("bilinear in neck", 0, 0.39),
]


@pytest.fixture
def out(tmp_path):
    for one in LINES:
        add_result(tmp_path / "runs.jsonl", one)
    return tmp_path


def test_teachers_and_students_are_told_apart():
    keys = ("teacher/coco/bbox_mAP", "student/coco/bbox_mAP", "coco/segm_mAP", "coco/segm_mAP_50")
    assert [*kinds_of([dict(measured=dict.fromkeys(keys))]).values()] == [
        "teacher box AP",
        "student box AP",
        "mask AP",
    ]


def test_summary_is_that_computed_by_hand():
    (recipe,) = summary(LINES, "config")
    arms = {arm["arm"]: arm for arm in recipe["arms"]}
    assert next(iter(arms)) == "config", "the baseline is the first"
    baseline = arms["config"]["measured"]["coco/segm_mAP"]
    whole = dict(mean=pytest.approx(0.41), std=pytest.approx(0.01), median=0.41, count=3, difference=None)
    assert baseline == whole
    difference = arms["CARAFE in neck"]["measured"]["coco/segm_mAP"]["difference"]
    half = 0.01 * 4.302653 / 3**0.5
    assert difference == dict(
        mean=pytest.approx(0.02),
        count=3,
        low=pytest.approx(0.02 - half),
        high=pytest.approx(0.02 + half),
        seen=False,
    )
    assert arms["deconv in neck"]["measured"]["coco/segm_mAP"]["difference"]["seen"]
    assert "coco/segm_mAP_l" not in arms["config"]["measured"], "-1 is no AP"
    assert arms["bilinear in neck"]["seeds"] == [0]


def test_an_interval_with_zero_in_it_is_no_difference():
    seen = dict(mean=0.02, count=5, low=0.01, high=0.03, seen=True)
    assert difference_text(seen) == "+2.00 (+1.00 to +3.00, 5 seeds)"
    assert difference_text(seen | dict(low=-0.01, seen=False)) == (
        "no difference seen: +2.00 (-1.00 to +3.00, 5 seeds)"
    )
    assert difference_text(dict(mean=-0.01, count=1, low=None, high=None, seen=False)) == (
        "-1.00, one seed: no interval"
    )


def test_the_command_writes_markdown_json_and_a_plot(out):
    written = call("compare_upsamplers.py", "--report", "--out", out, cwd=out).stdout.split()
    page, data, picture = (out / name for name in ("report.md", "report.json", "report-aaaa.png"))
    assert written == [str(page), str(data), str(picture)]
    text = page.read_text()
    assert "| CARAFE in neck | 43.0 ± 1.7<br>no difference seen: +2.00 (-0.48 to +4.48, 3 seeds) |" in text
    assert "| bilinear in neck | 39.0<br>-1.00, one seed: no interval |" in text
    assert "| config | 3 (0, 1, 2) | 1.500 | 2.00 | 1.0 | 50 |" in text
    assert "![differences and their intervals](report-aaaa.png)" in text
    recipes = json.loads(data.read_text())["recipes"]
    assert recipes == summary(LINES, "config")
    assert cv2.imread(str(picture)).std() > 5


def test_recipes_are_not_mixed(out):
    for seed in range(2):
        add_result(out / "runs.jsonl", line("config", seed, 0.9, "bbbb"))
    recipes = summary([*LINES, line("config", 0, 0.9, "bbbb")], "config")
    assert [len(recipe["arms"]) for recipe in recipes] == [4, 1]
    assert recipes[0] == summary(LINES, "config")[0]
    call("compare_upsamplers.py", "--report", "--out", out, cwd=out)
    assert (out / "report-aaaa.png").is_file() and (out / "report-bbbb.png").is_file()


def test_without_results_or_baseline_there_is_no_report(out, tmp_path_factory):
    refused("compare_upsamplers.py", "--report", "--out", out, "--baseline", "nearest in neck", cwd=out,
            match="no run of the baseline 'nearest in neck', only of 'CARAFE in neck'")  # fmt: skip
    empty = tmp_path_factory.mktemp("empty")
    refused(
        "compare_upsamplers.py", "--report", "--out", empty, cwd=empty, match="has no results: train first"
    )


def test_a_run_that_finds_nothing_counts_as_0():
    """mmdet reports no AP of it."""
    empty = line("bilinear in neck", 1, 0.0) | dict(metrics={})
    (recipe,) = summary([*LINES, empty], "config")
    arm = next(arm for arm in recipe["arms"] if arm["arm"] == "bilinear in neck")
    assert arm["measured"]["coco/segm_mAP"]["mean"] == pytest.approx(0.39 / 2)
