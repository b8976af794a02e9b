# SPDX-License-Identifier: Apache-2.0
"""Detectors with post-processing of fixed sizes find what mmdet finds."""

import doctest

import pytest
import torch
from lively import CONFIGS, enlivened, lively, mmdets_detections, pictures
from mmdet.models.layers import mask_matrix_nms
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import MODELS
from mmdet.structures.mask import mask2bbox
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from torch.nn import functional as F
from torch.testing import assert_close

from mmcarafe.deploy import one_stage
from mmcarafe.deploy.detectors import whole
from mmcarafe.deploy.one_stage import dynamic_masks
from mmcarafe.deploy.ops import exportable
from mmcarafe.deploy.solo import decay
from mmcarafe.errors import UnsupportedError

SLOW = pytest.mark.slow
ONE_STAGE = (
    "retinanet_r50_fpn",
    "yolox_s",
    *(
        pytest.param(start, marks=SLOW)
        for start in (
            "atss_r50_fpn",
            "fcos_r50-caffe_fpn",
            "rtmdet_s",
            "rtmdet-ins_s",
            "tood_r50_fpn",
            "vfnet_r50_fpn",
        )
    ),
)
TWO_STAGE = [
    pytest.param(start, marks=SLOW)
    for start in (
        "mask-rcnn_r50_fpn",
        "faster-rcnn_r50_fpn",
        "faster-rcnn_r50_pafpn",
        "cascade-mask-rcnn_r50_fpn",
        "htc_r50_fpn",
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
            agree(masks_of(ours, (160, 224)), theirs.masks)


def masks_of(found: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    if "mask_maps" in found:
        return F.interpolate(found["mask_maps"][None], size, mode="bilinear")[0] > 0
    pasted, _ = _do_paste_mask(found["masks"][:, None], found["boxes"], *size, skip_empty=False)
    return pasted > 0.5


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert 0.001 < theirs.float().mean() < 0.999
    assert (ours != theirs).float().mean() < 1e-4  # a probability of one half may round either way


@pytest.mark.parametrize("loss", [{}, dict(type="FocalLoss", use_sigmoid=True)], ids=["softmax", "sigmoid"])
def test_detections_of_detr_are_mmdets(loss):
    """Of one layer each in encoder and decoder; queries that are far apart look at different places."""
    register_all_modules()
    cfg = get_config("mmdet::detr/detr_r18_8xb2-500e_coco.py").model
    cfg.backbone.update(base_channels=8, init_cfg=None)
    cfg.neck.in_channels = [64]
    cfg.encoder.num_layers = cfg.decoder.num_layers = 1
    cfg.bbox_head.loss_cls = loss or cfg.bbox_head.loss_cls
    torch.manual_seed(0)
    detector, images = MODELS.build(cfg).eval(), pictures(2, 160, 224)
    with torch.no_grad():
        detector.query_embedding.weight *= 10
    expected = mmdets_detections(enlivened(detector), images)
    actual = detections(whole(detector), images)
    for i, theirs in enumerate(expected):
        assert len(theirs.labels.unique()) > 3 and theirs.bboxes.std(0).max() > 5
        for ours, name in zip(actual.values(), ("bboxes", "scores", "labels"), strict=True):
            assert_close(ours[i], theirs[name])


@SLOW
def test_masks_of_solov2_are_mmdets_and_boxes_lie_around_them():
    """With fewer pairs of place and class above the threshold than are candidates."""
    detector, images = lively("solov2_r50_fpn", score_thr=0.975), pictures(2, 160, 224)
    expected = mmdets_detections(detector, images)
    actual = detections(whole(detector), images)
    for i, theirs in enumerate(expected):
        ours = {name: values[i, : len(theirs)] for name, values in actual.items()}
        assert len(theirs) > 20
        assert int((actual["scores"][i] > 0).sum()) == len(theirs)
        assert not actual["mask_maps"][i, len(theirs) :].any()
        assert_close(ours["scores"], theirs.scores)
        assert ours["labels"].equal(theirs.labels)
        agree(masks_of(ours, (160, 224)), theirs.masks)
        assert_close(ours["boxes"], mask2bbox(ours["mask_maps"] > 0) * 4)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_scores_decay_as_mmdets(kernel):
    masks = (F.interpolate(torch.randn(1, 30, 4, 4), (16, 16), mode="bilinear")[0] > 0).float()
    scores, labels = torch.rand(30).sort(descending=True)[0], torch.randint(3, (30,))
    expected, _, _, order = mask_matrix_nms(masks, labels, scores, kernel=kernel)
    flat = masks.flatten(1)
    batch = (t.expand(2, *t.shape) for t in (flat, flat.sum(1), labels))
    actual = scores * decay(*batch, kernel, 2.0)
    assert expected.min() < 0.9 * scores.min()
    assert_close(actual[:, order], expected.expand(2, -1))


def test_masks_of_kernels_are_mmdets():
    head = MODELS.build(
        dict(
            type="RTMDetInsHead",
            num_classes=2,
            in_channels=4,
            feat_channels=4,
            norm_cfg=dict(type="BN"),
            anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16]),
            bbox_coder=dict(type="DistancePointBBoxCoder"),
            loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True),
            loss_bbox=dict(type="GIoULoss"),
        )
    )
    features, kernels = torch.randn(2, 8, 5, 7), torch.randn(2, 3, head.num_gen_params)
    points = torch.tensor([[8, 16, 8, 8], [32, 16, 16, 16], [0, 0, 16, 16.0]]).expand(2, -1, -1)
    expected = [
        head._mask_predict_by_feat_single(*one) for one in zip(features, kernels, points, strict=True)
    ]
    assert_close(dynamic_masks(head, features, kernels, points), torch.stack(expected))


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
    maps = [torch.rand(2, extractor.out_channels, 64 // 2**i, 64 // 2**i) for i in range(4)]
    rois = torch.tensor([[0, 0, 0, 20, 30], [1, 5, 9, 250, 255], [1, 3, 3, 3, 3], [0, 40, 60, 200, 180.0]])
    expected = extractor(maps, rois)
    with exportable():
        assert extractor(maps, rois).equal(expected)
    assert extractor.forward.__func__.__module__.startswith("mmdet")


AGNOSTIC = dict(type="nms", iou_threshold=0.5, class_agnostic=True, split_thr=100)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("mask2former_r50_carafe_8xb2-lsj-50e_coco", {}, "Mask2Former is not exported: its attention"),
        ("retinanet_r50_fpn-carafe_1x_coco", dict(nms=dict(type="soft_nms")), "expected type='nms'"),
        ("retinanet_r50_fpn-carafe_1x_coco", dict(nms=None), "expected type='nms'"),
        (
            "retinanet_r50_fpn-carafe_1x_coco",
            dict(nms=AGNOSTIC),
            "with split_thr mmcv suppresses class by class",
        ),
        ("retinanet_r50_fpn-carafe_1x_coco", dict(nms_pre=-1), "test_cfg.nms_pre: expected 1 or more"),
        ("panoptic-fpn_r50_fpn-carafe_1x_coco", {}, "its panoptic map would be left out"),
        ("solov2_r50_fpn-carafe_1x_coco", dict(kernel="gauss"), "kernel: expected gaussian or linear, got"),
        ("rtmdet-ins_s_carafe_8xb32-300e_coco", dict(mask_thr_binary=-1), "between 0 and 1, got -1"),
    ],
)
def test_what_cannot_be_exported_is_named(name, change, match):
    cfg = Config.fromfile(CONFIGS / f"{name}.py").model
    cfg.backbone.init_cfg = None
    cfg.test_cfg.update(change)
    with pytest.raises(UnsupportedError, match=match):
        whole(MODELS.build(cfg))


def refining(detector):
    """A user's detector that does more than its family does."""

    class Refining(type(detector)):
        def extract_feat(self, batch_inputs):
            return super().extract_feat(batch_inputs)

    detector.__class__ = Refining
    return detector


def test_a_detector_of_ones_own_is_not_exported_as_its_family():
    with pytest.raises(UnsupportedError, match="Refining is not exported: its extract_feat"):
        whole(refining(lively("fcos_r50-caffe_fpn")))


def test_scores_of_every_stage_are_looked_at():
    cfg = Config.fromfile(CONFIGS / "cascade-mask-rcnn_r50_fpn-carafe_1x_coco.py").model
    cfg.backbone.init_cfg = None
    cfg.roi_head.bbox_head[2].loss_cls = dict(type="SeesawLoss", num_classes=80)
    with pytest.raises(UnsupportedError, match="scores of SeesawLoss are not exported"):
        whole(MODELS.build(cfg))


def test_a_detector_without_boxes_is_named():
    with pytest.raises(UnsupportedError, match="SOLOv2 alone is exported, not Sequential"):
        whole(torch.nn.Sequential())


def test_the_docstrings_example():
    assert doctest.testmod(one_stage).attempted > 3
    assert doctest.testmod(one_stage).failed == 0
