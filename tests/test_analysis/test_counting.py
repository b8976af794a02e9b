# SPDX-License-Identifier: Apache-2.0
"""Counts of whole detectors: component by component, every config, and the difference between two."""

from functools import cache
from pathlib import Path

import pytest
import torch
from commands import ROOT
from shipped import every_config

from mmcarafe.analysis.flops import CARAFES, Cost, count, total
from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model

MASK_RCNN = ROOT / "configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"
SMALL = (128, 160)


@cache
def costs(config: str | Path, shape: tuple[int, int] = SMALL) -> dict[str, Cost]:
    return count(build_model(read_config(str(config))), list(shape))


@every_config
def test_every_config_is_counted(path):
    found = costs(path)
    with torch.device("meta"):
        model = build_model(read_config(str(path)))
    assert total(found).parameters == sum(p.numel() for p in model.parameters())
    assert found["backbone"].flops > 0 and found["neck" if "neck" in found else "panoptic_head"].flops > 0
    if "shapes" not in path.stem or "carafe" in path.stem:
        carafe = found[CARAFES]
        assert 0 < carafe.flops < total(found).flops
        assert carafe.parameters > 0
    heads = [name for name, cost in found.items() if name.endswith("head") and cost.parameters]
    assert heads and all(found[name].flops > 0 for name in heads), found


def test_difference_of_a_mask_rcnn():
    """CARAFE in the neck adds what the paper says; in the mask head it replaces a deconvolution."""
    ours, theirs = costs(MASK_RCNN), costs("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    neck = ours["neck"] - theirs["neck"]
    source_pixels = sum((128 // s) * (160 // s) for s in (8, 16, 32))
    assert neck == Cost(3 * 74_148, source_pixels * 199_496)
    for name in ("backbone", "rpn_head", "roi_head.bbox_head"):
        assert ours[name] == theirs[name]
    head = ours["roi_head.mask_head"] - theirs["roi_head.mask_head"]
    rois, deconvolution = 100 * 14 * 14, 4 * 256 * 256
    assert head.parameters == 74_148 - (deconvolution + 256)
    assert head.flops == rois * (199_496 - 2 * deconvolution)
    assert CARAFES not in theirs


def test_what_downsamplers_add_to_a_neck():
    """Three stand before strided convolutions, and one in place of pooling."""
    name = "faster-rcnn_r50_pafpn-carafe{}_1x_coco.py"
    ours, theirs = (costs(ROOT / "configs/carafe" / name.format(form)) for form in ("-pp", ""))
    added = ours[CARAFES] - theirs[CARAFES]
    assert added == ours["neck"] - theirs["neck"]
    assert added.parameters == 4 * 7_737
    sizes = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    maps = [height * width for height, width in sizes]
    compressor, kernel = 2 * 257 * 16, 2 * (16 * 9 + 1) * 25 + 2 * 25 * 256
    assert added.flops == sum(maps[:4]) * compressor + sum(maps[1:]) * kernel


def test_what_another_type_adds_to_a_neck():
    """DySample: a convolution to 32 offsets, and a point for each output pixel, without biases."""
    cfg = read_config(str(MASK_RCNN), {"model.neck.upsample_cfg.type": "DySample"})
    neck = count(build_model(cfg), list(SMALL))["neck"]
    source_pixels = sum((128 // s) * (160 // s) for s in (8, 16, 32))
    added = neck - costs("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")["neck"]
    assert added == Cost(3 * 8_224, source_pixels * (2 * 256 * 32 + 2 * 4 * 4 * 256))


def test_operations_grow_with_the_image():
    small, large = costs(MASK_RCNN), costs(MASK_RCNN, (256, 320))
    for name in ("backbone", "neck", "rpn_head"):
        assert large[name].flops == pytest.approx(4 * small[name].flops, rel=0.01)
    for name in ("roi_head.mask_head", "roi_head.bbox_head"):
        assert large[name] == small[name]


def test_rois_are_those_of_the_settings_for_tests():
    cfg = read_config(
        str(MASK_RCNN), {"model.test_cfg.rpn.max_per_img": 500, "model.test_cfg.rcnn.max_per_img": 25}
    )
    few, usual = count(build_model(cfg), list(SMALL)), costs(MASK_RCNN)
    assert 2 * few["roi_head.bbox_head"].flops == usual["roi_head.bbox_head"].flops
    assert 4 * few["roi_head.mask_head"].flops == usual["roi_head.mask_head"].flops


def test_what_boxes_and_masks_share_is_counted_for_both():
    """In a C4 model a stage of the ResNet runs on every RoI."""

    def shared(boxes, masks):
        options = {
            "model.test_cfg.rpn.max_per_img": boxes,
            "model.test_cfg.rcnn.max_per_img": masks,
            "model.backbone.init_cfg": None,
        }
        cfg = read_config("mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py", options)
        return count(build_model(cfg), [64, 64])["roi_head.shared_head"].flops

    assert shared(2, 2) > 0
    assert shared(1000, 100) == 1100 / 4 * shared(2, 2)
    assert shared(1000, 50) == 1050 / 4 * shared(2, 2)


def test_extractors_with_layers_are_counted_for_each_roi():
    name = "mmdet::groie/mask-rcnn_r50_fpn_groie_1x_coco.py"
    few = {"model.test_cfg.rpn.max_per_img": 2, "model.test_cfg.rcnn.max_per_img": 2}
    found, usual = (count(build_model(read_config(name, options)), [64, 64]) for options in (few, {}))
    for kind, rois in (("bbox", 1000), ("mask", 100)):
        name = f"roi_head.{kind}_roi_extractor"
        assert usual[name].flops == rois / 2 * found[name].flops > 0
