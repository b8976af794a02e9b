# SPDX-License-Identifier: Apache-2.0
"""Data workers whose random numbers a resumed training repeats; registered under mmengine's name."""

from functools import partial

from mmengine import hooks
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner


class DistSamplerSeedHook(hooks.DistSamplerSeedHook):
    """mmengine's DistSamplerSeedHook that seeds the data workers for each epoch as well.

    In runs with a fixed seed (``randomness=dict(seed=0)``) workers are started anew for each epoch, also with
    ``persistent_workers``, with seeds that depend on the run's seed, the epoch, the process and the worker:
    a resumed run cannot otherwise know how far their random numbers were.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch's seeds."""
        super().before_train_epoch(runner)
        loop, loader = runner.train_loop, runner.train_loop.dataloader
        fixed = runner._randomness_cfg.get("seed") is not None
        if fixed and loader.num_workers and isinstance(loop, EpochBasedTrainLoop):
            loader._iterator = None  # as mmdet's hooks do that switch the pipeline
            if "seed" in getattr(loader.worker_init_fn, "keywords", {}):  # mmengine's, not the config's own
                seed = runner.seed + runner.epoch * loader.num_workers * get_world_size()
                loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
