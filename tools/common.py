# SPDX-License-Identifier: Apache-2.0
"""What train.py and test.py share: mmdet's options, and one sentence for each likely mistake."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

import mmcarafe.models  # noqa: F401  the allow-list for checkpoints, whichever config is run
from mmcarafe.layers import UpsampleConfigError


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what and what to do."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that mmdet's train.py and test.py have in common."""
    parser.add_argument("--work-dir", help="where logs, checkpoints and metrics go")
    add_cfg_options(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torch.distributed.launch passes --local-rank
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """mmdet's option to change a config on the command line."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override settings of the config: key=value pairs, lists as key='[a,b]' or key=a,b",
    )


def read_config(name: str, options: dict | None = None) -> Config:
    """The config in a file, or one of mmdet's by its name (mmdet::...), with --cfg-options applied."""
    if "::" in name:
        try:
            cfg = get_config(name)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"config {name} is not one of the package's ({error})") from error
    elif Path(name).is_file():
        cfg = Config.fromfile(name)
    else:
        raise InputError(f"config {name} does not exist; the ones shipped are in configs/carafe/")
    if options:
        cfg.merge_from_dict(options)
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply the command line and choose the work directory as mmdet does."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    return cfg


def build_detector(cfg: Config) -> nn.Module:
    """The detector of a config, its backbone without pretrained weights."""
    init_default_scope("mmdet")
    if "backbone" not in cfg.model:
        raise InputError(f"the config's model, {cfg.model.get('type')}, has no backbone: is it a detector?")
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model).eval()


def check_data(cfg: Config, *splits: str) -> None:
    """Raise InputError unless what the data sets and metrics of the splits (train, val, test) read exists."""
    for split in splits:
        for dataset in _datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
            root = Path(dataset.get("data_root") or "")
            for part in (dataset.get("ann_file"), *(dataset.get("data_prefix") or {}).values()):
                if part:
                    _require(root / part, f"{split}_dataloader.dataset", str(root))
        evaluator = cfg.get(f"{split}_evaluator") or {}
        for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
            if metric.get("ann_file"):
                _require(Path(metric["ann_file"]), f"{split}_evaluator.ann_file")


def _require(path: Path, setting: str, root: str = "") -> None:
    if ":/" not in str(path) and not path.exists():
        where = f"link your data set there (ln -s /path/to/it {root})" if root else "make it"
        raise InputError(f"{path} does not exist; {where}, or change {setting} with --cfg-options")


def _datasets(dataset: dict | None) -> list[dict]:
    """The innermost data sets of wrappers such as RepeatDataset or ConcatDataset."""
    if dataset is None:
        return []
    if "datasets" in dataset:
        return [inner for part in dataset["datasets"] for inner in _datasets(part)]
    return _datasets(dataset["dataset"]) if "dataset" in dataset else [dataset]


def check_checkpoint(model: nn.Module, path: str) -> None:
    """Raise InputError unless the checkpoint holds exactly the model's parameters and buffers."""
    _, theirs = read_state_dict(path)
    ours = unwrap(model).state_dict()
    missing = [key for key in ours if key not in theirs]
    unknown = [key for key in theirs if key not in ours]
    shapes = [key for key in ours if key in theirs and ours[key].shape != theirs[key].shape]
    problems = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in (
            (missing, "parameters are missing"),
            (unknown, "parameters are not in the model"),
            (shapes, "parameters have another shape"),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"checkpoint {path} was made by another architecture than this config builds: "
            f"{', '.join(problems)}; use the config it was trained with"
        )


def read_state_dict(path: str) -> tuple[dict, dict[str, Tensor]]:
    """A checkpoint, and the state dict that it is or holds; InputError where there is none."""
    if "://" not in path and not Path(path).is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        checkpoint = _load_checkpoint(path, map_location="cpu")
    except (UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise InputError(f"checkpoint {path} cannot be read as weights ({reason})") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} holds no state dict (parameters by name)")
    return checkpoint, state


def unwrap(model: nn.Module) -> nn.Module:
    """The detector inside wrappers for distribution and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def build_runner(cfg: Config) -> Runner:
    """mmengine's runner, or the class the config names; several processes work on CPUs too."""
    if cfg.launcher == "pytorch" and get_device() == "cpu":
        # mmengine would select a CUDA device for each process
        torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def run(main: Callable[[], None]) -> None:
    """Run a tool; mistakes in its input end in one sentence and exit status 2."""
    try:
        main()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_backend() == "gloo":
            # everything is written; what destructors do with gloo's threads can hang or abort the process
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    except (InputError, UpsampleConfigError) as error:
        # mmengine puts "class `FPN` in mmcarafe/models/necks.py: " before what a constructor raised
        sentence = str(error).rsplit(".py: ", 1)[-1]
        sys.exit(f"{Path(sys.argv[0]).name}: {sentence}")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # gloo's threads must be joined: one that outlives the interpreter aborts the process
            torch.distributed.destroy_process_group()
