# SPDX-License-Identifier: Apache-2.0
"""The arms of a comparison: one config, and upsamplers put into it in turn."""

import ast
import hashlib
import json
import re
from copy import deepcopy
from dataclasses import dataclass

from mmengine.config import Config

import mmcarafe.comparison.variants  # noqa: F401  registers what an arm may name
from mmcarafe.errors import InputError

PLACES = {
    "neck": ("neck", "detector.neck"),
    "mask_head": (
        "roi_head.mask_head",
        "mask_head.mask_feature_head",
        "mask_head",
        "detector.roi_head.mask_head",
    ),
    "backbone": ("backbone", "detector.backbone"),
    "decode_head": ("decode_head",),
    "ppm": ("decode_head",),
    "fpn": ("decode_head",),
    "fusion": ("decode_head",),
    "downsampling": ("neck", "detector.neck"),
}
"""The places of upsamplers, and what model configs call each: the first name that is found."""

UPPER_PLACES = ("ppm", "fpn", "fusion")
"""Name the places that are one of several in a head, UPerHead's ``upsample_in``."""

SETTINGS = {"downsampling": "downsample_cfg"}
"""The setting that selects a type in a place; elsewhere ``upsample_cfg``."""

BOTH = "both"
"""Another name of neck+mask_head."""

UNCHANGED = "config"
"""The name of the arm that is the config as it is."""

UNRELATED = ("work_dir", "launcher", "log_level", "visualizer", "resume")
"""Settings that change nothing of a result."""


@dataclass(frozen=True)
class Arm:
    """An upsampler in a place; without one, the config as it is."""

    upsampler: str = ""
    """TYPE, or TYPE,key=value,...; mask_head.key=value is an argument in that place only."""
    where: str = ""
    """Places with a + between them, or both."""

    @property
    def name(self) -> str:
        """Return what the arm is called in results and reports."""
        return f"{self.upsampler} in {self.where}" if self.upsampler else UNCHANGED

    @property
    def places(self) -> tuple[str, ...]:
        """Return the places that get the upsampler."""
        where = "neck+mask_head" if self.where == BOTH else self.where
        return tuple(where.split("+")) if where else ()


def arms_of(upsamplers: list[str], where: list[str], baseline: str = UNCHANGED) -> list[Arm]:
    """Return each upsampler in each place, behind the baseline.

    Raises:
        InputError: a place is not known, or the baseline is none of the arms.
    """
    for place in where:
        if unknown := set(Arm("", place).places) - PLACES.keys():
            raise InputError(
                f"--where {place}: expected {', '.join(PLACES)}, several with a + between them, or {BOTH}, "
                f"got {', '.join(sorted(unknown))}"
            )
    arms = [Arm()] * (baseline == UNCHANGED)
    arms += [_in_place(Arm(name, place)) for name in upsamplers for place in where]
    if baseline not in [arm.name for arm in arms]:
        raise InputError(
            f"--baseline {baseline!r} is none of the arms ({', '.join(repr(arm.name) for arm in arms)})"
        )
    return sorted(dict.fromkeys(arms), key=lambda arm: arm.name != baseline)


def _in_place(arm: Arm) -> Arm:
    """Leave out the arguments for places that the arm does not have."""
    elsewhere = tuple(f"{place}." for place in PLACES.keys() - arm.places)
    settings = [part for part in parts_of(arm.upsampler) if not part.startswith(elsewhere)]
    return Arm(",".join(settings), arm.where)


def parts_of(text: str) -> list[str]:
    """Split at commas outside brackets.

    Example:
        >>> parts_of("CARAFE,up_kernel=3,sizes=(1,2)")
        ['CARAFE', 'up_kernel=3', 'sizes=(1,2)']
    """
    return re.split(r",(?![^(\[{]*[)\]}])", text)


def parse_upsampler(text: str, place: str) -> dict:
    """Return what a command line's TYPE,key=value,... means in a place: the config of its upsampler.

    Example:
        >>> parse_upsampler("CARAFE,up_kernel=3,mask_head.compressed_channels=32", "neck")
        {'type': 'CARAFE', 'up_kernel': 3}
    """
    kind, *settings = parts_of(text)
    cfg = dict(type=kind)
    for setting in settings:
        key, equals, value = setting.partition("=")
        only, _, name = key.rpartition(".")
        if not (name and equals) or (only and only not in PLACES):
            raise InputError(
                f"--upsamplers {text}: expected TYPE,key=value,..., where a key may begin with "
                f"{' or '.join(f'{name}.' for name in PLACES)}, got {setting!r}"
            )
        if only in ("", place):
            try:
                cfg[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):  # a word
                cfg[name] = value
    return cfg


def arm_config(cfg: Config, arm: Arm) -> Config:
    """Return the config with the arm's upsampler; InputError where the model lacks the place."""
    cfg = deepcopy(cfg)
    for place in arm.places:
        components = _components(cfg.model, place)
        if not components:
            raise InputError(
                f"--where {arm.where}: the config's model has no {place} ({', '.join(PLACES[place])})"
            )
        for component in components:  # those of a cascade are several
            component[SETTINGS.get(place, "upsample_cfg")] = parse_upsampler(arm.upsampler, place)
            if place in UPPER_PLACES:
                component["upsample_in"] = [name for name in arm.places if name in UPPER_PLACES]
    return cfg


def _components(model: dict, place: str) -> list[dict]:
    for path in PLACES[place]:
        part = model
        for key in path.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        if part:
            return list(part) if isinstance(part, list | tuple) else [part]
    return []


def fingerprint(cfg: Config) -> str:
    """Return a short hash of all settings that a result can depend on, but the seed."""
    settings = cfg.to_dict()
    for name in UNRELATED:
        settings.pop(name, None)
    (settings.get("randomness") or {}).pop("seed", None)
    text = json.dumps(settings, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
