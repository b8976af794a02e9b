# SPDX-License-Identifier: Apache-2.0
"""Find the CARAFE modules of a state dict, and what each of their entries is."""

import re
from difflib import get_close_matches
from typing import NamedTuple

from torch import Tensor

from mmcarafe.checkpoint.batch_norm import check_convolution, check_norm
from mmcarafe.errors import InputError

COMPRESSOR, ENCODER, CONTEXT_ENCODER = "channel_compressor", "content_encoder", "context_encoder"
PAIRS = (
    (COMPRESSOR, ENCODER),
    (COMPRESSOR, CONTEXT_ENCODER),
    ("comp", "enc"),
    ("compress_conv", "encoder_conv"),
    ("down", "encoder"),
)
NAMES = list(dict.fromkeys(name for pair in PAIRS for name in pair))
# bare, or wrapped, in a Sequential as "0"; the prefix is the shortest, as encoder_conv is a name of both
CONVOLUTION = re.compile(
    rf"(?P<prefix>(?:.*?\.)?)(?P<path>(?:KPModule\.)?(?P<name>{'|'.join(NAMES)}))"
    r"(?:\.(?:conv|compressor_conv|encoder_conv|0))?\.weight"
)
STATISTICS = {"running_mean", "running_var"}
NORM = STATISTICS | {"weight", "bias", "num_batches_tracked"}
RETRAINING = "train again, starting without these weights"

# what public copies of one module do and CARAFE does not, by the name of the encoder's convolution and by
# whether a BatchNorm stands behind the compressor and the encoder
COPY = "KernelPredeictionModule"
VIEW = "a plain view in place of the pixel shuffle and a softmax over the width"
ENLARGED = "neighbours from the enlarged map"
COPIES = {
    ("encoder_conv", True, True): VIEW,
    ("encoder_conv", False, False): f"{VIEW}, or {ENLARGED}",
    ("conv", True, True): ENLARGED,
}


class Part(NamedTuple):
    """One of a module's two convolutions."""

    name: str
    path: str  # of the convolution, or of what it is wrapped in
    conv: str


class Module(NamedTuple):
    """A CARAFE module of a state dict."""

    prefix: str
    compressor: Part
    encoder: Part

    def __str__(self) -> str:
        return self.prefix.rstrip(".") or "the module"

    @property
    def parts(self) -> tuple[Part, Part]:
        """The compressor and the encoder."""
        return self.compressor, self.encoder

    def keys(self, state: dict[str, Tensor]) -> list[str]:
        """Name the module's entries."""
        return [key for key in state if key.startswith(self.prefix)]


def find_modules(state: dict[str, Tensor]) -> tuple[list[Module], list[Part]]:
    """Find the CARAFE modules, and the convolutions that are called as a part of one but are alone."""
    parts: dict[str, list[Part]] = {}
    for key in state:
        if match := CONVOLUTION.fullmatch(key):
            prefix, path, name = match.groups()
            parts.setdefault(prefix, []).append(Part(name, prefix + path, key.removesuffix(".weight")))
    modules, alone = [], []
    for prefix, found in parts.items():
        pairs = [(one, other) for one in found for other in found if (one.name, other.name) in PAIRS]
        if len(pairs) > 1:
            raise InputError(
                f"{Module(prefix, *pairs[0])} has weights under the names of two implementations; "
                "leave out those that are not used"
            )
        modules += [Module(prefix, *pair) for pair in pairs]
        alone += [] if pairs else found
    return modules, alone


def counterparts(part: Part) -> str:
    """Name what would make a module of a part that is alone."""
    return " or ".join(name for pair in PAIRS for name in pair if part.name in pair and name != part.name)


def nothing_found(state: dict[str, Tensor], alone: list[Part]) -> InputError:
    """Return the error that says which names are known, and which parameters come close."""
    near = [f"{part.conv}.weight (no {counterparts(part)} beside it)" for part in alone]
    near += [
        key
        for key, value in state.items()
        if value.ndim == 4
        and not CONVOLUTION.fullmatch(key)
        and any(get_close_matches(name, NAMES, cutoff=0.75) for name in key.split("."))
    ]
    more = f" and {len(near) - 4} more" if len(near) > 4 else ""
    return InputError(
        "no CARAFE weights found: no two convolutions beside each other, bare or wrapped, are called "
        f"{', '.join('/'.join(pair) for pair in PAIRS)}"
        f"{'; the nearest: ' if near else ''}{', '.join(near[:4])}{more}"
    )


def is_ours(state: dict[str, Tensor], module: Module) -> bool:
    """Tell whether a module's entries are all named as this package's layer names them."""
    names = {f"{module.prefix}{part}.{name}" for part in (COMPRESSOR, ENCODER) for name in ("weight", "bias")}
    posts = (f"{module.prefix}compressor_post.", f"{module.prefix}encoder_post.")
    keys = module.keys(state)
    return names <= set(keys) and all(key in names or key.startswith(posts) for key in keys)


