# SPDX-License-Identifier: Apache-2.0
"""Optimizers that keep numbers of their own in their groups, as Prodigy and D-Adaptation do, are resumed."""

import pytest
from mmengine.registry import OPTIMIZERS
from tiny_run import tiny_runner
from torch.optim import SGD

from mmcarafe.checkpoint.reading import read_checkpoint
from mmcarafe.checkpoint.resuming import check_fit
from mmcarafe.errors import InputError


class Adapting(SGD):
    """Counts its steps, and estimates a distance, in its groups."""

    def __init__(self, params, lr=0.1, d0=1e-6):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group.update(d=d0, k=0)

    def step(self, closure=None):
        for group in self.param_groups:
            group.update(d=group["d"] * 1.5, k=group["k"] + 1)
        super().step(closure)


def test_what_an_optimizer_counts_is_no_setting(tmp_path):
    OPTIMIZERS.register_module(module=Adapting)
    optimizer = dict(optimizer=dict(type="Adapting", lr=0.2))
    tiny_runner(tmp_path, optimizer=optimizer).train()
    path = str(tmp_path / "epoch_1.pth")
    assert read_checkpoint(path)["optimizer"]["param_groups"][0]["k"] == 4
    check_fit(tiny_runner(tmp_path, optimizer=optimizer), path, read_checkpoint(path))
    resumed = tiny_runner(tmp_path, optimizer=optimizer, load_from=path, resume=True)
    resumed.train()
    assert resumed.optim_wrapper.param_groups[0]["k"] == 8
    optimizer["optimizer"]["lr"] = 0.1
    with pytest.raises(InputError, match=r"the optimizer has lr 0\.2 \(config: 0\.1\)"):
        check_fit(tiny_runner(tmp_path, optimizer=optimizer), path, read_checkpoint(path))


class Wrapping(SGD):
    """Hands its settings on."""

    def __init__(self, params, **settings):
        super().__init__(params, **settings)


def test_settings_that_an_optimizer_hands_on_are_compared(tmp_path):
    OPTIMIZERS.register_module(module=Wrapping)
    optimizer = dict(optimizer=dict(type="Wrapping", lr=0.2, momentum=0.5))
    tiny_runner(tmp_path, optimizer=optimizer).train()
    path = str(tmp_path / "epoch_1.pth")
    check_fit(tiny_runner(tmp_path, optimizer=optimizer), path, read_checkpoint(path))
    optimizer["optimizer"]["momentum"] = 0.9
    with pytest.raises(InputError, match=r"the optimizer has momentum 0\.5 \(config: 0\.9\)"):
        check_fit(tiny_runner(tmp_path, optimizer=optimizer), path, read_checkpoint(path))
