# SPDX-License-Identifier: Apache-2.0
"""Detectors built of configs; those that no tool runs are named in one sentence."""

import pytest
from families import ELSEWHERE, mask_rcnn
from mmengine.config import Config

from mmcarafe.analysis.flops import count
from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.deploy.parts import part_of
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_pipeline
from mmcarafe.utils.pretrained import drop_pretrained
from mmcarafe.visualization import load_image


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
        build_model(cfg)


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
        build_model(cfg)


def test_an_operation_without_a_kernel_is_named():
    cfg = mask_rcnn()
    extractor = cfg.model.roi_head.bbox_roi_extractor
    channels = extractor.out_channels
    extractor.roi_layer = dict(type="DeformRoIPoolPack", output_size=7, output_channels=channels)
    with pytest.raises(InputError, match="MaskRCNN does not run on the CPU with an image of 64 x 64: "):
        count(build_model(cfg), [64, 64])
    with pytest.raises(InputError, match="bbox_roi_extractor is SingleRoIExtractor with DeformRoIPoolPack"):
        part_of(build_model(cfg), "detector", [64, 64])


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


def test_a_base_that_python_cannot_read_may_be_meant(tmp_path):
    (tmp_path / "base.py").write_text("model = dict(\n")
    (tmp_path / "child.py").write_text("_base_ = 'base.py'\n")
    with pytest.raises(
        InputError, match=r"child\.py, or one in its _base_, cannot be read: .* was never closed"
    ):
        read_config(str(tmp_path / "child.py"))


def test_a_module_that_a_config_imports_and_is_not_there_is_named(tmp_path):
    file = tmp_path / "c.py"
    for module in ("not_installed.models", "mmdet.not_there"):
        file.write_text(f"custom_imports = dict(imports=['{module}'], allow_failed_imports=False)")
        missing = module.split(".models")[0]
        with pytest.raises(InputError, match=rf"cannot be had \(No module named '{missing}'\): install"):
            read_config(str(file))


def test_configs_that_mmengine_cannot_join_are_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("model = dict(type='FPN')\n")
    (tmp_path / "both.py").write_text("_base_ = ['a.py', 'b.py']\n")
    with pytest.raises(InputError, match=r"both\.py cannot be read: Duplicate key .*model"):
        read_config(str(tmp_path / "both.py"))
    (tmp_path / "pure.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .lost import *\n"
    )
    with pytest.raises(InputError, match=r"pure\.py, or one in its _base_, cannot be read: .*lost"):
        read_config(str(tmp_path / "pure.py"))
