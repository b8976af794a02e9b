# SPDX-License-Identifier: Apache-2.0
"""Every tool takes every structure of detectors that mmdet has, or says in one sentence why not."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from commands import CONFIG
from demo import main
from mmengine.config import Config, ConfigDict
from torch import nn

from mmcarafe.analysis.flops import CARAFES, OUTSIDE, Cost, count, total
from mmcarafe.apis.config import build_detector, drop_pretrained, read_config
from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.deploy.detectors import Preprocessed, image_channels, predicting
from mmcarafe.deploy.parts import part_of
from mmcarafe.deploy.verifying import read_image
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_pipeline
from mmcarafe.visualization import load_image, look, to_bgr

R18 = {"model.backbone.depth": 18, "model.neck.in_channels": [64, 128, 256, 512]}
CARAFE = dict(type="CARAFE", compressed_channels=8)
ELSEWHERE = "http://nowhere.invalid/teacher.pth"


def mask_rcnn(**options) -> Config:
    """The embedded detector, smaller, which takes whatever scores."""
    small = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    return read_config(str(CONFIG), small | {"model.test_cfg.rcnn.score_thr": 0.0} | options)


def grey() -> Config:
    preprocessor = dict(mean=[114.0], std=[57.0], bgr_to_rgb=False)
    cfg = mask_rcnn(**{"model.backbone.in_channels": 1, "model.data_preprocessor": preprocessor})
    cfg.test_dataloader.dataset.pipeline[0].update(color_type="grayscale", to_float32=True)
    return cfg


def soft_teacher() -> Config:
    """The detector is nested twice, and its preprocessor is that of the model around it."""
    cfg = mask_rcnn()
    around = dict(type="MultiBranchDataPreprocessor", data_preprocessor=cfg.model.pop("data_preprocessor"))
    cfg.model = ConfigDict(
        type="SoftTeacher",
        detector=cfg.model,
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on="student"),
        data_preprocessor=around,
    )
    return cfg


def cond_inst() -> Config:
    """A mask head beside a dense head, whose raw forward pass would compute losses."""
    cfg = read_config("mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py", R18)
    cfg.model.mask_head.mask_feature_head.upsample_cfg = CARAFE
    return cfg


def solov2() -> Config:
    """Masks without boxes."""
    certain = {"model.test_cfg.mask_thr": 0.0, "model.test_cfg.filter_thr": 0.0}
    cfg = read_config("mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py", certain)
    cfg.model.mask_head.mask_feature_head.upsample_cfg = CARAFE
    return cfg


def sparse_rcnn() -> Config:
    """A fixed number of queries, two stages without an RPN."""
    cfg = read_config("mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", R18)
    cfg.model.roi_head.update(
        num_stages=1, stage_loss_weights=[1], bbox_head=cfg.model.roi_head.bbox_head[:1]
    )
    cfg.model.train_cfg.rcnn = cfg.model.train_cfg.rcnn[:1]
    cfg.model.neck.upsample_cfg = CARAFE
    return cfg


def deformable_detr() -> Config:
    options = {"model.encoder.num_layers": 1, "model.decoder.num_layers": 1}
    options |= R18 | {"model.neck.in_channels": [128, 256, 512]}
    return read_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", options)


def ssd() -> Config:
    """A dense head without the loss that mmdet looks for; and a config that says nothing of drawing."""
    cfg = read_config("mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py")
    cfg.pop("visualizer")
    return cfg


def cascade_rpn() -> Config:
    """An RPN whose stages are run one by one."""
    cfg = read_config("mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py", R18)
    cfg.model.neck.upsample_cfg = CARAFE
    return cfg


def lad() -> Config:
    """A student; its teacher cannot be had."""
    teacher = {"model.teacher_backbone.depth": 18, "model.teacher_neck.in_channels": [64, 128, 256, 512]}
    options = R18 | teacher | {"model.teacher_ckpt": ELSEWHERE, "model.neck.upsample_cfg": CARAFE}
    return read_config("mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", options)


NOT = {
    "grey": {},
    "soft_teacher": {},
    "cond_inst": dict(detector="boxes of CondInstBboxHead are selected in a way of its own"),
    "solov2": dict(detector="in a way of its own, which is not exported; try --part raw"),
    "sparse_rcnn": dict(detector="not EmbeddingRPNHead and SparseRoIHead", raw="has no dense head"),
    "deformable_detr": dict(detector="boxes of DeformableDETRHead", raw="DeformableDETR has no dense head"),
    "ssd": {},
    "cascade_rpn": dict(
        detector="not CascadeRPNHead and StandardRoIHead", raw="FasterRCNN has no dense head"
    ),
    "lad": dict(detector="boxes of LADHead"),
}
"""Which parts of a family are not exported, and what is said of them."""


@pytest.fixture(params=NOT)
def family(request) -> str:
    return request.param


@pytest.fixture
def cfg(family) -> Config:
    """Small images, and whatever scores is found."""
    cfg = globals()[family]()
    for settings in (cfg.model.get("test_cfg", {}), cfg.model.get("test_cfg", {}).get("rcnn") or {}):
        if "score_thr" in settings:
            settings.score_thr = 0.0
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (160, 128)
    return cfg


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    return str(path)


def written(cfg, folder) -> list[str]:
    """A config and a checkpoint, as the tools take them."""
    cfg.dump(folder / "config.py")
    detector = build_detector(cfg)
    detector.init_weights()
    torch.save(dict(state_dict=detector.state_dict()), folder / "weights.pth")
    return [str(folder / "config.py"), str(folder / "weights.pth")]


def detect(given, cfg, folder, monkeypatch, *options) -> list[dict]:
    command = ["demo.py", str(given), *written(cfg, folder), "--out-dir", str(folder / "out"), *options]
    monkeypatch.setattr("sys.argv", [*command, "--score-thr", "0", "--device", "cpu"])
    main()
    return json.loads((folder / "out/results.json").read_text())


def test_the_demo_finds_objects(cfg, family, image, tmp_path, monkeypatch):
    found = detect(image, cfg, tmp_path, monkeypatch)
    assert found and all(0 <= result["score"] <= 1 for result in found)
    assert any(result["bbox"][2] > 0 and result["bbox"][3] > 0 for result in found)
    assert all(
        ("segmentation" in r) == (family in ("grey", "soft_teacher", "cond_inst", "solov2")) for r in found
    )
    assert (cv2.imread(str(tmp_path / "out/image.png")) != cv2.imread(image)).any()


def test_every_component_is_counted(cfg, family):
    costs, detector = count(build_detector(cfg), [256, 256]), predicting(build_detector(cfg))
    assert total(costs).parameters == sum(p.numel() for p in detector.parameters())
    for name, cost in costs.items():
        if name not in (OUTSIDE, CARAFES):
            layers = detector.get_submodule(name).modules()
            works = any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers)
            assert (cost.flops > 0) == works, name
    assert costs.get(OUTSIDE, Cost()) == (Cost(4 * 256) if family == "deformable_detr" else Cost())
    assert (CARAFES in costs) == (family not in ("deformable_detr", "ssd"))
    if family == "soft_teacher":
        assert costs == count(build_detector(mask_rcnn()), [256, 256])
    if family == "cascade_rpn":  # as many boxes as are allowed, whatever is proposed
        head = detector.roi_head.bbox_head
        layers = (layer for layer in head.modules() if isinstance(layer, nn.Linear))
        rois = cfg.model.test_cfg.rpn.max_per_img
        assert costs["roi_head.bbox_head"].flops == 2 * rois * sum(layer.weight.numel() for layer in layers)


def test_kernels_are_looked_at(cfg, family, image):
    detector = build_detector(cfg)
    detector.init_weights()
    seen = {view.name for view in look(detector, *load_image(cfg, image))}
    parts = dict(
        grey={"neck", "roi_head.mask_head"}, soft_teacher={"student.neck", "student.roi_head.mask_head"},
        sparse_rcnn={"neck"}, cascade_rpn={"neck"}, lad={"neck"}, deformable_detr=set(), ssd=set(),
    )  # fmt: skip
    if family in parts:
        assert seen == parts[family]
    else:
        assert seen and all(name.startswith("mask_head.mask_feature_head") for name in seen)


@pytest.mark.parametrize("name", ["detector", "raw", "neck"])
def test_parts_run_or_are_refused(cfg, family, name):
    detector = build_detector(cfg)
    if message := NOT[family].get(name):
        with pytest.raises(InputError, match=re.escape(message)):
            part_of(detector, name, [256, 256])
        return
    part = part_of(detector, name, [256, 256])
    channels = 1 if family == "grey" else 3
    if part.takes_images:
        assert [tuple(x.shape) for x in part.inputs] == [(2, channels, 256, 256)]
        assert isinstance(part.module, Preprocessed)
        expected = predicting(detector).data_preprocessor.mean
        assert part.module.mean.flatten().tolist() == expected.flatten().tolist()
    with torch.no_grad():
        assert part.module.eval()(*part.inputs)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (dict(type="ByteTrack", detector=dict(type="YOLOX")), "ByteTrack, is no detector, which extends"),
        (dict(type="BaseReID"), "BaseReID, is no detector"),
        (dict(type="DetTTAModel", module=dict(type="RetinaNet")), "use the config of the detector alone"),
        (dict(type="MaskRCNNN"), "MaskRCNNN, is no detector"),
        (dict(type="GroundingDINO", language_model=dict(type="BertModel")), "takes a text besides the image"),
        ("mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py", "FastRCNN, takes proposals besides the image"),
        ("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py", "cannot be built: .*No such file.*gfl_r101_fpn"),
        (dict(type="RetinaNet", backbon={}), "RetinaNet, cannot be built: .* unexpected .* 'backbon'"),
        (dict(type="RetinaNet", neck={}), "RetinaNet, cannot be built: .* missing .* 'backbone'"),
    ],
    ids=str,
)
def test_a_model_that_no_tool_runs_is_named(model, match):
    cfg = read_config(model) if isinstance(model, str) else Config(dict(model=model))
    with pytest.raises(InputError, match=match):
        build_detector(cfg)


def test_a_config_without_a_test_pipeline_is_named():
    cfg = mask_rcnn()
    for without in (None, dict(batch_size=1)):
        cfg.test_dataloader = without
        with pytest.raises(InputError, match=r"config c\.py has no test_dataloader with a dataset"):
            check_pipeline(cfg, "c.py")
        with pytest.raises(ValueError, match="the config has no test_dataloader with a dataset"):
            load_image(cfg, "image.png")


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("mmdet.models.data_preprocessors.data_preprocessor.skimage", None)
    cfg = Config(dict(model=dict(type="RetinaNet", data_preprocessor=dict(type="BoxInstDataPreprocessor"))))
    cfg.model |= dict(backbone=None, neck=None, bbox_head=None)
    with pytest.raises(InputError, match="RetinaNet, cannot be built: skimage is not installed"):
        build_detector(cfg)


def test_an_operation_without_a_kernel_is_named():
    cfg = mask_rcnn()
    extractor = cfg.model.roi_head.bbox_roi_extractor
    channels = extractor.out_channels
    extractor.roi_layer = dict(type="DeformRoIPoolPack", output_size=7, output_channels=channels)
    with pytest.raises(InputError, match="MaskRCNN does not run on the CPU with an image of 64 x 64: "):
        count(build_detector(cfg), [64, 64])
    with pytest.raises(InputError, match="bbox_roi_extractor is SingleRoIExtractor with DeformRoIPoolPack"):
        part_of(build_detector(cfg), "detector", [64, 64])


def test_nothing_is_loaded_while_a_detector_is_built():
    weights, other = dict(type="Pretrained", checkpoint=ELSEWHERE), dict(type="Kaiming", layer="Conv2d")
    model = dict(
        backbone=dict(init_cfg=weights, pretrained=ELSEWHERE), neck=dict(init_cfg=[other, weights]),
        head=other, teacher_ckpt=ELSEWHERE,
        parts=[dict(init_cfg=dict(checkpoint=ELSEWHERE)), (dict(init_cfg=other),)],
    )  # fmt: skip
    drop_pretrained(model)
    assert model == dict(
        backbone=dict(init_cfg=None, pretrained=None), neck=dict(init_cfg=[other]), head=other,
        parts=[dict(init_cfg=None), (dict(init_cfg=other),)], teacher_ckpt=None,
    )  # fmt: skip


class Patches(nn.Module):
    """A backbone of four channels that begins without a convolution of pixels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return (self.layer(nn.functional.pixel_unshuffle(x, 2)),)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_those_of_the_images(channels):
    detector = build_detector(mask_rcnn(**{"model.backbone.in_channels": channels}))
    assert image_channels(detector) == channels


