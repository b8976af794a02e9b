# SPDX-License-Identifier: Apache-2.0
"""Every shipped config builds, learns one step and predicts."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from model_tables import base_of
from shipped import CONFIGS, every_config, few_rois

from mmcarafe.apis import config
from mmcarafe.datasets.shapes.drawing import CLASSES, PALETTE
from mmcarafe.errors import InputError
from mmcarafe.layers import CARAFE, CARAFEDownsample

ROOT = Path(__file__).parents[1]
# file name -> (CARAFE modules in the neck, elsewhere)
CARAFES = {
    "atss_r50_fpn-carafe_1x_coco": (2, 0),
    "cascade-mask-rcnn_r50_fpn-carafe_1x_coco": (3, 3),
    "faster-rcnn_r50_fpn-carafe_1x_coco": (3, 0),
    "faster-rcnn_r50_pafpn-carafe_1x_coco": (3, 0),
    "faster-rcnn_r50_pafpn-carafe-pp_1x_coco": (7, 0),
    "fcos_r50-caffe_fpn-carafe_gn-head_1x_coco": (2, 0),
    "htc_r50_fpn-carafe_1x_coco": (3, 3),
    "mask-rcnn_r50_fpn-carafe_1x_coco": (3, 1),
    "mask-rcnn_r50_fpn-carafe_neck-only_1x_coco": (3, 0),
    "mask-rcnn_r50_fpn-carafe_head-only_1x_coco": (0, 1),
    "mask-rcnn_r18_fpn-carafe_shapes": (3, 1),
    "mask-rcnn_r18_fpn_shapes": (0, 0),
    "mask2former_r50_carafe_8xb2-lsj-50e_coco": (0, 1),
    "panoptic-fpn_r50_fpn-carafe_1x_coco": (3, 7),
    "retinanet_r50_fpn-carafe_1x_coco": (2, 0),
    "rtmdet-ins_s_carafe_8xb32-300e_coco": (2, 2),
    "rtmdet_s_carafe_8xb32-300e_coco": (2, 0),
    "rtmdet_s_carafe-pp_8xb32-300e_coco": (4, 0),
    "solov2_r50_fpn-carafe_1x_coco": (3, 6),
    "tood_r50_fpn-carafe_1x_coco": (2, 0),
    "vfnet_r50_fpn-carafe_1x_coco": (2, 0),
    "yolox_s_carafe_8xb8-300e_coco": (2, 0),
}
PANOPTIC = dict(with_semantic=True, sem_seg_output_strides=1)
SEMANTIC = {
    "htc_r50_fpn-carafe_1x_coco": dict(with_semantic=True),
    "panoptic-fpn_r50_fpn-carafe_1x_coco": PANOPTIC,
}
HEAD = dict(type="CARAFE", compressed_channels=32)  # of the shapes config


def build(cfg: Config) -> torch.nn.Module:
    """The detector, with random weights and images of the size they have."""
    register_all_modules()
    cfg.model.backbone.init_cfg = None  # no download
    cfg.model.get("data_preprocessor", {}).pop("batch_augments", None)  # they enlarge the images
    return MODELS.build(cfg.model)


def count_carafe(module: torch.nn.Module | None) -> int:
    return sum(isinstance(m, CARAFE | CARAFEDownsample) for m in module.modules()) if module else 0


def test_every_config_is_listed():
    assert {path.stem for path in CONFIGS} == set(CARAFES)


@every_config
def test_config_learns_a_step_and_predicts(path):
    cfg = Config.fromfile(path)
    if "roi_head" in cfg.model:  # mmdet's masks take long
        cfg.model.test_cfg.rcnn.max_per_img = 5
    few_rois(cfg)
    model = build(cfg)
    model.init_weights()
    MessageHub.get_current_instance().update_info("epoch", 0)  # as the runner does; TOOD reads it
    in_neck, elsewhere = CARAFES[path.stem]
    assert count_carafe(getattr(model, "neck", None)) == in_neck
    assert count_carafe(model) == in_neck + elsewhere

    with_mask = getattr(model, "with_mask", False) or "mask2former" in path.stem or "ins" in path.stem
    classes = 6 if "shapes" in path.stem else 80
    # those two data preprocessors leave padding to the pipeline
    size = [3, 128, 160] if path.stem.startswith(("yolox", "rtmdet")) else [3, 100, 132]
    batch = demo_mm_inputs(
        2,
        [size] * 2,
        num_items=[2, 3],
        num_classes=classes,
        with_mask=with_mask,
        **SEMANTIC.get(path.stem, {}),
    )
    model.train()
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")
    total = sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)
    assert torch.isfinite(total)
    total.backward()
    for name, module in model.named_modules():
        if isinstance(module, CARAFE | CARAFEDownsample):
            for parameter in module.parameters():
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, training=False), mode="predict")
    assert len(results) == 2
    if "panoptic" in path.stem:
        assert results[0].pred_panoptic_seg.sem_seg.shape == (1, 100, 132)
    else:
        assert ("masks" in results[0].pred_instances) == with_mask


def differences(ours, theirs, path=()):
    """Where two nested configs differ, as paths to leaves that only ours has or has other values of."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in ours if key != "_scope_"]  # written by mmengine when it reads a base
        return [p for key in keys for p in differences(ours[key], theirs.get(key, {}), (*path, key))]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        return [
            p for i, pair in enumerate(zip(ours, theirs, strict=True)) for p in differences(*pair, (*path, i))
        ]
    return [] if ours == theirs else [path]


def without(model: dict, path: tuple) -> dict:
    """A copy of a model config with one leaf left out."""
    model = copy.deepcopy(model)
    owner = model
    for key in path[:-1]:
        owner = owner[key]
    del owner[path[-1]]
    return model


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem.endswith("_coco")], ids=lambda path: path.stem)
def test_every_key_of_a_config_has_an_effect(path):
    cfg, base = Config.fromfile(path), get_config(base_of(path))
    changed = differences(cfg.model.to_dict(), base.model.to_dict())
    assert changed, "the config states nothing"
    with torch.device("meta"):
        built = str(build(cfg))
        for leaf in changed:
            same = str(build(Config(dict(model=without(cfg.model, leaf))))) == built
            assert not same, f"{leaf} has no effect"


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


def test_shapes_config_names_the_classes_of_the_data_set():
    metainfo = Config.fromfile(ROOT / "configs/_base_/shapes_instance.py").metainfo
    assert tuple(metainfo.classes) == tuple(CLASSES)
    assert [tuple(color) for color in metainfo.palette] == [tuple(color) for color in PALETTE]


def test_the_commands_take_them_by_name(monkeypatch):
    name = "retinanet_r50_fpn-carafe_1x_coco.py"
    monkeypatch.setattr(config, "SHIPPED", ROOT / "configs")
    assert config.read_config(f"mmcarafe::carafe/{name}").model.neck.upsample_cfg.type == "CARAFE"
    with pytest.raises(InputError, match=r"config .*carafe/none.py does not exist"):
        config.read_config("mmcarafe::carafe/none.py")
