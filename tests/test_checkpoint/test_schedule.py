# SPDX-License-Identifier: Apache-2.0
"""A resumed run goes on with the schedule and the optimizer of its config, or says what is another."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from mmdet.engine.schedulers import QuadraticWarmupLR  # noqa: F401  registers it
from mmengine.optim import ConstantLR
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from tiny_run import SGD, tiny_runner

from mmcarafe.checkpoint import resuming
from mmcarafe.checkpoint.reading import read_checkpoint
from mmcarafe.errors import InputError

WARM_UP = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3)
STEPS = dict(type="MultiStepLR", milestones=[1], end=2)
COSINE = dict(type="CosineAnnealingLR", T_max=2, end=2, by_epoch=True, convert_to_iter_based=True)
ADAM = dict(
    optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.1, betas=(0.9, 0.99)),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_lr_mult=2.0),
)


def check_fit(runner: Runner, path: str) -> None:
    resuming.check_fit(runner, path, read_checkpoint(path))


@pytest.fixture
def make(tmp_path):
    """``make(schedule, optimizer, epochs=2, batch=2)``: a runner with 8 samples."""
    runner = partial(tiny_runner, tmp_path)
    runner.path = lambda epoch=2: str(tmp_path / f"epoch_{epoch}.pth")
    return runner


SCHEDULES = {
    "none": None,
    "several": [WARM_UP, STEPS],
    "iterations": COSINE,
    "momentum": [WARM_UP, dict(type="LinearMomentum", start_factor=0.5, by_epoch=False, end=5)],
    **{
        kind: dict(type=kind, **arguments)
        for kind, arguments in dict(
            StepLR=dict(step_size=1),
            MultiStepLR=dict(milestones=[1]),
            ExponentialLR=dict(gamma=0.9),
            CosineAnnealingLR={},
            PolyLR={},
            ConstantLR=dict(end=1),
            CosineRestartLR=dict(periods=[1, 1], restart_weights=[1, 0.5], eta_min=0.0),
            ReduceOnPlateauLR=dict(monitor="loss"),
        ).items()
    },
    "QuadraticWarmupLR": dict(type="QuadraticWarmupLR", by_epoch=False, end=3),
}


@pytest.mark.parametrize(
    ("schedule", "optimizer"),
    [
        *(pytest.param(schedule, SGD, id=name) for name, schedule in SCHEDULES.items()),
        *(
            pytest.param(SCHEDULES[name], ADAM, id=f"{name}-AdamW")
            for name in ("none", "several", "momentum")
        ),
    ],
)
def test_the_same_config_goes_on(make, schedule, optimizer):
    make(schedule, optimizer).train()
    for epoch in (1, 2):
        check_fit(make(schedule, optimizer), make.path(epoch))


def test_what_is_no_setting_may_change(make):
    make([WARM_UP, STEPS], ADAM).train()
    talkative = (dict(WARM_UP, verbose=True), STEPS)
    listed = deepcopy(ADAM)
    listed["optimizer"]["betas"] = [0.9, 0.99]
    # more epochs behind a schedule with an end of its own, and other batches where none is counted in epochs
    check_fit(make(talkative, listed, epochs=4, batch=4), make.path())


# keys that lead to a setting, its new value, and what is said of it
CHANGES = {
    "lr": (("optimizer", "lr"), 0.02, "the optimizer has lr 0.01 (config: 0.02);"),
    "weight_decay": (("optimizer", "weight_decay"), 0.2, "the optimizer has weight_decay 0.1 (config: 0.2);"),
    "betas": (
        ("optimizer", "betas"),
        (0.8, 0.9),
        "the optimizer has betas (0.9, 0.99) (config: (0.8, 0.9));",
    ),
    "paramwise": (("paramwise_cfg", "bias_lr_mult"), 1, "the optimizer has lr 0.02 (config: 0.01);"),
    "warm-up": (
        (0, "end"),
        4,
        "param_scheduler[0] (LinearLR, in iterations, 4 an epoch) has end 3 (config: 4);",
    ),
    "start": (
        (0, "start_factor"),
        0.2,
        "(LinearLR, in iterations, 4 an epoch) has start_factor 0.1 (config: 0.2);",
    ),
    "milestones": (
        (1, "milestones"),
        [1, 3],
        "param_scheduler[1] (MultiStepLR) has milestones [1] (config: [1, 3]);",
    ),
    "gamma": ((1, "gamma"), 0.5, "param_scheduler[1] (MultiStepLR) has gamma 0.1 (config: 0.5);"),
    "kind": (
        (1,),
        dict(type="ExponentialLR", gamma=0.1, end=2),
        "(ExponentialLR) has milestones [1] (config: None);",
    ),
    "unit": ((1, "by_epoch"), False, "(MultiStepLR, in iterations, 4 an epoch) has by_epoch True (config:"),
}


@pytest.mark.parametrize(("keys", "value", "words"), CHANGES.values(), ids=CHANGES)
def test_a_setting_that_changed_is_named_with_both_values(make, keys, value, words):
    schedule, optimizer = [WARM_UP, STEPS], deepcopy(ADAM)
    make(schedule, optimizer).train()
    schedule = deepcopy(schedule)
    part = schedule if isinstance(keys[0], int) else optimizer
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(InputError) as refusal:
        check_fit(make(schedule, optimizer), make.path())
    sentence = str(refusal.value)
    assert "was written with other settings, and a resumed run would go on with them: " in sentence
    assert words in sentence
    assert sentence.endswith(
        "restore them, in the config or by as many processes and --auto-scale-lr as before, or start a new "
        "training from its weights with --cfg-options "
        f"load_from={make.path()} without --resume"
    )


def test_without_a_schedule_the_learning_rate_counts(make):
    make().train()
    with pytest.raises(InputError, match=r"the optimizer has lr 0\.1 \(config: 0\.2\)"):
        check_fit(make(optimizer=dict(optimizer=dict(SGD["optimizer"], lr=0.2))), make.path())


def test_a_learning_rate_scaled_to_the_batch_counts(make):
    scaled = dict(auto_scale_lr=dict(enable=True, base_batch_size=4))
    make(STEPS, **scaled).train()
    check_fit(make(STEPS, **scaled), make.path())
    with pytest.raises(InputError, match=r"the optimizer has lr 0\.05 \(config: 0\.1\)"):
        check_fit(make(STEPS), make.path())


def test_epochs_counted_in_iterations_depend_on_the_data(make):
    make(COSINE).train()
    with pytest.raises(InputError, match=r"in iterations, 2 an epoch\) has T_max 8 \(config: 4\), end 8 \("):
        check_fit(make(COSINE, batch=4), make.path())


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (dict(COSINE, T_max=4, end=4), r"has T_max 8 \(config: 16\), end 8 \(config: 16\)"),
        (dict(COSINE, end=4), r"has end 8 \(config: 16\)"),
    ],
    ids=["T_max", "end"],
)
def test_a_schedule_of_a_longer_training_is_refused(make, schedule, words, epoch):
    make(COSINE).train()
    with pytest.raises(InputError, match=words):
        check_fit(make(schedule, epochs=4), make.path(epoch))


@pytest.mark.parametrize(
    ("name", "goes_on"),
    [
        ("MultiStepLR", True),
        ("CosineRestartLR", True),
        ("StepLR", False),
        ("ExponentialLR", False),
        ("CosineAnnealingLR", False),
        ("PolyLR", False),
        ("ReduceOnPlateauLR", False),
    ],
)
def test_a_schedule_that_ends_with_the_training_goes_on_if_it_has_come_to_rest(make, name, goes_on):
    """mmengine's default for the end is max_epochs: 2, then 4."""
    schedule = SCHEDULES[name]
    make(schedule).train()
    longer = make(schedule, epochs=4)
    if goes_on:
        check_fit(longer, make.path(1))
        return
    with pytest.raises(InputError, match=rf"\({name}\) has .*end 2 \(config: 4\)"):
        check_fit(longer, make.path(1))
    check_fit(make(dict(schedule, end=2), epochs=4), make.path(1))  # restored


