# SPDX-License-Identifier: Apache-2.0
"""Detectors with post-processing of fixed sizes find what mmdet finds."""

import doctest

import pytest
import torch
from lively import CONFIGS, lively, mmdets_detections, pictures
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import MODELS
from mmengine.config import Config
from torch.testing import assert_close

from mmcarafe.deploy import detectors as deploy
from mmcarafe.deploy.detectors import whole
from mmcarafe.deploy.ops import exportable
from mmcarafe.errors import UnsupportedError

SLOW = pytest.mark.slow
ONE_STAGE = (
    "retinanet_r50_fpn",
    "yolox_s",
    *(
        pytest.param(start, marks=SLOW)
        for start in ("atss_r50_fpn", "fcos_r50-caffe_fpn", "rtmdet_s", "vfnet_r50_fpn")
    ),
)
TWO_STAGE = [
    pytest.param(start, marks=SLOW)
    for start in (
        "mask-rcnn_r50_fpn",
        "faster-rcnn_r50_fpn",
        "faster-rcnn_r50_pafpn",
        "cascade-mask-rcnn_r50_fpn",
    )
]


def detections(module, images):
    with torch.no_grad():
        return dict(zip(module.outputs, module.eval()(images), strict=True))


def in_order(scores: torch.Tensor, boxes: torch.Tensor) -> list[int]:
    """Indices by score, and of equal scores, which a sort may give in any order, by the box."""
    group = torch.cat([scores.new_zeros(1), (scores.diff().abs() > 1e-6).cumsum(0)]).tolist()
    return sorted(range(len(scores)), key=lambda i: (group[i], boxes[i].round(decimals=2).tolist()))


@pytest.mark.needs(torch="2.7")  # orders equal scores differently
@pytest.mark.parametrize("start", [*ONE_STAGE, *TWO_STAGE])
def test_detections_are_mmdets(start):
    detector = lively(start)
    images = pictures(2, 160, 224)
    expected = mmdets_detections(detector, images)
    actual = detections(whole(detector), images)
    for i, theirs in enumerate(expected):
        theirs = theirs[: actual["scores"].shape[1]]  # YOLOX has no limit of its own
        count = len(theirs)
        assert count > 20
        assert int((actual["scores"][i] > 0).sum()) == count
        assert not actual["scores"][i, count:].any() and (actual["labels"][i, count:] == -1).all()
        assert_close(actual["scores"][i, :count], theirs.scores)
        theirs = theirs[in_order(theirs.scores, theirs.bboxes)]
        order = in_order(actual["scores"][i, :count], actual["boxes"][i, :count])
        ours = {name: values[i, :count][order] for name, values in actual.items()}
        assert_close(ours["boxes"], theirs.bboxes)
        assert ours["labels"].equal(theirs.labels)
        if "masks" in theirs:
            pasted, _ = _do_paste_mask(ours["masks"][:, None], ours["boxes"], 160, 224, skip_empty=False)
            differing = ((pasted > 0.5) != theirs.masks).float().mean()
            assert 0.001 < theirs.masks.float().mean() < 0.999
            assert differing < 1e-4  # a probability of one half may round either way


@pytest.mark.parametrize(
    "start",
    ["yolox_s", *(pytest.param(start, marks=SLOW) for start in ("fcos_r50-caffe_fpn", "mask-rcnn_r50_fpn"))],
)
def test_where_nothing_is_found_everything_is_zero(start):
    actual = detections(whole(lively(start, score_thr=1.0)), pictures(1, 160, 160))
    assert not actual["scores"].any() and not actual["boxes"].any() and (actual["labels"] == -1).all()


def test_class_agnostic_suppression():
    nms = dict(type="nms", iou_threshold=0.3, class_agnostic=True)
    detector, images = lively("retinanet_r50_fpn", nms=nms), pictures(1, 160, 160)
    (expected,) = mmdets_detections(detector, images)
    actual = detections(whole(detector), images)
    assert_close(actual["scores"][0, : len(expected)], expected.scores)


def test_images_with_fewer_places_than_candidates_are_filled_up():
    """One pixel at every level of the pyramid but one; nms_pre asks for 1000 of each."""
    detector, images = lively("retinanet_r50_fpn", min_bbox_size=8), pictures(1, 64, 64)
    (expected,) = mmdets_detections(detector, images)
    actual = detections(whole(detector), images)
    assert_close(actual["boxes"][0, : len(expected)], expected.bboxes)


def test_the_ops_are_registered_as_torch_wants():
    boxes = torch.rand(2, 30, 4).sort(-1).values * 50
    ops = torch.ops.mmcarafe
    torch.library.opcheck(ops.nms_scores.default, (boxes, torch.rand(2, 30), 0.5, 10))
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 4, 4, 4)]
    rois = torch.cat([torch.randint(2, (6, 1)).float(), torch.rand(6, 4).sort(-1).values * 30], 1)
    levels = torch.tensor([0, 1, 1, 0, 0, 1])
    torch.library.opcheck(ops.roi_align_levels.default, (maps, rois, levels, [3, 3], [0.25, 0.125], 2, True))


@pytest.mark.parametrize("start", ["faster-rcnn_r50_fpn"])
def test_the_op_extracts_what_mmdets_extractor_does(start):
    extractor = lively(start).roi_head.bbox_roi_extractor
    maps = [torch.rand(2, 256, 64 // 2**i, 64 // 2**i) for i in range(4)]
    rois = torch.tensor([[0, 0, 0, 20, 30], [1, 5, 9, 250, 255], [1, 3, 3, 3, 3], [0, 40, 60, 200, 180.0]])
    expected = extractor(maps, rois)
    with exportable():
        assert extractor(maps, rois).equal(expected)
    assert extractor.forward.__func__.__module__.startswith("mmdet")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("rtmdet-ins_s_carafe_8xb32-300e_coco", {}, "boxes of RTMDetInsSepBNHead are selected"),
        ("solov2_r50_fpn-carafe_1x_coco", {}, "boxes of NoneType"),
        ("htc_r50_fpn-carafe_1x_coco", {}, "not RPNHead and HybridTaskCascadeRoIHead"),
        ("retinanet_r50_fpn-carafe_1x_coco", dict(nms=dict(type="soft_nms")), "expected type='nms'"),
        ("retinanet_r50_fpn-carafe_1x_coco", dict(nms_pre=-1), "test_cfg.nms_pre: expected 1 or more"),
    ],
)
def test_what_cannot_be_exported_is_named(name, change, match):
    cfg = Config.fromfile(CONFIGS / f"{name}.py").model
    cfg.backbone.init_cfg = None
    cfg.test_cfg.update(change)
    with pytest.raises(UnsupportedError, match=match):
        whole(MODELS.build(cfg))


def test_the_docstrings_example():
    assert doctest.testmod(deploy).attempted > 3
    assert doctest.testmod(deploy).failed == 0
