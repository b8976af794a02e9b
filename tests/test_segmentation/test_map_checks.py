# SPDX-License-Identifier: Apache-2.0
"""The heads that are compared with the classes of the maps, in mmsegmentation's own configs."""

from types import SimpleNamespace

import pytest
from torch import nn

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmseg.datasets import CityscapesDataset, NYUDataset
from mmseg.models.decode_heads import FCNHead, STDCHead
from mmseg.registry import MODELS

from mmcarafe.engine.hooks.map_check_hook import check_classes
from mmcarafe.errors import DataError


def runner(model, dataset, classes=None):
    meta = dict(classes=classes) if classes else dataset.METAINFO
    data = SimpleNamespace(dataset=SimpleNamespace(metainfo=meta))
    return SimpleNamespace(model=model, train_dataloader=data)


def heads_of(config: str) -> nn.Module:
    """The heads of a config, without the rest of its model."""
    cfg, model = get_config(f"mmseg::{config}").model, nn.Module()
    for name in ("decode_head", "auxiliary_head"):
        parts = cfg.get(name)
        with DefaultScope.overwrite_default_scope("mmseg"):
            built = [MODELS.build(part) for part in (parts if isinstance(parts, list) else [parts]) if part]
        setattr(model, name, nn.ModuleList(built))
    return model


@pytest.mark.parametrize(
    "config",
    [
        "stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
        "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
        "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
        "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py",
    ],
)
def test_the_classes_of_shipped_configs_fit(config):
    model = heads_of(config)
    check_classes(runner(model, CityscapesDataset), "train")
    if config.startswith("stdc"):
        assert any(isinstance(head, STDCHead) for head in model.auxiliary_head)
    with pytest.raises(DataError, match=r"num_classes is 19, and train_dataloader.dataset .* has 2 classes"):
        check_classes(runner(model, CityscapesDataset, ("road", "other")), "train")


def test_depth_is_no_class():
    # its head needs weights of a diffusion model to be built
    model, head = nn.Module(), type("VPDDepthHead", (FCNHead,), dict(__module__="mmseg.models"))
    model.decode_head = head(in_channels=4, channels=4, num_classes=2)
    check_classes(runner(model, NYUDataset), "train")