def test_steps_behind_the_old_end_are_no_rest(make):
    late = dict(type="MultiStepLR", milestones=[1, 3])
    make(late).train()
    with pytest.raises(InputError, match=r"\(MultiStepLR\) has end 2 \(config: 4\)"):
        check_fit(make(late, epochs=4), make.path())
    check_fit(make(late, epochs=3), make.path())


def test_a_scheduler_of_ones_own_may_count_what_it_likes(make):
    @PARAM_SCHEDULERS.register_module(name="Counting")
    class Counting(ConstantLR):
        seen = 0

        def step(self):
            self.seen = self.seen + 1
            super().step()

    schedule = dict(type="Counting", factor=0.5, end=1)
    make(schedule).train()
    assert torch.load(make.path(), weights_only=True)["param_schedulers"][0]["seen"] > 1
    check_fit(make(schedule), make.path())
    with pytest.raises(InputError, match=r"\(Counting\) has factor 0\.5 \(config: 0\.25\)"):
        check_fit(make(dict(schedule, factor=0.25)), make.path())


def test_iterations_are_compared_as_well(make):
    loop = dict(
        train_cfg=dict(by_epoch=False, max_iters=4),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
    )
    poly = dict(type="PolyLR", by_epoch=False)
    make(poly, **loop).train()
    path = make.path().replace("epoch_2", "iter_2")
    check_fit(make(poly, **loop), path)
    loop["train_cfg"] = dict(by_epoch=False, max_iters=6)
    with pytest.raises(InputError, match=r"\(PolyLR, in iterations, 4 an epoch\) has end 4 \(config: 6\)"):
        check_fit(make(poly, **loop), path)


@pytest.mark.parametrize("value", [torch.ones(2), "x", [[1]], {"a": 1}, -(10**12)])
def test_a_setting_that_is_none_is_another(make, value):
    make(STEPS).train()
    for name in ("end", "milestones", "gamma"):
        checkpoint = torch.load(make.path(), weights_only=True)
        checkpoint["param_schedulers"][0][name] = value
        torch.save(checkpoint, make.path("bad"))
        with pytest.raises(InputError, match=rf"\(MultiStepLR\) has {name} "):
            check_fit(make(STEPS), make.path("bad"))
