# SPDX-License-Identifier: Apache-2.0
"""Trainings of different models that start with the same weights and see the same data."""

import time
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner, set_random_seed
from torch import nn

from mmcarafe.checkpoint.random_state import random_state, set_random_state

CURVE = "comparison_curve"
"""What mmengine's message hub calls the evaluations so far: a list of dict(epoch, iter, metrics)."""

PROGRESS_INTERVAL = 2
"""Seconds between two notes of how far a training is."""


@HOOKS.register_module()
class SameStartHook(Hook):
    """Give runs of one seed what their models share: initial weights, and the data with its augmentations.

    Weights are those of a common model, built and initialised with the run's seed, wherever name and shape
    are equal in modules of equal classes, initialised alike. A checkpoint that runs start from is loaded over
    them, so that what it lacks is common too.
    Random numbers that are drawn while data is loaded and those that the model draws (to sample boxes, or for
    more parameters) come from two sequences, so that a model never changes which images follow, or how they
    are cropped. The model's are set anew in each iteration: a resumed run needs to know nothing of them.

    Args:
        model (dict): config of the common model.
        progress (str, optional): file for the fraction that is trained, rewritten every few seconds.
    """

    priority = "VERY_HIGH"

    def __init__(self, model: dict, progress: str | None = None) -> None:
        self.model, self.progress = model, progress
        self._data_state: dict = {}
        self._noted = 0.0

    def before_train(self, runner: Runner) -> None:
        """Take over the weights, and begin the sequence of the data; a resumed run has both."""
        if runner.iter > 0:
            return
        if not runner._load_from:
            self._share(runner)
        set_random_seed(runner.seed)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the weights before those of a checkpoint, which is read now, are put into the model."""
        if not runner._resume:
            self._share(runner)

    def _share(self, runner: Runner) -> None:
        set_random_seed(runner.seed)
        common = MODELS.build(self.model)
        common.init_weights()
        count = share_state(common, runner.model)
        runner.logger.info(f"{count} of {len(runner.model.state_dict())} tensors are the common model's")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Change to the model's random numbers."""
        self._data_state = random_state()
        (seed,) = np.random.SeedSequence([runner.seed, runner.iter]).generate_state(1)
        set_random_seed(int(seed))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Go on with the data's, and note how far the training is."""
        set_random_state(self._data_state)
        if self.progress and time.monotonic() - self._noted > PROGRESS_INTERVAL:
            Path(self.progress).write_text(f"{(runner.iter + 1) / runner.max_iters:.4f}")
            self._noted = time.monotonic()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add a point to the curve, which checkpoints keep."""
        point = dict(epoch=runner.epoch, iter=runner.iter, metrics=scalars(metrics or {}))
        runner.message_hub.update_info(CURVE, [*(runner.message_hub.get_info(CURVE) or []), point])


def scalars(metrics: dict) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0 and np.isreal(value)}


def share_state(source: nn.Module, target: nn.Module) -> int:
    """Copy parameters and buffers of equal names and shapes; return how many.

    Not in modules of other classes, or that ``init_cfg`` or CARAFE's ``start`` initialises otherwise.
    """
    theirs, modules = source.state_dict(), dict(source.named_modules())
    others = tuple(
        f"{name}."
        for name, module in target.named_modules()
        if name in modules and _beginning(modules[name]) != _beginning(module)
    )
    shared = {
        name: theirs[name]
        for name, value in target.state_dict().items()
        if name in theirs and theirs[name].shape == value.shape and not name.startswith(others)
    }
    target.load_state_dict(shared, strict=False)
    return len(shared)


def _beginning(module: nn.Module) -> tuple:
    """Return what decides how a module's own weights begin."""
    return type(module), getattr(module, "init_cfg", None), getattr(module, "start", None)
