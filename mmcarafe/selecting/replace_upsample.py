# SPDX-License-Identifier: Apache-2.0
"""How a component that upsamples by modules of its own takes others in their places."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from mmcarafe.layers import UpsampleConfigError

from .select_upsample import InitUpsamplers, Step, by_name, name_of, registry_of, selection


class Place(NamedTuple):
    """Where a component has a module that a selected upsampler replaces."""

    owner: nn.Module
    name: str
    """The module's name in its owner."""
    channels: int
    scale: int


class ReplaceUpsample(InitUpsamplers):
    """Mixin in front of a host's component that upsamples by modules of its own.

    With a ``type`` in ``upsample_cfg``, an upsampler takes the place of each that :meth:`places` states.
    """

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        cfg, theirs = selection(kwargs.pop("upsample_cfg", None), type(self))
        if cfg and name_of(cfg["type"]) in self.host_types:
            cfg, theirs = {}, cfg
        if theirs:
            kwargs["upsample_cfg"] = theirs
        super().__init__(*args, **kwargs)
        self.upsample_modules = []  # a plain list: they are in their places already
        for place in list(self.places()) if cfg else ():
            upsample = Step(0, place.channels, place.scale).build(
                cfg, type(self).__name__, registry_of(type(self))
            )
            setattr(place.owner, place.name, upsample)
            self.upsample_modules.append(upsample)
        if cfg and not self.upsample_modules:
            raise UpsampleConfigError(
                f"{type(self).__name__}: upsample_cfg {cfg} has no effect, since this one does not upsample"
            )

    def places(self) -> Iterator[Place]:
        """Yield each module to replace, in the order of ``forward``."""
        raise NotImplementedError
