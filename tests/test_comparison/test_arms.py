# SPDX-License-Identifier: Apache-2.0
"""Arms differ in the upsampler alone, and their settings have a fingerprint."""

import pytest
from commands import TWIN
from families import soft_teacher
from mmengine.config import Config
from mmengine.hub import get_config

from mmcarafe.apis.libraries import build_model
from mmcarafe.comparison.arms import Arm, arm_config, arms_of, fingerprint, parse_upsampler
from mmcarafe.errors import InputError
from mmcarafe.layers import CARAFE


@pytest.fixture
def cfg() -> Config:
    return Config.fromfile(TWIN)


def test_arms_are_each_upsampler_in_each_place_behind_the_baseline():
    arms = arms_of(["CARAFE", "bilinear"], ["neck", "both"])
    names = ["config", "CARAFE in neck", "CARAFE in both", "bilinear in neck", "bilinear in both"]
    assert [arm.name for arm in arms] == names
    named = arms_of(["CARAFE", "nearest"], ["neck"], "nearest in neck")
    assert [arm.name for arm in named] == ["nearest in neck", "CARAFE in neck"]
    for_head = arms_of(["CARAFE,mask_head.up_kernel=3"], ["neck", "both"])
    assert [arm.name for arm in for_head[1:]] == ["CARAFE in neck", "CARAFE,mask_head.up_kernel=3 in both"]
    with pytest.raises(InputError, match="'nearest' is none of the arms"):
        arms_of(["CARAFE"], ["neck"], "nearest")


def test_arguments_may_be_for_one_place():
    text = "CARAFE,up_kernel=3,mask_head.compressed_channels=32,start=nearest"
    assert parse_upsampler(text, "neck") == dict(type="CARAFE", up_kernel=3, start="nearest")
    head = dict(type="CARAFE", up_kernel=3, compressed_channels=32, start="nearest")
    assert parse_upsampler(text, "mask_head") == head
    assert parse_upsampler("Own,sizes=(1,2),a=[3,4],b=5", "neck") == dict(
        type="Own", sizes=(1, 2), a=[3, 4], b=5
    )
    for wrong in ("CARAFE,up_kernel", "CARAFE,head.up_kernel=3", "CARAFE,=3"):
        with pytest.raises(InputError, match="expected TYPE,key=value"):
            parse_upsampler(wrong, "neck")


def test_an_arm_changes_its_places_alone(cfg):
    both = arm_config(cfg, Arm("CARAFE,mask_head.compressed_channels=32", "both")).model
    assert both.neck.pop("upsample_cfg") == dict(type="CARAFE")
    assert both.roi_head.mask_head.pop("upsample_cfg") == dict(type="CARAFE", compressed_channels=32)
    assert both == Config.fromfile(TWIN).model
    neck = arm_config(cfg, Arm("CARAFE", "neck")).model
    assert neck.roi_head.mask_head == cfg.model.roi_head.mask_head
    assert "upsample_cfg" not in cfg.model.neck, "the config given is not changed"


def test_every_mask_head_of_a_cascade_gets_the_upsampler():
    cfg = get_config("mmdet::htc/htc_r50_fpn_1x_coco.py")
    heads = arm_config(cfg, Arm("CARAFE", "mask_head")).model.roi_head.mask_head
    assert [head.upsample_cfg for head in heads] == [dict(type="CARAFE")] * 3


def test_places_inside_a_detector_that_another_one_wraps():
    mask_head = dict(type="SOLOV2Head", mask_feature_head=dict(out_channels=8))
    cfg = Config(dict(model=dict(detector=dict(neck=dict(type="FPN")), mask_head=mask_head)))
    model = arm_config(cfg, Arm("CARAFE", "both")).model
    assert model.detector.neck.upsample_cfg == dict(type="CARAFE")
    assert model.mask_head.mask_feature_head.upsample_cfg == dict(type="CARAFE")
    assert "upsample_cfg" not in model.mask_head


def test_a_semi_supervised_detector_is_built_with_an_arm():
    model = build_model(arm_config(soft_teacher(), Arm("CARAFE", "both")))
    for part in (model.student.neck.upsample_modules[0], model.teacher.roi_head.mask_head.upsample):
        assert type(part) is CARAFE


def test_places_of_segmentors():
    where = ["neck", "neck+decode_head", "ppm+fusion"]
    names = [f"CARAFE in {place}" for place in where]
    assert [arm.name for arm in arms_of(["CARAFE"], where)] == ["config", *names]
    cfg = Config(dict(model=dict(neck=dict(type="FPN"), decode_head=dict(type="UPerHead"))))
    both = arm_config(cfg, Arm("CARAFE,neck.up_kernel=3", "neck+decode_head")).model
    assert both.neck.upsample_cfg == dict(type="CARAFE", up_kernel=3)
    assert both.decode_head == dict(type="UPerHead", upsample_cfg=dict(type="CARAFE"))
    some = arm_config(cfg, Arm("CARAFE", "ppm+fusion")).model
    assert some.decode_head.upsample_in == ["ppm", "fusion"] and "upsample_cfg" not in some.neck
    with pytest.raises(
        InputError, match=r"--where neck\+head: expected neck, mask_head, .*, or both, got head"
    ):
        arms_of(["CARAFE"], ["neck+head"])


def test_downsampling_is_a_place_with_a_setting_of_its_own():
    cfg = Config(dict(model=dict(neck=dict(type="PAFPN"))))
    arm = Arm("CARAFE,downsampling.down_kernel=3", "neck+downsampling")
    assert arm_config(cfg, arm).model.neck == dict(
        type="PAFPN", upsample_cfg=dict(type="CARAFE"), downsample_cfg=dict(type="CARAFE", down_kernel=3)
    )


def test_a_model_without_the_place_is_refused():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    with pytest.raises(InputError, match=r"has no mask_head \(roi_head\.mask_head, "):
        arm_config(cfg, Arm("CARAFE", "both"))


def test_fingerprint_is_of_what_results_depend_on(cfg):
    before = fingerprint(cfg)
    cfg.work_dir, cfg.randomness = "elsewhere", dict(seed=3)
    assert fingerprint(cfg) == before
    assert fingerprint(arm_config(cfg, Arm("CARAFE", "neck"))) != before
    cfg.optim_wrapper.optimizer.lr *= 2
    assert fingerprint(cfg) != before
