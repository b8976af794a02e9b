# SPDX-License-Identifier: Apache-2.0
"""Read the weights that a tool is given as data only, and compare them with the model before they are used.

Importing this module puts :func:`load_from_local` in the place of mmengine's function of that name.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn, strided

from mmcarafe.checkpoint.fetching import fetch_checkpoint
from mmcarafe.checkpoint.reading import DAMAGE_ADVICE, read_checkpoint
from mmcarafe.errors import CheckpointError, InputError

_ALREADY_READ: dict[str, object] = {}


@contextmanager
def already_read(path: str, content: object) -> Iterator[None]:
    """Give mmengine this content, while active, where it reads the file for the first time."""
    _ALREADY_READ[path] = content
    try:
        yield
    finally:
        _ALREADY_READ.clear()


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: object = None) -> object:
    """Read a local file for mmengine: as data only, and InputError where weights in it are not finite.

    All that mmengine and mmdet load comes through here: pretrained backbones, teachers, checkpoints. Each
    reader looks for the weights in its own place, so none is asked for. The tensors are on the CPU, wherever
    ``map_location`` wants them: readers copy them into the model.
    """
    if (content := _ALREADY_READ.pop(filename, None)) is not None:
        return content
    content = read_local(filename)
    # every reader takes the state_dict where there is one, and does not look at what is beside it
    check_finite(filename, content.get("state_dict", content) if isinstance(content, dict) else content)
    return content


def read_local(path: str) -> object:
    """Return what a local file holds, as data only; InputError where it is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"checkpoint {path} {'is no regular file' if file.exists() else 'does not exist'}")
    try:
        content = read_checkpoint(file)
    except (CheckpointError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read as weights: {error}") from error
    storages = [value.untyped_storage() for _, value in tensors_in(content) if is_plain(value)]
    declared = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if declared > file.stat().st_size:
        raise InputError(
            f"checkpoint {path} declares {declared} bytes of parameters, more than the file holds; "
            f"{DAMAGE_ADVICE}"
        )
    return content


def read_state_dict(path: str) -> tuple[dict, dict[str, Tensor]]:
    """Return a checkpoint and the state dict that mmengine finds in it; InputError where there is none."""
    local = CheckpointLoader._get_checkpoint_loader(path) is load_from_local
    checkpoint = read_local(path) if local else fetch_checkpoint(path)
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not is_state_dict(state):
        raise InputError(f"checkpoint {path} holds no state dict (parameters by name)")
    return checkpoint, state


def tensors_in(content: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors at any depth of dicts and lists once, with the nearest string that leads to each."""
    seen, waiting = set(), deque([("", content)])
    while waiting:
        name, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            waiting += ((key if isinstance(key, str) else name, part) for key, part in value.items())
        elif isinstance(value, (list, tuple)):
            waiting += ((name, part) for part in value)


def check_finite(path: str, content: object) -> None:
    """Raise InputError where a tensor at any depth of a checkpoint's content holds NaN or infinity."""
    broken = [name for name, value in tensors_in(content) if is_plain(value) and not is_finite(value)]
    if broken:
        raise InputError(
            f"checkpoint {path} holds NaN or infinity in {len(broken)} parameters (first: "
            f"{broken[0][:200]!r}): the training diverged or the file is damaged; use an earlier checkpoint"
        )


def is_finite(value: Tensor) -> bool:
    """Tell whether all numbers are finite, or the -infinity and zeros of an additive attention mask."""
    # isfinite has no kernel for numbers of 8 bits
    value = value.float() if value.itemsize == 1 else value
    if value.isfinite().all():
        return True
    return value.is_floating_point() and set(value.unique().tolist()) == {0, -math.inf}


def is_state_dict(state: object) -> bool:
    """Tell whether something is a dict of parameters by name."""
    return isinstance(state, dict) and all(isinstance(k, str) and is_plain(v) for k, v in state.items())


def is_plain(value: object) -> bool:
    """Tell whether this is a dense tensor on the CPU that is no larger than its data."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    dense = value.layout is strided and value.device.type == "cpu"
    return dense and value.nbytes <= value.untyped_storage().nbytes()


def check_checkpoint(model: nn.Module, path: str) -> None:
    """Raise InputError unless a checkpoint gives the model all its parameters and buffers, all finite."""
    check_state(model, path, read_state_dict(path)[1])


def check_state(model: nn.Module, path: str, theirs: dict[str, Tensor]) -> None:
    """Load a state dict; InputError unless it gives the model all its parameters and buffers, all finite.

    mmengine ignores what the model has no place for. So is it here as long as it belongs to a part that the
    model lacks altogether (the teacher of a student, buffers of an average); within a part it says that the
    model is another one, for instance without the upsamplers it was trained with.
    """
    model, theirs = unwrap(model), without_wrapper(theirs)
    missing, unknown, misfits = load_state(model, theirs)
    ours, parts = model.state_dict(), dict(model.named_children())
    # a buffer of the model that its state leaves out has its value from the config; older files hold some
    buffers = {name for name, _ in model.named_buffers()}
    unknown = [key for key in unknown if key not in buffers and key.split(".")[0] in parts]
    kinds = [key for key in ours if key in theirs and _kind(ours[key]) != _kind(theirs[key])]
    problems = [
        f"{len(found)} {what} (first: {found[0]!r})"
        for found, what in (
            (missing, "parameters are missing"),
            (unknown, "parameters are not in the model"),
            (misfits, "parameters do not fit"),
            (kinds, "parameters are other kinds of numbers"),
        )
        if found
    ]
    if problems:
        raise InputError(
            f"checkpoint {path} was made by another architecture than this config builds: "
            f"{', '.join(problems)}; use the config it was trained with"
        )
    check_finite(path, theirs)


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def without_wrapper(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return a state dict without what a wrapper for distribution puts in front of its names."""
    bare = OrderedDict((key.removeprefix("module."), value) for key, value in state.items())
    bare._metadata = getattr(state, "_metadata", None)
    return bare


def load_state(model: nn.Module, theirs: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Load a state dict as mmengine will; return what is missing, unknown, or does not fit.

    mmengine only writes this to the log. Comparing names would not do: modules rename what they are given,
    as mmdet's detectors do with the heads and the weights of one another.
    """
    found, misfits = [], []
    handle = model.register_load_state_dict_post_hook(lambda _, keys: found.append(keys))
    try:
        model.load_state_dict(theirs, strict=False)
    except RuntimeError as error:
        if not found:
            raise
        misfits = str(error).split("\n\t")[1:] or [str(error)]
    finally:
        handle.remove()
    # batch norms of torch before 0.4.1 have none; mmengine does without as well
    missing = [key for key in found[-1].missing_keys if "num_batches_tracked" not in key]
    return missing, found[-1].unexpected_keys, misfits


def load_start(model: nn.Module, path: str, theirs: dict[str, Tensor]) -> list[str]:
    """Load weights that a training starts from; return a line about each part that has none among them.

    Parts that a state dict lacks are new ones: an upsampler put into a trained detector, or all but the
    backbone. They start as they are initialised, and so do parameters of another shape.

    Raises:
        InputError: none of the parameters is the model's.
    """
    model, theirs = unwrap(model), without_wrapper(theirs)
    ours = [key for key in model.state_dict() if "num_batches_tracked" not in key]
    missing, unknown, misfits = load_state(model, theirs)
    if set(ours).issubset(missing) or len(misfits) + len(missing) >= len(ours):
        raise InputError(
            f"checkpoint {path} holds no parameter that fits the config's model (its first: "
            f"{next(iter(theirs), None)!r}): the training would start from random weights"
        )
    present = {prefix for key in set(ours).difference(missing) for prefix in _prefixes(key)}
    parts: dict[str, int] = {}
    for key in missing:
        part = next(prefix for prefix in _prefixes(key) if prefix not in present)
        parts[part] = parts.get(part, 0) + 1
    lines = [f"{misfit.rstrip('.')}: it starts fresh" for misfit in misfits]
    for part, count in parts.items():
        others = [key for key in unknown if key.startswith(f"{part}.")]
        lines.append(
            f"{part} is not in {path}: "
            + ("it starts fresh" if part in missing else f"its {count} parameters start fresh")
            + f"; {', '.join(others)}, of another module there, are left out" * bool(others)
        )
    return lines


def _prefixes(key: str) -> list[str]:
    """Return the names of all modules around a parameter, from the outermost, and its own."""
    names = key.split(".")
    return [".".join(names[: end + 1]) for end in range(len(names))]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the detector inside wrappers for distribution and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
