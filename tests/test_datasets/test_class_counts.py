# SPDX-License-Identifier: Apache-2.0
"""Every kind of head, and nothing else, is compared with the data sets' classes before the first step."""

import json

import pytest
import torch
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets import CocoPanopticDataset, MOTChallengeDataset
from mmdet.models import ATSSVLFusionHead, DetTTAModel, GroundingDINOHead
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmcarafe.datasets.class_counts import check_class_counts, class_counts, labelled_datasets
from mmcarafe.engine.detection import NumClassCheckHook
from mmcarafe.errors import DataError

SIX = dict(classes=tuple("abcdef"))
PANOPTIC = dict(classes=tuple("abcdef"), thing_classes=list("abcd"), stuff_classes=list("ef"))
STALE = CocoPanopticDataset.METAINFO | SIX  # what mmengine makes of metainfo=dict(classes=...)


def stages(part: str) -> list[str]:
    return [f"{part}.{i}.num_classes" for i in range(3)]


BOXES_AND_MASKS = ["roi_head.bbox_head.num_classes", "roi_head.mask_head.num_classes"]
THINGS_AND_STUFF = ["num_things_classes", "num_stuff_classes"]
# mmdet's config -> the settings of its model that stand for the number of classes
INSTANCES = {
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco": BOXES_AND_MASKS,
    "htc/htc_r50_fpn_1x_coco": [*stages("roi_head.bbox_head"), *stages("roi_head.mask_head")],
    "scnet/scnet_r50_fpn_1x_coco": [
        *stages("roi_head.bbox_head"), "roi_head.mask_head.num_classes", "roi_head.glbctx_head.num_classes"
    ],
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco": [
        f"roi_head.{part}_head.num_classes" for part in ("bbox", "mask", "point")
    ],
    "ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco": [
        f"roi_head.{part}_head.num_classes" for part in ("bbox", "mask", "mask_iou")
    ],
    "guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco": ["roi_head.bbox_head.num_classes"],
    "soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco": [
        "detector.roi_head.bbox_head.num_classes"
    ],
    "retinanet/retinanet_r50_fpn_1x_coco": ["bbox_head.num_classes"],
    "ssd/ssd300_coco": ["bbox_head.num_classes"],  # its backbone is a VGG
    "solov2/solov2_r50_fpn_1x_coco": ["mask_head.num_classes"],
    "yolact/yolact_r50_1xb8-55e_coco": ["bbox_head.num_classes", "mask_head.num_classes"],
    "dino/dino-4scale_r50_8xb2-12e_coco": ["bbox_head.num_classes"],
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco": [
        "panoptic_head.num_things_classes + num_stuff_classes",
        "panoptic_fusion_head.num_things_classes + num_stuff_classes",
        "panoptic_head.loss_cls.class_weight",
    ],
    "rpn/rpn_r50_fpn_1x_coco": [],
}  # fmt: skip
MAPS = {
    "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco": [
        *BOXES_AND_MASKS,
        *(f"{head}.{name}" for head in ("semantic_head", "panoptic_fusion_head") for name in THINGS_AND_STUFF)
    ],
    "maskformer/maskformer_r50_ms-16xb1-75e_coco": [
        *(f"panoptic_{part}.{name}" for part in ("head", "fusion_head") for name in THINGS_AND_STUFF),
        "panoptic_head.loss_cls.class_weight",
    ],
}  # fmt: skip


def detector(name: str) -> nn.Module:
    init_default_scope("mmdet")
    with torch.device("meta"):
        return MODELS.build(get_config(f"mmdet::{name}.py").model)


def settings(counts) -> set[str]:
    return {count.setting.removeprefix("len(").removesuffix(")").removeprefix("model.") for count in counts}


@pytest.mark.parametrize("name", INSTANCES)
def test_heads_for_objects(name):
    counts = [*class_counts(detector(name), SIX)]
    assert settings(counts) == set(INSTANCES[name])
    assert {count.number - count.expected for count in counts} <= {80 - 6}
    assert all(c.number == c.expected for c in class_counts(detector(name), MMDetCocoDataset.METAINFO))


@pytest.mark.parametrize("name", MAPS)
def test_heads_for_things_and_stuff(name):
    model = detector(name)
    counts = [*class_counts(model, PANOPTIC)]
    assert settings(counts) == set(MAPS[name])
    assert {(c.number, c.expected) for c in counts} <= {(80, 4), (53, 2), (134, 7)}
    assert all(c.number == c.expected for c in class_counts(model, CocoPanopticDataset.METAINFO))


@pytest.mark.parametrize("name", MAPS)
def test_things_and_stuff_of_other_classes_are_not_taken_for_the_data_sets(name):
    counts = [*class_counts(detector(name), STALE)]
    assert {(c.number, c.expected) for c in counts} <= {(133, 6), (134, 7)}
    assert not settings(counts) & set(BOXES_AND_MASKS)


def test_data_without_a_list_of_classes_are_left_alone():
    model = Model(5)
    for metainfo in ({}, dict(classes=None), dict(classes="ship")):
        assert not [*class_counts(model, metainfo)]
    check_class_counts(model, [1, 2], "a list")


class Model(BaseModel):
    """A detector that must not take a step."""

    def __init__(self, number: int):
        super().__init__()
        self.bbox_head = nn.Linear(1, 1)
        self.bbox_head.num_classes = number

    def forward(self, *args, **kwargs):
        raise AssertionError("a step was taken")


