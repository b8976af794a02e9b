# SPDX-License-Identifier: Apache-2.0
"""Configs as the commands take them."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, ConfigParsingError
from mmengine.hub import get_config

import mmcarafe.checkpoint  # the allow-list for checkpoints, whichever config is run
from mmcarafe.errors import InputError

BUILDERS = ("mmcarafe", "mmcv", "mmdet", "mmengine", "mmseg")
"""Packages whose constructors say what is wrong with a config, or which package is not installed."""

KERNELS = ("mmcv",)
"""The package whose operations lack kernels for some devices."""

# mmengine finds the configs mmseg::... by the module's name, whichever package installed it
if find_spec("mmseg"):
    MODULE2PACKAGE["mmseg"] = "mmseg"

SHIPPED = Path(mmcarafe.__file__).parent / ".mim/configs"
"""This package's own configs, which an installation puts there."""


def read_config(name: str, options: dict | None = None) -> Config:
    """Return the config in a file, or a package's by its name (mmdet::...), with --cfg-options applied."""
    package, shipped, path = name.partition("::")
    if shipped and package == "mmcarafe":  # mmengine does not find those of an editable installation
        package, shipped, name = "", "", str(SHIPPED / path)
    if shipped and not find_spec(package):  # mmengine would install whatever has this name
        raise InputError(f"config {name} is of the package {package}, which is not installed")
    if not shipped and not Path(name).is_file():
        raise InputError(f"config {name} does not exist; the ones shipped are in configs/")
    try:
        cfg = get_config(name) if shipped else Config.fromfile(name)
    except ImportError as error:  # of what custom_imports names: the first of the chain says why
        reason = error
        while reason.__context__:
            reason = reason.__context__
        raise InputError(
            f"config {name} imports a module that cannot be had ({reason}): install its package, or set "
            "PYTHONPATH to the folder that the module is in"
        ) from error
    except FileNotFoundError as error:  # one of its _base_
        raise InputError(f"config {name} cannot be read: {error}") from error
    except (SyntaxError, ConfigParsingError) as error:
        raise InputError(f"config {name}, or one in its _base_, cannot be read: {error}") from error
    except KeyError as error:
        if "Duplicate key" not in str(error):
            raise
        raise InputError(f"config {name} cannot be read: {error.args[0]}") from error
    if "model" not in cfg:
        raise InputError(f"config {name} has no model: is it only a part of a config?")
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, ValueError) as error:  # no such element of a list, or below a value
            reason = str(error.args[0]).splitlines()[0]
            given = " ".join(f"{key}={value}" for key, value in options.items())
            raise InputError(f"--cfg-options {given} do not fit the config: {reason}") from error
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


@contextmanager
def absence_named(consequence: str, packages: tuple[str, ...]) -> Iterator[None]:
    """Turn the absence of what is needed into one sentence, an InputError, while active.

    It may be a package, a file, a kernel or an argument. A RuntimeError or TypeError says so where it was
    raised in the code of one of ``packages``; elsewhere it is a fault, whose trace is wanted.
    """
    try:
        yield
    except (ImportError, FileNotFoundError, RuntimeError, TypeError) as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        raised_in = frame.f_globals["__name__"].partition(".")[0]
        if isinstance(error, RuntimeError | TypeError) and raised_in not in packages:
            raise
        reason = " ".join(str(error).rsplit(".py: ", 1)[-1].split())
        raise InputError(f"{consequence}: {reason}") from error
