# SPDX-License-Identifier: Apache-2.0
"""Classes have the names of the config or the checkpoint, and models that give no objects are refused."""

import pytest
from commands import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmcarafe.apis.class_names import choose_classes
from mmcarafe.apis.config import read_config
from mmcarafe.apis.inferencer import check_count, check_instances
from mmcarafe.apis.libraries import build_model
from mmcarafe.errors import InputError

SIX = ("a", "b", "c", "d", "e", "f")


def config(names=None, split="test", kind="CocoDataset"):
    dataset = dict(type=kind, ann_file="a.json")
    own = dict(type="RepeatDataset", times=1, dataset={**dataset, "metainfo": dict(classes=names)})
    loaders = {f"{s}_dataloader": dict(dataset=dataset) for s in ("test", "val", "train")}
    return Config(loaders | ({f"{split}_dataloader": dict(dataset=own)} if names is not None else {}))


def choose(cfg, checkpoint):
    init_default_scope("mmdet")
    return choose_classes(cfg, checkpoint, "config.py", "a.pth")


def meta(**dataset_meta):
    return dict(meta=dict(dataset_meta=dataset_meta), state_dict={})


@pytest.mark.parametrize("split", ["test", "val", "train"])
@pytest.mark.parametrize(
    "checkpoint",
    [
        {}, dict(meta=5), dict(meta=dict(dataset_meta={})), dict(meta=dict(dataset_meta=5)), meta(classes=5),
        meta(classes=list(SIX)), meta(CLASSES=SIX), dict(meta=dict(CLASSES=SIX)),
    ],
    ids=str,
)  # fmt: skip
def test_names_of_the_config(split, checkpoint):
    assert choose(config(SIX, split), checkpoint) == SIX


def test_names_of_the_checkpoint_then_of_the_type_of_data_set():
    assert choose(config(), meta(classes=SIX)) == SIX
    assert choose(config(kind="VOCDataset"), {})[:2] == ("aeroplane", "bicycle")
    assert choose(Config(), meta(classes=SIX)) == SIX
    with pytest.raises(InputError, match="names the classes; add"):
        choose(Config(), meta(classes=[]))


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"for other classes \(2: x, y\) than .* \(6: a, b, c, ...\)"):
        choose(config(SIX), meta(classes=("x", "y")))
    with pytest.raises(InputError, match=r"has metainfo.classes='disk', expected a list of names"):
        choose(config("disk"), {})


@pytest.mark.parametrize("kind", ["two stages", "cascade", "one stage"])
def test_as_many_names_as_classes(kind):
    model, head = nn.Module(), nn.Module()
    head.num_classes = 6
    if kind == "one stage":
        model.bbox_head = head
    else:
        model.roi_head = nn.Module()
        model.roi_head.bbox_head = nn.ModuleList([head]) if kind == "cascade" else head
    check_count(model, SIX, "config.py", "a.pth")
    with pytest.raises(InputError, match=r"the model has 6 classes, .* give names for 1 \(1: a\)"):
        check_count(model, SIX[:1], "config.py", "a.pth")


def test_a_panoptic_model_is_refused():
    for name in ("panoptic-fpn_r50_fpn-carafe_1x_coco", "mask2former_r50_carafe_8xb2-lsj-50e_coco"):
        model = build_model(read_config(str(ROOT / "configs/carafe" / f"{name}.py")))
        if name.startswith("mask2former"):
            check_instances(model, name)  # this one is configured for objects
            model.panoptic_fusion_head.test_cfg["instance_on"] = False
        with pytest.raises(InputError, match="builds a panoptic model"):
            check_instances(model, name)
