# SPDX-License-Identifier: Apache-2.0
"""mmengine's runner, for checkpoints that have been read, and for several processes on CPUs too."""

from datetime import timedelta

import torch
from mmengine import runner
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS

from mmcarafe.checkpoint.schedule import LOADING_ERRORS
from mmcarafe.checkpoint.state_dict import already_read
from mmcarafe.errors import InputError

# seconds for which processes on CPUs wait for one that is silent: longer than a COCO evaluation, in which all
# wait for the first; torch's own default is half an hour
GLOO_TIMEOUT = 600


class Runner(runner.Runner):
    """mmengine's Runner that reads no checkpoint twice, and says in a sentence what of one does not fit.

    Attributes:
        checkpoint (dict, optional): what the file that is loaded first holds, where it has been read already;
            it is let go when it is loaded. Default: None.
    """

    checkpoint: dict | None = None

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load as mmengine does, but what has been read is not read again."""
        content = self.checkpoint
        if content and "state_dict" not in content:  # bare weights: mmengine's EMAHook asks for the name
            content = dict(state_dict=content)
        with already_read(filename, content):
            self.checkpoint = content = None
            return super().load_checkpoint(filename, *args, **kwargs)

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume as mmengine does; InputError where parts of the checkpoint do not fit together."""
        try:
            super().resume(filename, *args, **kwargs)
        except torch.OutOfMemoryError:  # a RuntimeError too, but not the checkpoint's fault
            raise
        except LOADING_ERRORS as error:
            raise InputError(
                f"checkpoint {filename} cannot be resumed from ({type(error).__name__}: {error}); use an "
                "earlier one"
            ) from error


def build_runner(cfg: Config) -> runner.Runner:
    """Build a Runner, or the class that the config names; several processes work on CPUs too."""
    if cfg.launcher == "pytorch" and get_device() == "cpu":
        # mmengine would select a CUDA device for each process
        seconds = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout", GLOO_TIMEOUT)
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))
        wrapper, given = "MMDistributedDataParallel", cfg.get("model_wrapper_cfg") or {}
        cfg.model_wrapper_cfg = dict(
            type=wrapper,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
        if given.get("type", wrapper) == wrapper:  # others are for GPUs
            cfg.model_wrapper_cfg.update(given)
        cfg.model_wrapper_cfg.device_ids = None
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
