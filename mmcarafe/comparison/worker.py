# SPDX-License-Identifier: Apache-2.0
"""One run of a comparison: train a config or go on with it, evaluate, and write what was measured.

``python -m mmcarafe.comparison.worker CONFIG RESULT`` is started for each run by the command.
"""

import json
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed

import mmcarafe
from mmcarafe.analysis.flops import count, parameters_of, total
from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model, library_of, scope_of
from mmcarafe.apis.training import prepare_training
from mmcarafe.checkpoint.resuming import written_checkpoints
from mmcarafe.comparison.processes import end_with_the_command
from mmcarafe.comparison.runs import write_whole
from mmcarafe.comparison.same_start_hook import CURVE
from mmcarafe.deploy.network import MULTIPLE
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import run


def train(cfg: Config) -> Runner:
    """Train from the newest checkpoint of the work directory, or from the beginning; return the runner."""
    library_of(cfg)  # registers everything
    runner = prepare_training(cfg, "auto" if written_checkpoints(cfg) else None)
    set_random_seed(runner.seed)  # building the model has drawn random numbers: data sets may, too
    runner.train()
    return runner


def measure(runner: Runner) -> dict:
    """Return a trained model's metrics and their curve, times in seconds, and cost.

    The last validation of the training is not repeated, unless the run was interrupted there.
    """
    curve = runner.message_hub.get_info(CURVE) or []
    if not curve or curve[-1]["iter"] != runner.iter:
        runner.val_loop.run()
        curve = runner.message_hub.get_info(CURVE)
    history = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
    batches, images = len(runner.val_dataloader), len(runner.val_dataloader.dataset)
    inference = (history["val/time"] - history["val/data_time"])[-batches:].sum()
    image = next(iter(runner.val_dataloader))["inputs"][0]
    shape = [-(-side // MULTIPLE) * MULTIPLE for side in image.shape[-2:]]
    try:
        flops = total(count(build_model(runner.cfg), shape)).flops
    except InputError as error:
        runner.logger.warning(f"operations are not counted: {error}")
        flops = None
    library = import_module(scope_of(runner.cfg))
    return dict(
        metrics=curve[-1]["metrics"],
        curve=curve,
        train_seconds=float(history["train/time"].sum()),
        seconds_an_image=float(inference / images),
        parameters=parameters_of(runner.model),
        flops=flops,
        shape=shape,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        versions={module.__name__: module.__version__ for module in (mmcarafe, library, torch)},
    )


def main() -> None:
    """Train, evaluate and write the result."""
    config, result = sys.argv[1:]
    end_with_the_command()
    write_whole(Path(result), json.dumps(measure(train(read_config(config)))))


if __name__ == "__main__":
    run(main)
