# SPDX-License-Identifier: Apache-2.0
"""The hook writes pictures during training and changes nothing else."""

import cv2
import pytest
import torch
from commands import CONFIG, SMALL, TWIN, tool

from mmcarafe.engine import CARAFEVisualizationHook

HOOK = "custom_hooks=[dict(type='CARAFEVisualizationHook', module='neck', {})]\n"
TWO_EPOCHS = [*SMALL, "train_cfg.max_epochs=2", "train_cfg.val_interval=1", "randomness.seed=0"]
NO_VALIDATION = "val_cfg = None\nval_dataloader = None\nval_evaluator = None\n"
NAMES = ("trace", "kernels", "entropy", "features")


@pytest.fixture
def config(toy, tmp_path):
    """Writes a config that changes the embedded one."""

    def write(text: str):
        path = tmp_path / f"changed{len(list(tmp_path.glob('*.py')))}.py"
        path.write_text(f"_base_ = {str(CONFIG)!r}\n{text}")
        return path

    return write


def train(config, work_dir, cwd, *options):
    tool("train.py", config, "--work-dir", work_dir, "--cfg-options", *TWO_EPOCHS, *options, cwd=cwd)


def pictures(work_dir) -> set[str]:
    found = list(work_dir.glob("*/vis_data/vis_image/carafe_*.png"))
    assert all(cv2.imread(str(path)).std() > 20 for path in found)
    return {path.name for path in found}


@pytest.mark.parametrize(
    ("settings", "options", "steps"),
    [("", "", (3, 6)), (NO_VALIDATION, "interval=2, by_epoch=False", (2, 4, 6))],
    ids=["validation", "iterations"],
)
def test_training_goes_on_as_without_the_hook(config, toy, tmp_path, settings, options, steps):
    train(config(settings), tmp_path / "without", toy)
    train(config(settings + HOOK.format(options)), tmp_path / "with", toy)
    without, having = (
        torch.load(tmp_path / name / "epoch_2.pth", weights_only=True)["state_dict"]
        for name in ("without", "with")
    )
    assert without.keys() == having.keys()
    for name, value in without.items():
        assert torch.equal(value, having[name]), name
    assert pictures(tmp_path / "without") == set()
    assert pictures(tmp_path / "with") == {
        f"carafe_neck_{name}_{step}.png" for name in NAMES for step in steps
    }


def test_without_validation_it_counts_epochs(config, toy, tmp_path):
    train(config(NO_VALIDATION + HOOK.format("interval=2")), tmp_path / "work", toy)
    assert pictures(tmp_path / "work") == {f"carafe_neck_{name}_6.png" for name in NAMES}


def test_pictures_are_in_tensorboard(config, toy, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    backends = "vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]\n"
    visualizer = "visualizer = dict(vis_backends=vis_backends)\n"
    text = backends + visualizer + HOOK.format("points=[(40, 60)]")
    train(config(text), tmp_path / "work", toy, "train_cfg.max_epochs=1")
    (file,) = tmp_path.glob("work/*/vis_data/events.out.tfevents.*")
    events = reader.EventAccumulator(str(file)).Reload()
    assert {f"carafe_neck_{name}" for name in NAMES} <= set(events.Tags()["images"])
    (event,) = events.Images("carafe_neck_trace")
    assert event.step > 0
    assert event.width > 800


def test_two_processes_do_not_wait_for_each_other(config, toy, tmp_path):
    tool("dist_train.sh", config(HOOK.format("")), 2, "--work-dir", tmp_path / "work",
         "--cfg-options", *TWO_EPOCHS, cwd=toy)  # fmt: skip
    assert len(pictures(tmp_path / "work")) == 8
    assert (tmp_path / "work/epoch_2.pth").is_file()


def test_a_mistake_is_named(toy, tmp_path):
    with pytest.raises(ValueError, match="interval: expected 1 or more, got 0"):
        CARAFEVisualizationHook(interval=0)
    for base, hook, match in (
        (TWIN, HOOK.format(""), "the model has no CARAFE module; leave the hook out"),
        (
            CONFIG,
            HOOK.format("").replace("neck", "nek"),
            "module: expected the beginning of one of neck.upsample",
        ),
    ):
        changed = tmp_path / "changed.py"
        changed.write_text(f"_base_ = {str(base)!r}\n{hook}")
        options = ("--work-dir", tmp_path, "--cfg-options", *SMALL)
        result = tool("train.py", changed, *options, cwd=toy, check=False)
        assert match in result.stderr
        assert result.returncode != 0
