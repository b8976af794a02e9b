# SPDX-License-Identifier: Apache-2.0
"""Arms of one seed start with the same weights and get the same images, whatever numbers a model draws."""

import random
from argparse import ArgumentParser
from itertools import count

import numpy as np
import pytest
import torch
from commands import SMALL, TWIN
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmcarafe.apis.config import read_config
from mmcarafe.comparison.arms import Arm
from mmcarafe.comparison.runs import plan, run_config
from mmcarafe.comparison.same_start_hook import share_state
from mmcarafe.comparison.variants import CARAFEXavier
from mmcarafe.comparison.worker import train
from mmcarafe.layers import CARAFE
from mmcarafe.utils.cli import add_cfg_options

SHORT = ["train_cfg.max_epochs=2", "train_cfg.val_begin=9", "model.roi_head.bbox_head.fc_out_channels=16"]
BOTH = Arm("CARAFE", "both")
STEPS = 3  # of an epoch


class Drawing(nn.Upsample):
    """Nearest interpolation that draws random numbers of every kind, when it is built and when it runs."""

    def __init__(self, channels: int, scale_factor: int) -> None:
        super().__init__(scale_factor=scale_factor)
        self.own = nn.Parameter(torch.rand(channels))
        draw()

    def forward(self, x: Tensor) -> Tensor:
        draw()
        return super().forward(x) + 0 * self.own.sum()


def draw() -> None:
    random.random()
    np.random.rand()
    torch.rand(1)


class Recorder(Hook):
    """Keeps the initial weights and what the model is given."""

    def __init__(self) -> None:
        self.start, self.batches = {}, []

    def before_train(self, runner) -> None:
        self.start = {name: value.clone() for name, value in runner.model.state_dict().items()}

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        samples = [(sample.img_id, sample.flip, sample.img_shape) for sample in data_batch["data_samples"]]
        self.batches.append((torch.stack(data_batch["inputs"]), samples))


@pytest.fixture(scope="module")
def follow(toy, tmp_path_factory):
    """Train an arm with a seed in this process; return the recorder, and the runner."""
    MODELS.register_module(name="Drawing", module=Drawing)
    HOOKS.register_module(name="Recorder", module=Recorder)
    parser = ArgumentParser()
    add_cfg_options(parser)
    base = read_config(str(TWIN), parser.parse_args(["--cfg-options", *SMALL, *SHORT]).cfg_options)
    base.train_dataloader.dataset.pipeline.insert(2, dict(type="RandomCrop", crop_size=(96, 96)))
    out, numbers = tmp_path_factory.mktemp("same_start"), count()

    def run(arm: Arm, seed: int = 0, name: str = "", epochs: int = 1, load_from: str | None = None):
        (planned,) = plan(base, [arm], [seed], out / (name or f"{arm.name} {seed}"))
        planned.folder.mkdir(parents=True, exist_ok=True)
        cfg = run_config(base, planned)
        cfg.custom_hooks.append(dict(type="Recorder", priority="VERY_LOW"))
        cfg.train_cfg.max_epochs, cfg.load_from = epochs, load_from
        # mmengine's runs that begin in the same second share a message hub where they have one name
        cfg.experiment_name = f"run {next(numbers)}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(toy)
            patch.setattr("mmengine.device.utils.DEVICE", "cpu")
            # mmengine's logs of the config are most of the time of a run this short
            patch.setattr("mmengine.config.config.FormatCode", lambda text, **_: (text, True), raising=False)
            runner = train(cfg)
        (recorder,) = (hook for hook in runner.hooks if isinstance(hook, Recorder))
        return recorder, runner

    yield run
    MODELS.module_dict.pop("Drawing")
    HOOKS.module_dict.pop("Recorder")


@pytest.fixture(scope="module")
def baseline(follow) -> Recorder:
    return follow(Arm())[0]


@pytest.fixture(scope="module")
def whole(follow):
    return follow(BOTH, epochs=2)


def same_batches(one: Recorder, other: Recorder) -> bool:
    pairs = list(zip(one.batches[:STEPS], other.batches[:STEPS], strict=True))
    return len(pairs) == STEPS and all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in pairs)


def check_shared(ours: Recorder, theirs: Recorder) -> None:
    shared = ours.start.keys() & theirs.start.keys()
    assert len(shared) > 100
    # all but the upsamplers' own, which stand where there was a deconvolution or nothing
    assert {name for name in ours.start.keys() ^ theirs.start.keys() if "upsample" not in name} == set()
    assert all(torch.equal(ours.start[name], theirs.start[name]) for name in shared)
    assert same_batches(ours, theirs)


def test_an_arm_shares_weights_and_data_with_the_baseline(whole, baseline):
    check_shared(whole[0], baseline)


def test_what_an_upsampler_draws_changes_neither(follow, baseline):
    check_shared(follow(Arm("Drawing", "both"))[0], baseline)


def test_nothing_is_shared_by_modules_of_different_classes_or_beginnings():
    def model(kind: type, **options) -> nn.Module:
        return nn.ModuleDict(dict(same=nn.Conv2d(4, 4, 1), up=kind(4, **options)))

    source = model(CARAFE)
    one = dict(type="Constant", layer="Conv2d", val=1)
    for target in (model(CARAFEXavier), model(CARAFE, start="nearest"), model(CARAFE, init_cfg=one)):
        target["up"].init_weights()
        before = {name: value.clone() for name, value in target["up"].state_dict().items()}
        assert share_state(source, target) == 2
        assert target["same"].weight.equal(source["same"].weight)
        assert all(value.equal(before[name]) for name, value in target["up"].state_dict().items())
    assert share_state(source, model(CARAFE)) == 6
    assert share_state(source, model(CARAFE, up_kernel=3, encoder_kernel=1)) == 4, "all but its encoder"


def test_arms_share_what_a_checkpoint_lacks(follow, baseline, tmp_path):
    """As one of other classes: what begins anew is the same in each arm, whatever they draw before it."""
    start, head = tmp_path / "start.pth", "roi_head.bbox_head.fc_cls."
    loaded = {name: value + 1 for name, value in baseline.start.items() if not name.startswith(head)}
    torch.save(loaded, start)
    ours, theirs = (follow(arm, name=f"loaded {arm.name}", load_from=str(start))[0] for arm in (BOTH, Arm()))
    check_shared(ours, theirs)
    for name, value in theirs.start.items():
        assert value.equal(baseline.start[name] if name.startswith(head) else loaded[name]), name


def test_another_seed_is_another_start_and_order(follow, baseline):
    other = follow(Arm(), seed=1)[0]
    assert not same_batches(other, baseline)
    assert not torch.equal(other.start["backbone.conv1.weight"], baseline.start["backbone.conv1.weight"])


def test_a_resumed_run_is_the_one_that_was_not_interrupted(follow, whole):
    follow(BOTH, name="parts")
    resumed = follow(BOTH, name="parts", epochs=2)[1]
    assert resumed.message_hub.get_scalar("train/time").data[0].size == 2 * STEPS, "the time of both parts"
    weights = whole[1].model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())