@pytest.fixture
def coco(tmp_path):
    """The config of a data set of an image with six classes."""
    init_default_scope("mmdet")
    (tmp_path / "ann.json").write_text(json.dumps(dict(
        images=[dict(id=1, file_name="1.png", height=9, width=9)], annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate("abcdef")],
    )))  # fmt: skip
    return dict(
        type="CocoDataset",
        ann_file=str(tmp_path / "ann.json"),
        metainfo=SIX,
        data_prefix=dict(img=""),
        pipeline=[dict(type="PackDetInputs")],
    )


def test_wrappers_are_looked_into_and_what_has_no_labels_is_not_asked(coco):
    eighty = {k: v for k, v in coco.items() if k != "metainfo"}
    unlabelled = eighty | dict(pipeline=[dict(type="LoadEmptyAnnotations")])
    mixed = dict(type="MultiImageMixDataset", dataset=coco, pipeline=[dict(type="MixUp", img_scale=(9, 9))])
    balanced = dict(type="ClassBalancedDataset", dataset=coco, oversample_thr=1e-3)
    both = dict(type="ConcatDataset", datasets=[coco, unlabelled])
    repeated = dict(type="RepeatDataset", times=2, dataset=dict(type="RepeatDataset", times=2, dataset=coco))
    for cfg in (coco, mixed, balanced, both, repeated):
        dataset = DATASETS.build(cfg)
        assert [part.metainfo["classes"] for part in labelled_datasets(dataset)] == [SIX["classes"]]
        check_class_counts(Model(6), dataset, "it")
        with pytest.raises(
            DataError, match=r"model.bbox_head.num_classes is 5 \(expected 6\): it .CocoDatas"
        ):
            check_class_counts(Model(5), dataset, "it")
    with pytest.raises(
        DataError, match=r"has 80 classes \(person, bicycle, car, ...\); change these settings"
    ):
        check_class_counts(Model(6), DATASETS.build(dict(both, datasets=[coco, eighty])), "it")
    assert not [*labelled_datasets(MOTChallengeDataset(lazy_init=True))]


def test_a_string_of_classes_lacks_a_comma(coco):
    dataset = DATASETS.build(coco | dict(metainfo=dict(classes=("abc")), lazy_init=True))
    with pytest.raises(DataError, match=r"metainfo.classes of it is 'abc', .* comma .*classes=\('abc',\)"):
        check_class_counts(Model(1), dataset, "it")


def test_a_file_of_classes_is_counted(coco, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n")
    names = dict(classes=str(tmp_path / "names.txt"))
    dataset = DATASETS.build(coco | dict(metainfo=names, lazy_init=True))
    check_class_counts(Model(2), dataset, "it")


def loader(dataset: dict) -> dict:
    return dict(dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=False), batch_size=1)


def runner(number: int, folder, coco: dict, val: dict, **options) -> Runner:
    return Runner(
        model=Model(number),
        work_dir=str(folder),
        train_dataloader=loader(coco),
        val_dataloader=loader(val),
        test_dataloader=loader(coco),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=dict(type="DumpResults", out_file_path=f"{folder}/val.pkl"),
        test_evaluator=dict(type="DumpResults", out_file_path=f"{folder}/test.pkl"),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[dict(type="NumClassCheckHook")],
        default_scope="mmdet",
        experiment_name=f"{number}{folder}{options}",
        **options,
    )


@pytest.mark.parametrize(
    "train_cfg",
    [dict(by_epoch=True, max_epochs=1), dict(by_epoch=False, max_iters=1)],
    ids=["epochs", "steps"],
)
def test_the_hook_of_mmdets_name_stops_every_loop_before_its_first_step(train_cfg, coco, tmp_path):
    assert HOOKS.get("NumClassCheckHook") is NumClassCheckHook
    eighty = {k: v for k, v in coco.items() if k != "metainfo"}
    with pytest.raises(
        DataError, match=r"is 5 \(expected 6\): train_dataloader.dataset .* 6 classes \(a, b, c, "
    ):
        runner(5, tmp_path, coco, eighty, train_cfg=train_cfg).train()
    with pytest.raises(DataError, match=r"is 6 \(expected 80\): val_dataloader.dataset"):
        runner(6, tmp_path, coco, eighty, train_cfg=train_cfg).train()
    with pytest.raises(AssertionError, match="a step was taken"):
        runner(6, tmp_path, coco, coco, train_cfg=train_cfg).train()


def test_evaluation_alone_is_stopped_too(coco, tmp_path):
    for loop, split in (("val", "val"), ("test", "test")):
        wrong = runner(5, tmp_path, coco, coco, train_cfg=dict(by_epoch=True, max_epochs=1))
        with pytest.raises(DataError, match=f"{split}_dataloader.dataset"):
            getattr(wrong, loop)()


def test_wrappers_of_the_model_are_looked_into():
    for wrapped in (nn.DataParallel(Model(5)), DetTTAModel(module=Model(5))):
        assert [*class_counts(wrapped, SIX)] == [("model.bbox_head.num_classes", 5, 6)]


@pytest.mark.parametrize("kind", [ATSSVLFusionHead, GroundingDINOHead])
def test_heads_whose_classes_are_words_are_left_alone(kind):
    model = Model(6)
    model.bbox_head.__class__ = kind  # to build one takes the transformers package
    assert not [*class_counts(model, SIX)]