def test_pixels_beside_each_other_are_one_channel():
    detector = nn.Module()
    detector.backbone = Patches()
    assert image_channels(detector) == 4
    assert image_channels(build_detector(read_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"))) == 3
    detector.backbone = nn.Flatten()
    assert image_channels(detector) == 3


def test_files_and_frames_are_loaded_as_the_pipeline_says(image, tmp_path):
    pixels = cv2.imread(image)
    for cfg, shape, kind in ((grey(), (96, 128), np.float32), (mask_rcnn(), (96, 128, 3), np.uint8)):
        inferencer = Inferencer(*written(cfg, tmp_path), "cpu")
        loaded, taken = inferencer.load(dict(img_path=image))["img"], inferencer.take(pixels)["img"]
        assert loaded.shape == taken.shape == shape and loaded.dtype == taken.dtype == kind
        assert np.abs(loaded.astype(float) - taken).max() <= 1


def test_unusable_images_and_a_video_of_a_grey_detector(image, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "thin.png"), np.zeros((1, 3000, 3), np.uint8))
    cv2.imwrite(str(folder / "whole.png"), cv2.imread(image))
    with pytest.raises(InputError, match=r"2 images .*: .*broken.png, .*thin.png \(too thin\)"):
        detect(folder, grey(), tmp_path, monkeypatch)
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    for _ in range(2):
        writer.write(cv2.imread(image))
    writer.release()
    found = detect(tmp_path / "in.avi", grey(), tmp_path, monkeypatch, "--batch-size", "2")
    assert {result["image_id"] for result in found} == {0, 1}


def test_pictures_of_grey_and_deep_images():
    ramp = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_bgr(ramp) == ramp[..., None]).all() and to_bgr(ramp).shape == (2, 3, 3)
    four = np.dstack([ramp, ramp + 1, ramp + 2, ramp + 3])
    assert (to_bgr(four) == four[..., :3]).all()
    assert to_bgr(np.uint16([[0, 65535, 257]])).tolist() == [[[0] * 3, [255] * 3, [1] * 3]]
    assert (to_bgr(ramp.astype(np.float32)) == to_bgr(ramp)).all()


def test_images_to_compare_have_the_channels_of_the_model(image):
    grey_pixels = cv2.imread(image, cv2.IMREAD_GRAYSCALE)
    assert torch.equal(read_image(image, [96, 128], 1)[1, 0], torch.from_numpy(grey_pixels).float())
    assert torch.equal(
        read_image(image, [96, 128], 3)[0].permute(1, 2, 0), torch.from_numpy(cv2.imread(image)).float()
    )
    with pytest.raises(InputError, match="the model takes 4 channels, the image has 3"):
        read_image(image, None, 4)
