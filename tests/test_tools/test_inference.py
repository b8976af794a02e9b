# SPDX-License-Identifier: Apache-2.0
"""Files as mmdet 2.x released them evaluate and predict, with mmdet's configs and inference functions."""

import json
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import COCO_CONFIG, call, metrics
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config

from mmcarafe.layers import CARAFE

CLASSES = CocoDataset.METAINFO["classes"]
STOCK = "mmdet::carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"
# the architecture as released, on small images; random weights are sure of nothing
OPTIONS = [
    "test_dataloader.dataset.pipeline.1.scale=(128,96)",
    "model.test_cfg.rcnn.score_thr=0.0",
    "model.test_cfg.rcnn.max_per_img=3",
]


def model_of(config: Config) -> torch.nn.Module:
    register_all_modules()
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    return MODELS.build(config.model)


@pytest.fixture(scope="module")
def released(tmp_path_factory, stock) -> Path:
    """A file like the zoo's: legacy pickle, mmdet 2.0's meta, nothing of mmengine's."""
    path = tmp_path_factory.mktemp("zoo") / "mask_rcnn_r50_fpn_carafe_1x_coco.pth"
    meta = dict(
        env_info="sys.platform: linux\nPyTorch: 1.3.1",
        mmdet_version="2.0.0rc0+1d8b8ed",
        config="model = dict(\n    type='MaskRCNN')\n",
        CLASSES=CLASSES,
        epoch=12,
        iter=87960,
        mmcv_version="0.4.4",
        time="Sat May  2 18:57:58 2020",
    )
    with stock():
        state = OrderedDict(model_of(get_config(STOCK)).state_dict())
    torch.save(dict(meta=meta, state_dict=state), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """A folder with data/coco in it: two images, COCO's 80 classes."""
    folder = tmp_path_factory.mktemp("coco")
    root = folder / "data/coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i in (1, 2):
        image = np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(root / f"val2017/{i}.jpg"), image)
        images.append(dict(id=i, file_name=f"{i}.jpg", height=96, width=128))
        polygon = [8.0, 8.0, 70.0, 8.0, 70.0, 60.0, 8.0, 60.0]
        box = dict(bbox=[8, 8, 62, 52], area=3224, iscrowd=0, segmentation=[polygon])
        annotations.append(dict(id=i, image_id=i, category_id=1, **box))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
    (root / "annotations/instances_val2017.json").write_text(text)
    return folder


def test_a_released_checkpoint_evaluates_with_mmdets_own_config(released, coco, tmp_path):
    config = tmp_path / "stock.py"
    config.write_text(f"_base_ = {STOCK!r}\nmodel = dict(backbone=dict(init_cfg=None))\n")
    call("test.py", config, released, "--work-dir", tmp_path / "eval", "--cfg-options", *OPTIONS, cwd=coco)
    assert "coco/segm_mAP" in metrics(tmp_path / "eval")


def test_detinferencer_takes_a_bare_mmdet_config_and_a_released_checkpoint(released, coco, tmp_path):
    config = tmp_path / "bare.py"
    config.write_text(f"_base_ = {STOCK!r}\ncustom_imports = dict(imports=['mmcarafe.models'])\n")
    inferencer = DetInferencer(str(config), str(released), device="cpu", show_progress=False)
    assert sum(isinstance(m, CARAFE) for m in inferencer.model.modules()) == 5
    assert tuple(inferencer.model.dataset_meta["classes"]) == tuple(CLASSES)
    inferencer.pipeline.transforms[1].scale = (128, 96)
    image = str(coco / "data/coco/val2017/1.jpg")
    result = inferencer(image, out_dir=str(tmp_path), no_save_pred=False)
    assert set(result["predictions"][0]) >= {"labels", "scores", "bboxes"}
    assert (tmp_path / "vis/1.jpg").is_file()
    assert (tmp_path / "preds/1.json").is_file()


def test_init_detector_takes_our_config(coco, tmp_path):
    checkpoint = tmp_path / "ours.pth"
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(meta=meta, state_dict=model_of(Config.fromfile(COCO_CONFIG)).state_dict()), checkpoint)
    options = {"model.backbone.init_cfg": None, "test_dataloader.dataset.pipeline.1.scale": (128, 96)}
    model = init_detector(str(COCO_CONFIG), str(checkpoint), device="cpu", cfg_options=options)
    assert sum(isinstance(m, CARAFE) for m in model.modules()) == 4
    assert tuple(model.dataset_meta["classes"]) == tuple(CLASSES)
    result = inference_detector(model, str(coco / "data/coco/val2017/1.jpg"))
    assert result.pred_instances.masks.shape[1:] == (96, 128)
