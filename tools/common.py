# SPDX-License-Identifier: Apache-2.0
"""What train.py and test.py share: mmdet's options, and one sentence for each likely mistake."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import torch
from mmdet.models import BaseDetector, SSDHead, TwoStageDetector
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmcarafe.models  # noqa: F401  the allow-list for checkpoints, whichever config is run
from mmcarafe.layers import UpsampleConfigError
from mmcarafe.models.loading import DataError
from mmcarafe.models.resume import CheckpointWriteError

# whatever loads a file in a tool, mmengine and mmdet included, reads data only: torch before 2.6 needs to be
# told, and a variable that is widely recommended for later ones turns it off
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
# seconds for which processes on CPUs wait for one that is silent: longer than a COCO evaluation, in which all
# wait for the first; torch's own default is half an hour
GLOO_TIMEOUT = 600
SSDHead.loss_cls = None  # mmdet 3.3 asks every dense head that predicts for it, and this one has none
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# in what mmdet and mmcv say of packages and kernels, and Python of arguments
ABSENT = ("not installed", "implementation for device", "required positional argument", "unexpected keyword")


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


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Where to run: the first GPU, or the CPU where there is none."""

    def device(name: str) -> str:
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(
                f"{name}: torch {torch.__version__} sees no CUDA device; try --device cpu"
            )
        return name

    default = "cuda:0" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default)


def read_config(name: str, options: dict | None = None) -> Config:
    """The config in a file, or one of mmdet's by its name (mmdet::...), with --cfg-options applied."""
    if "::" in name:
        try:
            cfg = get_config(name)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"config {name} is not one of the package's ({error})") from error
    elif Path(name).is_file():
        try:
            cfg = Config.fromfile(name)
        except (SyntaxError, FileNotFoundError) as error:  # of its own, or of one of its _base_
            raise InputError(f"config {name} cannot be read: {error}") from error
    else:
        raise InputError(f"config {name} does not exist; the ones shipped are in configs/carafe/")
    if "model" not in cfg:
        raise InputError(f"config {name} has no model: is it only a part of a config?")
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
    if Path(cfg.work_dir).exists() and not Path(cfg.work_dir).is_dir():
        raise InputError(f"--work-dir {cfg.work_dir} is a file, expected a folder")
    return cfg


def build_detector(cfg: Config) -> nn.Module:
    """Build the detector of a config without pretrained weights, in evaluation mode.

    Raises:
        InputError: the model is no detector that takes an image alone, or cannot be built.
    """
    init_default_scope("mmdet")
    settings = deepcopy(cfg.model)  # some detectors change what they are built from
    kind = settings.get("type")
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    name = getattr(known, "__name__", kind)
    if not (isinstance(known, type) and issubclass(known, BaseDetector)):
        raise InputError(
            f"the config's model, {name}, is no detector, which extends mmdet's BaseDetector and takes one "
            "image; use the config of the detector alone"
        )
    if "language_model" in settings:
        raise InputError(f"the config's model, {name}, takes a text besides the image; no tool here gives it")
    drop_pretrained(settings)
    with absence_named(f"the config's model, {name}, cannot be built"):
        model = MODELS.build(settings)
    if isinstance(model, TwoStageDetector) and not model.with_rpn:
        raise InputError(f"the config's model, {name}, takes proposals besides the image; no tool here does")
    model.eval()  # that of a detector with a teacher returns None
    return model


def drop_pretrained(cfg: object) -> None:
    """Remove what loads weights from a model's config, at any depth."""
    if isinstance(cfg, dict):
        cfg.update({key: None for key in ("pretrained", "teacher_ckpt") if key in cfg})
        inits = cfg.get("init_cfg") or []
        inits = inits if isinstance(inits, list | tuple) else [inits]
        if any("checkpoint" in init for init in inits):
            cfg["init_cfg"] = [init for init in inits if "checkpoint" not in init] or None
        cfg = list(cfg.values())
    if isinstance(cfg, list | tuple):
        for part in cfg:
            drop_pretrained(part)


@contextmanager
def absence_named(consequence: str) -> Iterator[None]:
    """While active, a package, file, kernel or argument that is needed and not there ends in one sentence."""
    try:
        yield
    except (ImportError, FileNotFoundError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).rsplit(".py: ", 1)[-1].split())
        if isinstance(error, RuntimeError | TypeError) and not any(words in reason for words in ABSENT):
            raise
        raise InputError(f"{consequence}: {reason}") from error


def check_data(cfg: Config, *splits: str) -> None:
    """Raise InputError unless what the data sets and metrics of the splits (train, val, test) read exists."""
    for split in splits:
        for dataset in innermost_datasets((cfg.get(f"{split}_dataloader") or {}).get("dataset")):
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


def innermost_datasets(dataset: dict | None) -> list[dict]:
    """The innermost data sets of wrappers such as RepeatDataset or ConcatDataset."""
    if dataset is None:
        return []
    if "datasets" in dataset:
        return [inner for part in dataset["datasets"] for inner in innermost_datasets(part)]
    return innermost_datasets(dataset["dataset"]) if "dataset" in dataset else [dataset]


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


def run(main: Callable[[], None]) -> None:
    """Run a tool; mistakes in its input, and a full disk, end in one sentence and exit status 1."""
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
    except KeyError as error:
        # mmengine's, which is followed by a link; of any other the trace is wanted
        missing, registry, _ = str(error.args[0] if error.args else "").partition(" registry. Please check ")
        if not registry:
            raise
        sys.exit(
            f"{Path(sys.argv[0]).name}: {missing} registry: check its spelling, or name the module that "
            "registers it in custom_imports; a config's custom_imports replaces that of its _base_, whose "
            "modules must be repeated in it"
        )
    except DataError as error:
        # what a data worker raises arrives with the worker's trace, what a constructor does as above
        sentence = str(error).strip().rsplit("Error: ", 1)[-1].rsplit(".py: ", 1)[-1]
        sys.exit(f"{Path(sys.argv[0]).name}: {sentence}")
    except OSError as error:
        full = error.errno in DISK_FULL and not isinstance(error, CheckpointWriteError)
        if not (full or error.filename or isinstance(error, CheckpointWriteError)):
            raise
        file = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{Path(sys.argv[0]).name}: {file}{error.strerror}{'; make room and start again' * full}")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # gloo's threads must be joined: one that outlives the interpreter aborts the process
            torch.distributed.destroy_process_group()
