# SPDX-License-Identifier: Apache-2.0
"""Data workers have seeds that a resumed run repeats."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.dataset import worker_init_fn
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop

from mmcarafe.engine import CheckpointHook, DistSamplerSeedHook


@pytest.mark.parametrize(("seed", "epochs"), [(5, [[5, 6], [7, 8]]), (None, [[5, 6], [5, 6]])])
def test_workers_draw_other_numbers_in_each_epoch_of_a_seeded_run(seed, epochs):
    init = partial(worker_init_fn, num_workers=2, rank=0, seed=5)
    loader = SimpleNamespace(num_workers=2, worker_init_fn=init, _iterator="workers")
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop.dataloader = loader
    for epoch, expected in enumerate(epochs):
        runner = SimpleNamespace(train_loop=loop, epoch=epoch, seed=5, _randomness_cfg=dict(seed=seed))
        DistSamplerSeedHook().before_train_epoch(runner)
        for worker, worker_seed in enumerate(expected):
            loader.worker_init_fn(worker)
            assert torch.initial_seed() == worker_seed
    assert (loader._iterator is None) == (seed is not None)


def test_the_hooks_have_mmengines_names():
    init_default_scope("mmdet")
    assert type(HOOKS.build(dict(type="CheckpointHook"))) is CheckpointHook
    assert type(HOOKS.build(dict(type="DistSamplerSeedHook"))) is DistSamplerSeedHook
