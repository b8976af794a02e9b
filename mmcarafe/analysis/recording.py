# SPDX-License-Identifier: Apache-2.0
"""Looking at reassembly kernels: recording them in a model, how uniform they are, and what they gather."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import lcm, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from mmcarafe.layers.upsampler import Reassembler
from mmcarafe.ops import carafe, carafe_downsample


@dataclass(frozen=True, eq=False)
class Reassembly:
    """One call of a CARAFE module, as :func:`record` saw it."""

    name: str
    """Of the module in the model."""
    features: Tensor
    """Tensor[N, C, H, W], the input."""
    kernels: Tensor
    """Tensor[N, G*k*k, H', W'], one kernel for each output pixel and group, dtype of ``features``."""
    kernel_size: int
    """k"""
    groups: int
    """G"""
    scale: int
    """s"""
    source: "Reassembly | None" = None
    """The call whose output, cut and added to a lateral, is ``features``; None: there is none."""
    downsamples: bool = False
    """Say whether the output is s times smaller, rounded up, and not s times larger."""

    @property
    def ratio(self) -> float:
        """Return how many times larger the output is."""
        return 1 / self.scale if self.downsamples else self.scale

    def output(self) -> Tensor:
        """Return the module's output: Tensor[N, C, H', W'], of the kernels' size."""
        return self.reassemble(self.features, self.kernels)

    def reassemble(self, features: Tensor, kernels: Tensor) -> Tensor:
        """Return what the module makes of other features, or with some of the kernels."""
        operator = carafe_downsample if self.downsamples else carafe
        return operator(features, kernels, self.kernel_size, self.groups, self.scale)

    def chain(self) -> list["Reassembly"]:
        """Return this call, its source, the source of that, and so on: finest first."""
        return [self] + (self.source.chain() if self.source else [])


class _FollowSums(TorchFunctionMode):
    """While active, what is cropped of a tensor of ``origins``, or a sum with one, has the same origin."""

    NAMES = frozenset({"__getitem__", "add", "add_"})

    def __init__(self, origins: WeakIdKeyDictionary) -> None:
        super().__init__()
        self.origins = origins

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.__name__ in self.NAMES:
            known = [self.origins[t] for t in args if isinstance(t, Tensor) and t in self.origins]
            if known and kwargs.get("alpha", 1) == 1 and _crops_at_most(func, args):
                self.origins[result] = known[0]
        return result


def _crops_at_most(func: Callable, args: tuple) -> bool:
    """Tell whether a call is an addition, or keeps a map's first rows and columns, of all its channels."""
    if func.__name__ != "__getitem__":
        return True
    index = args[1] if isinstance(args[1], tuple) else ()
    index = (slice(None), slice(None), *index[1:]) if index[:1] == (...,) else index
    # slices alone, not tensors or arrays, which are compared element by element
    return (
        len(index) == 4
        and all(isinstance(part, slice) for part in index)
        and index[:2] == (slice(None), slice(None))
        and all(side.start in (None, 0) and side.step in (None, 1) for side in index[2:])
    )


@contextmanager
def record(model: nn.Module) -> Iterator[list[Reassembly]]:
    """Append every call of a CARAFE module in ``model`` to the list while active, in call order.

    Nothing that the model computes changes. Calls are linked (``source``) where the output of one is the
    input of the next after no more than cropping and additions, as on the top-down path of an FPN; with a
    convolution between them there is no link, because what :func:`trace` computes would not be exact.
    Calls of downsamplers have no links.

    Args:
        model (nn.Module): any model; a CARAFE module alone will do.

    Example:
        >>> import torch
        >>> from mmcarafe.analysis import record
        >>> from mmcarafe.layers import CARAFE
        >>> layer = CARAFE(channels=16)
        >>> with record(layer) as calls:
        ...     _ = layer(torch.rand(1, 16, 24, 24))
        >>> calls[0].kernels.shape
        torch.Size([1, 25, 48, 48])
    """
    calls: list[Reassembly] = []
    logits: dict[nn.Module, Tensor] = {}
    origins = WeakIdKeyDictionary()

    def keep_logits(layer: Reassembler, encoded: Tensor) -> None:
        logits[layer] = encoded.detach()

    def keep_call(name: str, layer: Reassembler, features: Tensor, output: Tensor) -> None:
        kernels = layer.kernel_normalizer(logits.pop(layer)).to(features.dtype)
        sizes = (layer.kernel_size, layer.groups, layer.scale_factor)
        source = None if layer.downsamples else origins.get(features)
        # a copy, since the next layer may work in place
        call = Reassembly(name, features.detach().clone(), kernels, *sizes, source, layer.downsamples)
        calls.append(call)
        if not layer.downsamples:
            origins[output] = call

    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, Reassembler):
                hooks = (
                    layer.last_encoder.register_forward_hook(
                        lambda _, x, y, layer=layer: keep_logits(layer, y)
                    ),
                    layer.register_forward_hook(
                        lambda m, x, kw, y, name=name: keep_call(name, m, x[0] if x else kw["x"], y),
                        with_kwargs=True,
                    ),
                )
                for hook in hooks:
                    stack.callback(hook.remove)
        stack.enter_context(_FollowSums(origins))
        yield calls


