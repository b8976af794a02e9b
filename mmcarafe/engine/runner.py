# SPDX-License-Identifier: Apache-2.0
"""mmengine's runner for several processes on CPUs too."""

from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

# seconds for which processes on CPUs wait for one that is silent: longer than a COCO evaluation, in which all
# wait for the first; torch's own default is half an hour
GLOO_TIMEOUT = 600


def build_runner(cfg: Config) -> Runner:
    """mmengine's runner, or the class the config names; several processes work on CPUs too."""
    if cfg.launcher == "pytorch" and get_device() == "cpu":
        # mmengine would select a CUDA device for each process
        seconds = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout", GLOO_TIMEOUT)
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
