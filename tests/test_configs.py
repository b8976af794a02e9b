# SPDX-License-Identifier: Apache-2.0
"""Every shipped config builds, learns one step and predicts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmcarafe.layers import CARAFE

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs/carafe").glob("*.py"))
# file name -> (CARAFE modules in the neck, in the mask head)
CARAFES = {
    "faster-rcnn_r50_fpn-carafe_1x_coco": (3, 0),
    "mask-rcnn_r50_fpn-carafe_1x_coco": (3, 1),
    "mask-rcnn_r50_fpn-carafe_neck-only_1x_coco": (3, 0),
    "mask-rcnn_r50_fpn-carafe_head-only_1x_coco": (0, 1),
    "mask-rcnn_r18_fpn-carafe_shapes": (3, 1),
    "mask-rcnn_r18_fpn_shapes": (0, 0),
}


HEAD = dict(type="CARAFE", compressed_channels=32)  # of the shapes config


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    register_all_modules()
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None  # no download
    return cfg, MODELS.build(cfg.model)


def count_carafe(module: torch.nn.Module) -> int:
    return sum(isinstance(m, CARAFE) for m in module.modules())


def test_every_config_is_listed():
    assert {path.stem for path in CONFIGS} == set(CARAFES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_learns_a_step_and_predicts(path):
    cfg, model = build(path)
    model.init_weights()
    in_neck, in_head = CARAFES[path.stem]
    assert count_carafe(model.neck) == in_neck
    assert count_carafe(model.roi_head) == in_head

    with_mask = "mask_head" in cfg.model.roi_head
    classes = cfg.model.roi_head.bbox_head.num_classes
    # odd feature sizes: 13 above 7 above 4 above 2
    batch = demo_mm_inputs(2, [[3, 100, 132]] * 2, num_items=[2, 3], num_classes=classes, with_mask=with_mask)
    model.train()
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")
    total = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in model.named_parameters():
        if "upsample" in name:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, training=False), mode="predict")
    assert len(results) == 2
    assert ("masks" in results[0].pred_instances) == with_mask


def test_shapes_twins_differ_in_the_upsampler_alone():
    cfg = {stem: Config.fromfile(ROOT / f"configs/carafe/{stem}.py").to_dict() for stem in CARAFES}
    ours, twin = cfg["mask-rcnn_r18_fpn-carafe_shapes"], cfg["mask-rcnn_r18_fpn_shapes"]
    assert ours["model"]["neck"].pop("upsample_cfg") == dict(type="CARAFE")
    assert ours["model"]["roi_head"]["mask_head"].pop("upsample_cfg") == HEAD
    assert ours == twin


def test_a_config_needs_nothing_but_its_custom_imports():
    code = (
        "import sys; from mmengine.config import Config; from mmengine.registry import MODELS\n"
        f"Config.fromfile({str(ROOT / 'configs/carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py')!r})\n"
        "assert 'mmcarafe.models' in sys.modules and 'CARAFE' in MODELS\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_shapes_config_names_the_classes_of_the_data_set(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from make_shapes_dataset import CLASSES, PALETTE

    metainfo = Config.fromfile(ROOT / "configs/_base_/shapes_instance.py").metainfo
    assert tuple(metainfo.classes) == tuple(CLASSES)
    assert [tuple(color) for color in metainfo.palette] == [tuple(color) for color in PALETTE]
