# SPDX-License-Identifier: Apache-2.0
"""Share among commands mmdet's options, and one sentence for each likely mistake."""

import argparse
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import DictAction

from mmcarafe.errors import CheckpointWriteError, InputError

# whatever loads a file in a tool, mmengine and mmdet included, reads data only: torch before 2.6 needs to be
# told, and a variable that is widely recommended for later ones turns it off
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet's train.py and test.py have in common."""
    parser.add_argument("--work-dir", help="where logs, checkpoints and metrics go")
    add_cfg_options(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torch.distributed.launch passes --local-rank
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


class ConfigOptions(DictAction):
    """mmengine's action for ``key=value`` pairs, which says so where one has no ``=``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the pairs to what the option has so far."""
        for pair in values:
            if "=" not in pair:
                parser.error(f"{option_string}: expected key=value without spaces around =, got {pair!r}")
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add mmdet's option to change a config on the command line."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        help="override settings of the config: key=value pairs, lists as key='[a,b]' or key=a,b",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option where to run: the first GPU, or the CPU where there is none."""

    def device(name: str) -> str:
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(
                f"{name}: torch {torch.__version__} sees no CUDA device; try --device cpu"
            )
        return name

    default = "cuda:0" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=device, default=default)


def backend() -> str | None:
    """Return what the processes of a distributed run talk by, gloo or nccl; None in any other run."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_backend() if distributed else None


def leave(status: int) -> None:
    """End a process of a distributed run at once, with everything written.

    What torch's destructors do with gloo's threads can abort the process, or hang: a group that is freed
    waits for a thread, which waits for the interpreter's lock to free a tensor. A group of nccl's is freed
    when all processes free theirs, for which one that failed must not wait.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def sentence_of(error: Exception) -> str | None:
    """Return what a command says of a likely mistake, or of a full disk; None: the trace is wanted."""
    command = Path(sys.argv[0]).name
    if isinstance(error, InputError):
        sentence = str(error).strip()
        if sentence.startswith("Caught "):  # in a data worker, whose trace comes with it
            sentence = sentence.rsplit(f"{type(error).__name__}: ", 1)[-1]
        # mmengine puts "class `FPN` in mmcarafe/models/necks.py: " before what a constructor raised
        return f"{command}: {sentence.rsplit('.py: ', 1)[-1]}"
    if isinstance(error, KeyError):
        # mmengine's, which is followed by a link; of any other the trace is wanted
        missing, registry, _ = str(error.args[0] if error.args else "").partition(" registry. Please check ")
        if registry:
            return (
                f"{command}: {missing} registry: check its spelling, or name the module that registers it in "
                "custom_imports; a config's custom_imports replaces that of its _base_, whose modules must "
                "be repeated in it"
            )
    if isinstance(error, TypeError) and "__init__() " in str(error):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"] == "mmengine.registry.build_functions":
            return f"{command}: {error}: an argument in the config is misspelt, or one is too many or missing"
    if isinstance(error, RuntimeError) and re.search(
        "implementation for device cuda.* not found", str(error)
    ):
        return (
            f"{command}: the model is on a GPU, and mmcv was built without CUDA; put CUDA_VISIBLE_DEVICES= "
            "in front of the command to use the CPU, or build mmcv where CUDA's compiler, nvcc, is"
        )
    if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
        return (
            f"{command}: the config's pretrained weights come through torchvision, which is not installed: "
            f"install the one that goes with torch {torch.__version__}, or start without them, by "
            "--cfg-options model.backbone.init_cfg=None, or a load_from"
        )
    if isinstance(error, OSError):
        full = error.errno in FULL_DISK_ERRORS and not isinstance(error, CheckpointWriteError)
        if full or error.filename or isinstance(error, CheckpointWriteError):
            file = f"{error.filename}: " if error.filename else ""
            return f"{command}: {file}{error.strerror}{'; make room and start again' * full}"
    return None


def run(main: Callable[[], int | None]) -> None:
    """Run a command; mistakes in its input, and a full disk, end in one sentence and exit status 1."""
    try:
        if status := main():
            sys.exit(status)
        if backend() == "gloo":
            leave(0)
    except Exception as error:
        sentence = sentence_of(error)
        if backend():
            # the models that the error's frames hold are not freed before the process has ended
            print(sentence or traceback.format_exc(), file=sys.stderr)
            leave(1)
        if sentence is None:
            raise
        sys.exit(sentence)
    finally:
        if backend():
            # gloo's threads must be joined: one that outlives the interpreter aborts the process
            torch.distributed.destroy_process_group()