def entropy(kernels: Tensor, groups: int = 1) -> Tensor:
    """Return how uniform each reassembly kernel is: its entropy over that of a uniform one.

    Args:
        kernels (Tensor[N, G*k*k, H, W]): normalised kernels.
        groups (int): G. Default: 1.

    Returns:
        Tensor[N, G, H, W]: from 0, one source pixel is copied, to 1, all k*k count the same.

    Raises:
        ValueError: ``groups`` does not divide the channels.

    Example:
        >>> import torch
        >>> from mmcarafe.analysis import entropy
        >>> entropy(torch.full((1, 25, 2, 2), 1 / 25)).shape
        torch.Size([1, 1, 2, 2])
    """
    if groups < 1 or kernels.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of {kernels.shape[1]} channels, got {groups}")
    weights = kernels.float().unflatten(1, (groups, -1))
    size = weights.shape[2]
    if size == 1:  # the only kernel there is
        return torch.ones_like(weights[:, :, 0])
    return -torch.special.xlogy(weights, weights).sum(2) / log(size)


def trace(call: Reassembly, row: int, column: int, index: int = 0) -> list[Tensor]:
    """Return where an output pixel was assembled from, on every map of the chain.

    The chain is linear in its maps, so the weights are a gradient: 1 at the pixel, passed back through each
    reassembly with the recorded kernels. They sum to 1 where no kernel reaches over the border of a map.

    Args:
        call (Reassembly): the last, finest call of the chain.
        row (int): of the pixel in the call's output.
        column (int): of the pixel.
        index (int): image, or RoI, of the batch. Default: 0.

    Returns:
        list[Tensor[G, H, W]]: weights on the ``features`` of each call of ``call.chain()``, finest first;
        G is the least number of channels that tells the groups of all calls apart.

    Raises:
        IndexError: the output has no such pixel.

    Example:
        >>> import torch
        >>> from mmcarafe.analysis import record, trace
        >>> from mmcarafe.layers import CARAFE
        >>> layer = CARAFE(channels=16)
        >>> with record(layer) as calls:
        ...     _ = layer(torch.rand(1, 16, 24, 24))
        >>> trace(calls[0], row=10, column=20)[0].shape
        torch.Size([1, 24, 24])
    """
    height, width = call.kernels.shape[2:]
    if not (0 <= row < height and 0 <= column < width):
        raise IndexError(f"expected a pixel of a map of {height} rows and {width} columns, got {row, column}")
    chain = call.chain()
    groups = lcm(*(step.groups for step in chain))
    grad = call.kernels.new_zeros(1, groups, height, width)
    grad[:, :, row, column] = 1
    weights = []
    for step in chain:
        kernels = step.kernels[index : index + 1].detach()
        height, width = kernels.shape[2:]
        grad = F.pad(grad, (0, width - grad.shape[3], 0, height - grad.shape[2]))  # what cropping took away
        with torch.enable_grad():
            source = torch.zeros_like(step.features[:1, :1]).expand(1, groups, -1, -1).requires_grad_()
            (grad,) = torch.autograd.grad(step.reassemble(source, kernels), source, grad)
        weights.append(grad[0])
    return weights
