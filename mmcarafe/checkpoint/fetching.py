# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from addresses and other places that mmengine knows, read as data only."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.runner.checkpoint import _load_checkpoint

from mmcarafe.checkpoint.rebuilding import rebuild
from mmcarafe.errors import CheckpointError, InputError


def fetch_checkpoint(url: str) -> object:
    """Return what a URL or a scheme of mmengine's names, as data only; InputError where it cannot be had."""
    try:
        return rebuild(_load_checkpoint(url, map_location="cpu"))
    except (CheckpointError, UnpicklingError) as error:
        raise InputError(f"checkpoint {url} cannot be read as weights: {error}") from error
    except (RuntimeError, EOFError) as error:
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise InputError(
            f"checkpoint {url} cannot be read ({type(error).__name__}: {error}): where its download was cut "
            f"short, remove what is left of it from {folder} and start again"
        ) from error
    except (OSError, KeyError, ImportError, ValueError) as error:  # each of mmengine's loaders has its own
        raise InputError(f"checkpoint {url} cannot be fetched ({type(error).__name__}: {error})") from error
