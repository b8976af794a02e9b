# SPDX-License-Identifier: Apache-2.0
"""Every config of a segmentor states its upsampler alone, learns a step and predicts."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")

from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmcarafe.apis.config import read_config
from mmcarafe.datasets.shapes.drawing import CLASSES, PALETTE
from mmcarafe.layers import CARAFE

FOLDER = Path(__file__).parents[2] / "configs/segmentation"
# file name up to the schedule -> CARAFE modules
CARAFES = {
    "fpn_r18-carafe_shapes": 9,
    "fpn_r18_shapes": 0,
    "fpn_r50-carafe": 9,
    "segformer_mit-b0-carafe": 3,
    "unet-s5-d16-carafe_fcn": 4,
    "upernet_r50-carafe": 10,
    "upernet_r50-carafe-fpn": 3,
    "upernet_r50-carafe-fusion": 3,
    "upernet_r50-carafe-ppm": 4,
}
PATHS = {path.stem.split("_4xb")[0].split("_8xb")[0]: path for path in sorted(FOLDER.glob("*.py"))}
LEFT_OUT = ("upsample_cfg", "upsample_in", "_scope_")


def test_all_are_here():
    assert set(PATHS) == set(CARAFES)


def others(cfg):
    if isinstance(cfg, dict):
        return {key: others(value) for key, value in cfg.items() if key not in LEFT_OUT}
    return [others(value) for value in cfg] if isinstance(cfg, list) else cfg


def base_of(path: Path) -> str:
    """The config of mmsegmentation's that a config starts from."""
    return path.read_text().split('"mmseg::')[1].split('"')[0]


@pytest.mark.parametrize("name", [name for name, path in PATHS.items() if "shapes" not in name])
def test_a_config_differs_by_the_upsampler_alone(name):
    ours = read_config(str(PATHS[name])).to_dict()
    assert ours.pop("custom_imports")["imports"] == ["mmcarafe.segmentation"]
    theirs = read_config(f"mmseg::{base_of(PATHS[name])}").to_dict()
    assert others(ours) == others(theirs)


def test_the_embedded_config_differs_from_its_twin_by_the_upsampler_alone():
    ours, theirs = (read_config(str(PATHS[f"fpn_r18{c}_shapes"])).to_dict() for c in ("-carafe", ""))
    assert others(ours) == others(theirs) and ours != theirs
    assert (ours["metainfo"]["classes"], ours["metainfo"]["palette"][1:]) == (
        ("background", *CLASSES),
        [*PALETTE],
    )
    assert ours["model"]["decode_head"]["num_classes"] == 1 + len(CLASSES)


@pytest.mark.parametrize(
    "name",
    # one of UperNet's stands for the others
    [pytest.param(n, marks=pytest.mark.slow if n.startswith("upernet_r50-carafe-") else ()) for n in PATHS],
)
def test_a_config_learns_a_step_and_predicts(name):
    cfg = read_config(str(PATHS[name]))
    cfg.model.train_cfg, cfg.model.test_cfg = {}, dict(mode="whole")
    cfg.model.data_preprocessor.update(size=(64, 64), size_divisor=None)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model)
        for part in model.modules():  # one process
            if isinstance(part, torch.nn.SyncBatchNorm):
                part.forward = torch.nn.BatchNorm2d.forward.__get__(part)
        assert sum(isinstance(m, CARAFE) for m in model.modules()) == CARAFES[name]
        labels = torch.randint(cfg.model.decode_head.num_classes, (1, 64, 64))
        samples = [
            SegDataSample(
                gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64))
            )
            for _ in range(2)
        ]
        data = dict(inputs=[torch.randint(256, (3, 64, 64)).byte()] * 2, data_samples=samples)
        losses = model(**model.data_preprocessor(data, True), mode="loss")
        sum(value for key, value in losses.items() if "loss" in key).backward()
        carafes = [m for m in model.modules() if isinstance(m, CARAFE)]
        # on a small map some steps of the pooling pyramid have nothing to enlarge
        assert all(p.grad is not None for m in carafes for p in m.parameters())
        with torch.no_grad():
            (found, _) = model.eval().test_step(data)
    assert found.pred_sem_seg.data.shape == (1, 64, 64)
