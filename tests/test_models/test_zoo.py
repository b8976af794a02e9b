# SPDX-License-Identifier: Apache-2.0
"""One line in any config of mmdet's zoo selects an upsampler, or ends in a sentence that says where."""

import json
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

import mmcarafe.apis.detection  # as in the commands
import mmcarafe.models
from mmcarafe.layers import CARAFE, UpsampleConfigError
from mmcarafe.utils.registry import upsampling_components

CFG = dict(type="CARAFE", compressed_channels=4)
ZOO = Path(mmdet.__file__).parent / ".mim/configs"
OURS = [name for name in mmcarafe.models.__all__ if name in upsampling_components(MODELS)]
PARTS = {name: part for name in OURS if (part := getattr(MODELS.get(name), "upsampling_part", ""))}
OTHERS = {
    name: kind
    for name, kind in MODELS.module_dict.items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith("mmdet.")
}
OTHERS["SSDHead"] = MODELS.get("SSDHead")  # the commands have their own, which does not upsample either


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_component_that_does_not_upsample_says_which_do(name):
    for cfg in (dict(type=name), dict(type=f"mmdet.{name}"), dict(type=OTHERS[name])):
        with pytest.raises(
            UpsampleConfigError, match=f"^{OTHERS[name].__name__} takes no upsample_cfg.*YOLOXPAFPN$"
        ):
            MODELS.build(dict(cfg, upsample_cfg=CFG))


@pytest.mark.parametrize("name", PARTS)
def test_a_component_with_a_part_that_upsamples_names_the_part(name):
    with pytest.raises(UpsampleConfigError, match=f"{name}: put upsample_cfg into its {PARTS[name]}"):
        MODELS.build(dict(type=name, upsample_cfg=CFG))


def components(cfg: object) -> Iterator[ConfigDict]:
    """Yield the configs of all components in a model's config, from the outside inwards."""
    parts = cfg if isinstance(cfg, list | tuple) else []
    if isinstance(cfg, dict):
        parts = cfg.values()
        if isinstance(cfg.get("type"), str):
            yield cfg
    for part in parts:
        yield from components(part)


@pytest.fixture(scope="module")
def zoo() -> dict[str, dict[str, ConfigDict]]:
    """The different configs of each type in all models of the zoo."""
    found, without_base = {}, []
    for path in sorted(ZOO.rglob("*.py")):
        if not path.relative_to(ZOO).parts[0].startswith("_base_"):
            try:
                model = Config.fromfile(path, import_custom_modules=False).get("model")
            except (FileNotFoundError, ModuleNotFoundError):  # of a package that is not there, or misspelt
                without_base.append(path.name)
                continue
            for cfg in components(model):
                found.setdefault(cfg["type"], {})[json.dumps(cfg, sort_keys=True, default=repr)] = cfg
    assert len(without_base) < 20, without_base
    return found


def build(cfg: ConfigDict) -> nn.Module:
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg)


def outcome(name: str, cfg: ConfigDict) -> str:
    """What a component's config becomes with the line added."""
    cfg = deepcopy(cfg)
    cfg.pop("force_grad_on_level", None)  # two configs give it to an FPN, which mmdet's own refuses
    for part in components(cfg):
        if part["type"] in ("SyncBN", "MMSyncBN"):  # which ask for a process group
            part["type"] = "BN"
    try:
        build(cfg)
    except TypeError:  # a pixel decoder, which its head gives some arguments
        return "needs its parent"
    (cfg[PARTS[name]] if name in PARTS else cfg).upsample_cfg = CFG
    try:
        component = build(cfg)
    except UpsampleConfigError as error:
        if "has no effect" not in str(error):
            raise
        return "has nothing to upsample"
    found = any(isinstance(module, CARAFE) for module in component.modules())
    return "has upsamplers" if found else f"ignores it: {cfg}"


@pytest.mark.slow
def test_every_config_of_the_zoo_gets_upsamplers_or_that_sentence(zoo):
    assert set(zoo) > {"RFP", "NASFPN", "DyHead", "ChannelMapper"}
    outcomes = Counter((outcome(name, cfg), name) for name in OURS for cfg in zoo.get(name, {}).values())
    kinds = {kind for kind, _ in outcomes}
    assert kinds <= {"has upsamplers", "has nothing to upsample", "needs its parent"}
    assert sum(count for (kind, _), count in outcomes.items() if kind == "has upsamplers") > 100, outcomes