def place_norms(state: dict[str, Tensor], module: Module) -> dict[str, str]:
    """Find out behind which convolution each BatchNorm stands: its path, by that of the convolution.

    Raises:
        InputError: values are not those of such layers, or an entry of the module has no known place.
    """
    check_convolutions(state, module)
    norms, layers, convs = {}, {}, [part.conv for part in module.parts]
    for key in module.keys(state):
        layer, _, name = key.rpartition(".")
        if layer not in convs or name not in ("weight", "bias"):
            layers.setdefault(layer, []).append(key)
    for layer, keys in layers.items():
        is_norm = STATISTICS <= {key.rpartition(".")[2] for key in keys} <= NORM
        conv = _stands_behind(state, module, layer) if is_norm else None
        if conv is None or conv in norms:
            raise InputError(
                f"{keys[0]} belongs to a layer that cannot be worked into CARAFE's convolutions "
                f"(only a BatchNorm with running statistics behind one of them can); {RETRAINING}"
            )
        check_norm(state, conv, layer)
        norms[conv] = layer
    return norms


def _stands_behind(state: dict[str, Tensor], module: Module, layer: str) -> str | None:
    """Return the convolution that a BatchNorm stands behind: wrapped with it, or the one of its channels."""
    parent = layer.rpartition(".")[0]
    for part in module.parts:
        if parent == part.path:
            return part.conv
    if parent != module.prefix.rstrip("."):
        return None
    channels = state[f"{layer}.running_mean"].numel()
    first, second = (state[f"{part.conv}.weight"] for part in module.parts)
    sizes = {"compressor": len(first), "encoder": len(second), "feature map": first.shape[1]}
    possible = [place for place, size in sizes.items() if size == channels]
    if possible in (["compressor"], ["encoder"]):
        return getattr(module, possible[0]).conv
    if possible == ["feature map"]:
        raise InputError(
            f"{layer}: with the {channels} channels of the feature map it stands in front of the compressor "
            f"or behind the reassembly, where it cannot be worked into a convolution; {RETRAINING}"
        )
    if possible:
        raise InputError(
            f"{layer}: the keys do not tell where it stands, {' and '.join(possible)} have {channels} "
            f"channels each; look at the source's forward and rename its entries to "
            f"{module.compressor.path}.bn.* or {module.encoder.path}.bn.*, or, where it stands behind "
            f"neither, {RETRAINING}"
        )
    expected = ", ".join(f"{place} {size}" for place, size in sizes.items())
    raise InputError(
        f"{layer}: expected a BatchNorm for the channels of one place in the module ({expected}), got one "
        f"for {channels}; {RETRAINING}"
    )


def check_convolutions(state: dict[str, Tensor], module: Module) -> None:
    """Raise InputError unless the weights are those of a compressor and of an encoder behind it."""
    for part in module.parts:
        check_convolution(state, part.conv)
    first, second = (state[f"{part.conv}.weight"] for part in module.parts)
    if first.shape[2:] != (1, 1):
        raise InputError(
            f"{module.compressor.conv}.weight: expected a 1 x 1 convolution as compressor, got weights of "
            f"shape {tuple(first.shape)}"
        )
    height, width = second.shape[2:]
    if second.shape[1] != len(first) or height != width or height % 2 == 0:
        raise InputError(
            f"{module.encoder.conv}.weight: expected a square, odd kernel for the {len(first)} channels of "
            f"{module.compressor.conv}, got weights of shape {tuple(second.shape)}"
        )


def check_operator(state: dict[str, Tensor], module: Module, norms: dict[str, str]) -> str | None:
    """Tell which activations a module has where its entries do, None where they do not.

    Raises:
        InputError: the entries are those of another operator.
    """
    if module.encoder.name != CONTEXT_ENCODER:
        return None
    name = module.encoder.conv.removeprefix(f"{module.encoder.path}.")
    behind = tuple(part.conv in norms for part in module.parts)
    biased = any(f"{part.conv}.bias" in state for part in module.parts)
    if name == "encoder_conv" and behind == (True, False) and not biased:
        return "none"
    if differs := COPIES.get((name, *behind)):
        raise InputError(
            f"{module}: a copy of {COPY} {'with' if all(behind) else 'without'} BatchNorm has {differs}, so "
            f"it is another operator than CARAFE; {RETRAINING}"
        )
    entries = ", ".join(key.removeprefix(module.prefix) for key in module.keys(state))
    raise InputError(
        f"{module}: no known copy of {COPY} holds {entries}; the one that is CARAFE has a BatchNorm behind "
        f"its compressor_conv alone and no bias; {RETRAINING}"
    )
