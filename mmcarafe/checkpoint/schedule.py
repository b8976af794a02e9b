# SPDX-License-Identifier: Apache-2.0
"""Compare the optimizer and the schedule in a checkpoint with those that a config describes."""

import inspect
import reprlib
from collections.abc import Iterator
from numbers import Number

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmcarafe.errors import InputError

# what mmengine raises where the parts of a state do not fit together
LOADING_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError)

# parts of an optimizer's state that torch's optimizers keep for each element of a parameter
ELEMENTWISE_STATE = {
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "sum", "square_avg", "grad_avg",
    "acc_delta",
}  # fmt: skip

# what a scheduler's state has besides settings
COUNTERS = {"last_step", "_global_step", "_last_value", "verbose"}


def check_schedule(runner: Runner, path: str, checkpoint: dict, wrapper: OptimWrapper) -> None:
    """Load an optimizer's state; InputError unless its settings and the schedule's are those of the config.

    mmengine restores settings together with the state, and does not look at the config's again.
    """
    configured, saved = runner.param_schedulers, checkpoint.get("param_schedulers")
    count = len(configured) if isinstance(configured, (list, tuple)) else int(configured is not None)
    saved = saved if isinstance(saved, list) else []
    usable = sum(isinstance(part, dict) and type(part.get("last_step")) is int for part in saved)
    if usable != count or len(saved) != count:
        raise InputError(
            f"checkpoint {path} holds the state of {usable} parts of a schedule, the config's "
            f"param_scheduler has {count}: use the config it was trained with"
        )
    loop = runner.train_loop  # before the schedulers, which by default end with it
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    schedulers = runner._build_param_scheduler(configured, wrapper) if count else []
    groups = [dict(group) for group in wrapper.optimizer.param_groups]
    load_optimizer(path, checkpoint["optimizer"], wrapper)
    options = {}
    settings = settings_of(wrapper.optimizer)
    for ours, theirs in zip(groups, checkpoint["optimizer"]["param_groups"], strict=True):
        # the torch that wrote it may lack some
        known = {name: value for name, value in ours.items() if name in theirs}
        known = {name: value for name, value in known.items() if name.removeprefix("initial_") in settings}
        options = differences(known, theirs, {"params", *moving(schedulers)}) | options
    changes = [("the optimizer", options)]
    for n, (scheduler, theirs) in enumerate(zip(schedulers, saved, strict=True)):
        unit = "" if scheduler.by_epoch else f", in iterations, {len(loop.dataloader)} an epoch"
        last = runner.max_epochs if scheduler.by_epoch else runner.max_iters
        name = f"param_scheduler[{n}] ({type(scheduler).__name__}{unit})"
        changes.append((name, schedule_differences(scheduler, theirs, last)))
    if words := [f"{owner} has {', '.join([*found.values()][:3])}" for owner, found in changes if found]:
        raise InputError(
            f"checkpoint {path} was written with other settings, and a resumed run would go on with them: "
            f"{'; '.join(words)}; restore them, in the config or by as many processes and --auto-scale-lr "
            "as before, or start a new training "
            f"from its weights with --cfg-options load_from={path} without --resume"
        )


def moving(schedulers: list[_ParamScheduler]) -> set[str]:
    """Name the options of an optimizer that schedulers change."""
    names = {scheduler.param_name for scheduler in schedulers}
    return names | {"betas"} if "momentum" in names else names  # to mmengine, Adam's first beta is a momentum


def settings_of(optimizer: Optimizer) -> set[str]:
    """Name what a group is configured with; what else is in it, an optimizer keeps for itself.

    Of one that takes any argument, to hand it on to another (ZeroRedundancyOptimizer), all names.
    """
    takes = [inspect.signature(owner.__init__).parameters for owner in type(optimizer).__mro__[:-1]]
    if any(p.kind is p.VAR_KEYWORD for parameters in takes for p in parameters.values()):
        return {name.removeprefix("initial_") for group in optimizer.param_groups for name in group}
    return arguments(type(optimizer))


