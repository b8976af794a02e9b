# SPDX-License-Identifier: Apache-2.0
"""Training runs that take no time, for what hooks, schedules and checkpoints do."""

from copy import deepcopy
from itertools import count
from pathlib import Path

import torch
from mmengine.model import BaseModel
from torch import nn

import mmcarafe.models  # noqa: F401  registers the hooks
from mmcarafe.engine.runner import Runner

SGD = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
RUNS = count()


class Tiny(BaseModel):
    """A line and a norm, with random numbers in every step."""

    def __init__(self):
        super().__init__()
        self.line, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, *inputs, mode="loss"):
        if mode == "predict":
            return [*inputs]
        return dict(loss=self.norm(self.line(nn.functional.dropout(torch.stack(inputs)))).square().sum())


def tiny_runner(folder: Path, schedule=None, optimizer=SGD, epochs=2, batch=2, **options) -> Runner:
    """Build a runner of 8 samples that writes a checkpoint after each epoch."""
    loader = dict(
        dataset=[torch.full((2,), float(i)) for i in range(8)],
        batch_size=batch,
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="pseudo_collate"),
    )
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1), logger=dict(type="LoggerHook"))
    options = dict(train_cfg=dict(by_epoch=True, max_epochs=epochs), default_hooks=hooks) | options
    return Runner(
        Tiny(), str(folder), loader, param_scheduler=deepcopy(schedule), optim_wrapper=deepcopy(optimizer),
        experiment_name=f"tiny{next(RUNS)}", default_scope="mmdet", log_level="ERROR", **options,
    )  # fmt: skip
