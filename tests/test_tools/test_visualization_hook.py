# SPDX-License-Identifier: Apache-2.0
"""The hook writes pictures during training and changes nothing else."""

import cv2
import pytest
import torch
from commands import CONFIG, SMALL, TWIN, call, tool

from mmcarafe.engine import CARAFEVisualizationHook
from mmcarafe.engine.hooks.kernel_visualization_hook import CHOSEN

HOOK = "custom_hooks=[dict(type='CARAFEVisualizationHook', module='neck', {})]\n"
TWO_EPOCHS = [*SMALL, "train_cfg.max_epochs=2", "train_cfg.val_interval=1", "randomness.seed=0"]
NO_VALIDATION = "val_cfg = None\nval_dataloader = None\nval_evaluator = None\n"
NAMES = ("trace", "kernels", "entropy", "features")


@pytest.fixture
def config(toy, tmp_path):
    """Writes a config that changes the embedded one."""

    def write(text: str, base=CONFIG):
        path = tmp_path / f"changed{len(list(tmp_path.glob('*.py')))}.py"
        path.write_text(f"_base_ = {str(base)!r}\n{text}")
        return path

    return write


def train(config, work_dir, cwd, *options):
    call("train.py", config, "--work-dir", work_dir, "--cfg-options", *TWO_EPOCHS, *options, cwd=cwd)


def pictures(work_dir) -> set[str]:
    found = list(work_dir.glob("*/vis_data/vis_image/carafe_*.png"))
    assert all(cv2.imread(str(path)).std() > 20 for path in found)
    return {path.name for path in found}


@pytest.fixture(scope="module")
def without(toy, tmp_path_factory) -> dict:
    """The weights of a training without the hook; whether it is validated changes none."""
    work_dir = tmp_path_factory.mktemp("without")
    train(CONFIG, work_dir, toy)
    assert pictures(work_dir) == set()
    return torch.load(work_dir / "epoch_2.pth", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("settings", "options", "steps"),
    [
        ("", "points=[(40, 60)]", (3, 6)),
        pytest.param(NO_VALIDATION, "interval=2, points=[(40, 60)]", (6,), marks=pytest.mark.slow),
        pytest.param(
            NO_VALIDATION, "interval=4, by_epoch=False, points=[(40, 60)]", (4,), marks=pytest.mark.slow
        ),
    ],
    ids=["validation", "epochs", "iterations"],
)
def test_training_goes_on_as_without_the_hook(config, without, toy, tmp_path, settings, options, steps):
    train(config(settings + HOOK.format(options)), tmp_path, toy)
    having = torch.load(tmp_path / "epoch_2.pth", weights_only=True)["state_dict"]
    assert without.keys() == having.keys()
    for name, value in without.items():
        assert torch.equal(value, having[name]), name
    assert pictures(tmp_path) == {f"carafe_neck_{name}_{step}.png" for name in NAMES for step in steps}


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_its_points_and_count(config, toy, tmp_path):
    changed = config(HOOK.format("interval=2, image=1"))
    train(changed, tmp_path, toy, "train_cfg.max_epochs=3", "default_hooks.checkpoint.max_keep_ckpts=3")
    assert {int(name.split("_")[-1][:-4]) for name in pictures(tmp_path)} == {6}
    points = [
        torch.load(tmp_path / f"epoch_{i}.pth", weights_only=True)["message_hub"]["runtime_info"].get(CHOSEN)
        for i in (1, 2, 3)
    ]
    assert points[:2] == [None, None] and len(points[2]["neck of 1"]) > 0
    call("train.py", changed, "--work-dir", tmp_path, "--resume", tmp_path / "epoch_3.pth", "--cfg-options",
         *TWO_EPOCHS, "train_cfg.max_epochs=4", cwd=toy)  # fmt: skip
    assert {int(name.split("_")[-1][:-4]) for name in pictures(tmp_path)} == {6, 12}
    resumed = torch.load(tmp_path / "epoch_4.pth", weights_only=True)["message_hub"]["runtime_info"]
    assert resumed[CHOSEN] == points[2]


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_do_not_wait_for_each_other(config, toy, tmp_path):
    tool("dist_train.sh", config(HOOK.format("")), 2, "--work-dir", tmp_path / "work",
         "--cfg-options", *TWO_EPOCHS, cwd=toy)  # fmt: skip
    assert len(pictures(tmp_path / "work")) == 8
    assert (tmp_path / "work/epoch_2.pth").is_file()


@pytest.mark.parametrize(
    ("base", "module", "match"),
    [
        (TWIN, "neck", "the model has no CARAFE module; leave the hook out"),
        (CONFIG, "nek", "module: expected the beginning of one of neck.upsample"),
    ],
    ids=["no_module", "unknown"],
)
def test_a_module_that_is_not_there_is_named(config, toy, tmp_path, base, module, match):
    hook = HOOK.format("").replace("neck", module)
    changed = config(hook, base)
    with pytest.raises(ValueError, match=match):
        call("train.py", changed, "--work-dir", tmp_path, "--cfg-options", *SMALL, cwd=toy)


def test_an_interval_is_1_or_more():
    with pytest.raises(ValueError, match="interval: expected 1 or more, got 0"):
        CARAFEVisualizationHook(interval=0)