def arguments(kind: type) -> set[str]:
    """Name what a class and those it derives from are constructed with."""
    return {name for owner in kind.__mro__ for name in inspect.signature(owner.__init__).parameters}


def schedule_differences(scheduler: _ParamScheduler, saved: dict, last: int) -> dict[str, str]:
    """Name the arguments that a scheduler was constructed with where a saved state has something else.

    All other state counts steps or follows from these. A schedule ends with the training where the config
    does not say when: a difference that is in the end alone counts if values change between the two ends.
    """
    state = scheduler.state_dict()
    others = dict.fromkeys(str(name) for name in saved if name not in state)  # of another type of scheduler
    found = differences({**state, **others}, saved, {*state} - arguments(type(scheduler)) | COUNTERS)
    if [*found] != ["end"] or type(saved.get("end")) is not int:
        return found
    first, last = min(saved["end"], scheduler.end), min(max(saved["end"], scheduler.end), last)
    depends = differences(state, saved, {"end", "base_values"} | COUNTERS)
    return {} if not depends and _rests(scheduler, max(first, scheduler.begin), last) else found


def _rests(scheduler: _ParamScheduler, first: int, last: int) -> bool:
    """Tell whether a scheduler leaves values as they are between two steps; it is of no use afterwards."""
    for group in scheduler.optimizer.param_groups:
        group[scheduler.param_name] = 1.0
    for step in range(first, last):
        scheduler.last_step = step - scheduler.begin
        if {*scheduler._get_value()} != {1.0}:
            return False
    return True


def differences(ours: dict, theirs: dict, ignored: set[str]) -> dict[str, str]:
    """Say by name which of our settings are others in theirs; what is absent is as good as None."""
    return {
        name: f"{name.removeprefix('initial_')} {_shown(theirs.get(name))} (config: {_shown(value)})"
        for name, value in ours.items()
        if name not in ignored and not _same(value, theirs.get(name))
    }


def _same(ours: object, theirs: object) -> bool:
    """Tell whether two settings are equal, tuples being as good as lists; a file's may be anything."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return isinstance(theirs, (Number, str, type(None))) and ours == theirs


def _shown(value: object) -> str:
    return reprlib.repr([*value] if isinstance(value, dict) else value)  # milestones are counted in a dict


def load_optimizer(path: str, saved: dict, ours: OptimWrapper) -> None:
    """Load an optimizer's state; InputError unless it is of the config's kind, groups and parameters."""
    try:
        ours.load_state_dict(dict(saved))  # which mmengine takes entries out of
    except torch.OutOfMemoryError:  # a RuntimeError too, but not the checkpoint's fault
        raise
    except LOADING_ERRORS as error:
        problem = [str(error)]
    else:
        problem = list(_misfits(ours.optimizer))
    if problem:
        raise InputError(
            f"checkpoint {path} holds the state of another optimizer than the config's "
            f"{type(ours.optimizer).__name__} ({problem[0]}): use the optim_wrapper it was trained with, or "
            f"start a new training from its weights with --cfg-options load_from={path} without --resume"
        )


def _misfits(optimizer: Optimizer) -> Iterator[str]:
    """Yield what an optimizer cannot compute with in its loaded state; fused kernels trust every size."""
    for group in optimizer.param_groups:
        yield from (name for name in optimizer.defaults if name not in group)
        if type(group.get("lr")) not in (int, float):
            yield f"lr {group.get('lr')!r:.40}"
    for parameter, state in optimizer.state.items():
        if not isinstance(state, dict):
            yield f"the state of a parameter is a {type(state).__name__}"
            continue
        for name, value in state.items():
            shape = parameter.shape if name in ELEMENTWISE_STATE else torch.Size()
            if value is None:  # no momentum
                continue
            if name in {*ELEMENTWISE_STATE, "step"} and getattr(value, "shape", torch.Size()) != shape:
                yield f"{name} is not of its parameter's size"
            if isinstance(value, Tensor) and not value.isfinite().all():
                yield f"{name} is not finite"
