# SPDX-License-Identifier: Apache-2.0
"""Parts of the config of test_distributed.py, imported by each of its processes."""

import json
import os
import signal
from pathlib import Path

from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import HOOKS, TASK_UTILS
from mmengine.dist import all_reduce_dict, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor


@TASK_UTILS.register_module()
class FirstSampler(RandomSampler):
    """RandomSampler that takes the first ones, so that it chooses for an image what it does in any batch."""

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        return gallery[:num]


@HOOKS.register_module()
class MeanLosses(Hook):
    """Writes each step's losses, averaged over processes, to losses.jsonl; DIE=rank:step kills one."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if os.environ.get("DIE") == f"{get_rank()}:{runner.iter}":
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        losses = {name: value.detach().clone() for name, value in outputs.items()}
        all_reduce_dict(losses, "mean")
        if is_main_process():
            with open(Path(runner.work_dir, "losses.jsonl"), "a") as file:
                file.write(json.dumps({name: value.item() for name, value in losses.items()}) + "\n")
