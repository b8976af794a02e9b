# SPDX-License-Identifier: Apache-2.0
"""check_dataset.py takes of a config what training builds of it, in whatever form it is written."""

from dataclasses import replace
from pathlib import Path

import mmdet
import pytest
from broken_data import CLASSES, masked, sound
from commands import CONFIG
from dataset_parts import SETTINGS
from mmdet.datasets import CityscapesDataset
from mmdet.registry import DATASETS, TRANSFORMS

from mmcarafe.apis.config import read_config
from mmcarafe.datasets.checks.annotations import check_annotations
from mmcarafe.datasets.checks.images import check_image_entry
from mmcarafe.datasets.checks.kinds import KINDS
from mmcarafe.datasets.checks.settings import read_settings
from mmcarafe.errors import InputError

STEPS = (
    "type={0}LoadImageFromFile{1}",
    "type={0}LoadAnnotations{1}, with_bbox=True, with_mask=True",
    "type={0}RandomFlip{1}, prob=0.5",
    "type={0}PackDetInputs{1}",
)
PIPELINE = f"[{', '.join(f'dict({step})' for step in STEPS)}]"
PLAIN = PIPELINE.format('"', '"')
FILTERS = "filter_cfg=dict(filter_empty_gt=True)"


def coco(*changes: str, kind: str = "'CocoDataset'", pipeline: str = PLAIN, classes: object = CLASSES) -> str:
    """The text of a data set of a config."""
    parts = [f"type={kind}", f"pipeline={pipeline}", f"metainfo=dict(classes={classes!r})", FILTERS]
    return f"dict({', '.join([*parts, *changes])})"


def written(folder, data: str, more: str = "") -> str:
    """The embedded config with another training data set, in a file."""
    loader = f"train_dataloader = dict(dataset=dict(_delete_=True, **{data}))"
    (folder / "config.py").write_text(f"_base_ = {str(CONFIG)!r}\n{loader}\n{more}\n")
    return str(folder / "config.py")


def problems(folder, data: str, more: str = "") -> list[tuple[str, str]]:
    return [*read_settings(read_config(written(folder, data, more))).problems]


CONCAT = 'dict(type="ConcatDataset", datasets=[{}])'
NO_FLIP = PLAIN.replace('"RandomFlip", prob=0.5', '"Pad", size_divisor=32')
FLIP = '[dict(type="RandomFlip", prob=0.5)]'
FORMS = {
    "plain": coco(),
    "scoped": coco(kind="'mmdet.CocoDataset'", pipeline=PIPELINE.format('"mmdet.', '"')),
    "branches": coco(pipeline=f'[dict(type="MultiBranch", branch_field=["sup"], sup={PLAIN})]'),
    "choice": coco(pipeline=f'[dict(type="RandomChoice", transforms=[{PLAIN}])]'),
    "wrapped": f'dict(type="RepeatDataset", times=2, dataset={CONCAT.format(coco())})',
    "mixed": f'dict(type="MultiImageMixDataset", dataset={coco(pipeline=NO_FLIP)}, pipeline={FLIP})',
    "classes": f"""
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset, ConcatDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmengine.config import Config

model = Config.fromfile({str(CONFIG)!r}).model.to_dict()
data = {coco(kind="CocoDataset", pipeline=PIPELINE.format("", ""))}
train_dataloader = dict(dataset=dict(type=ConcatDataset, datasets=[data]))
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_config_is_read_alike(form, tmp_path):
    name = written(tmp_path, FORMS[form])
    if form == "classes":
        (tmp_path / "config.py").write_text(FORMS[form])
    settings = read_settings(read_config(name))
    other = dict(loader=settings.loader, source=settings.source, scale=settings.scale)
    assert settings == replace(SETTINGS, **other)
    assert {*check_annotations(masked(None), settings)[0]} == {"mask-missing"}


def test_classes_can_be_in_a_file_or_come_with_the_type(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    settings = read_settings(read_config(written(tmp_path, coco(classes=str(tmp_path / "names.txt")))))
    assert settings.classes == CLASSES
    assert not check_annotations(sound(), settings)[0]
    settings = read_settings(
        read_config(written(tmp_path, f"dict(type='CityscapesDataset', pipeline={PLAIN})"))
    )
    assert settings.classes == CityscapesDataset.METAINFO["classes"]


def test_a_string_of_classes_is_an_error_of_its_own(tmp_path):
    settings = read_settings(read_config(written(tmp_path, coco(classes="disk"))))
    found = check_annotations(sound(), settings)[0]
    assert {*found} == {"classes-string"}  # which classes are meant nobody knows
    assert found["classes-string"][0].detail == "train_dataloader.dataset: 'disk'"
    assert KINDS["classes-string"].severity == "error"


def test_the_data_set_of_the_file_counts_where_there_are_several(tmp_path):
    other = tmp_path / "other.json"
    three = dict(classes=CLASSES[:3], pipeline=PLAIN.replace("True", "False"))
    name = written(tmp_path, CONCAT.format(f"{coco()}, {coco(f'ann_file={str(other)!r}', **three)}"))
    settings = read_settings(read_config(name), str(tmp_path / "sub/../other.json"))
    assert (settings.classes, settings.with_mask) == (CLASSES[:3], False)
    assert settings.source == f"train_dataloader.dataset.datasets.1, CocoDataset of {other}, 3 classes"
    settings = read_settings(read_config(name), "new.json")
    assert (settings.classes, settings.with_mask) == (CLASSES, True)
    assert ".datasets.0, CocoDataset" in settings.source
    assert settings.source.endswith(", 6 classes; no data set of the config reads this file")
    val = "dict(data_root='', ann_file='val.json', metainfo=dict(classes=('a',)))"
    name = written(tmp_path, coco(), f"val_dataloader = dict(dataset={val})")
    settings = read_settings(read_config(name), "val.json")
    assert (settings.classes, settings.with_mask, settings.filter_empty) == (("a",), True, True)


@pytest.mark.parametrize(
    ("more", "heads", "numbers"),
    [
        (
            "model = dict(roi_head=dict(mask_head=dict(num_classes=5)))",
            ["mask"],
            "5, train_dataloader.dataset has 6",
        ),
        (
            "val_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True)))",
            ["bbox", "mask"],
            "6, val_dataloader.dataset has 80",
        ),
    ],
    ids=["head", "forgotten metainfo"],
)
def test_heads_are_compared_with_every_data_set(more, heads, numbers, tmp_path):
    expected = [f"model.roi_head.{head}_head.num_classes is {numbers}" for head in heads]
    assert problems(tmp_path, coco(), more) == [("class-count", detail) for detail in expected]


def test_what_is_not_mmdets_is_named(tmp_path):
    class Draw:
        def __call__(self, results):
            return results

    class Mine(DATASETS.get("CocoDataset")):
        def parse_data_info(self, raw_data_info):
            return super().parse_data_info(raw_data_info)

    TRANSFORMS.register_module(module=Draw)
    DATASETS.register_module(module=Mine)
    data = coco(kind="'Mine'", pipeline="[dict(type='Draw'), dict(type='PackDetInputs')]")
    assert problems(tmp_path, data) == [
        ("dataset-unknown", "train_dataloader.dataset: Mine has its own parse_data_info"),
        ("step-unknown", "train_dataloader.dataset: Draw"),
        ("step-unknown", "train_dataloader.dataset: no LoadImageFromFile"),
    ]
    assert {KINDS[kind].severity for kind in ("dataset-unknown", "step-unknown")} == {"note"}


def test_a_resize_of_random_size_makes_no_image_thin(tmp_path):
    resize = 'dict(type="RandomChoiceResize", scales=[(99, 99)], keep_ratio=True), dict(type="PackDetInputs")'
    data = coco(pipeline=PLAIN.replace('dict(type="PackDetInputs")', resize))
    nothing = "val_dataloader = val_cfg = val_evaluator = None"
    settings = read_settings(read_config(written(tmp_path, data, nothing)))
    assert (settings.scale, settings.flips_unresized) == (None, False)
    assert not [*check_image_entry(dict(width=9, height=9), [dict()], settings)]


@pytest.mark.parametrize("kind", ["LVISV1Dataset", "CocoPanopticDataset"])
def test_files_of_other_fields_are_not_checked(kind):
    """LVIS' have coco_url, and no iscrowd; COCO's panoptic ones have segments_info."""
    data_set = {"train_dataloader.dataset.type": kind}
    with pytest.raises(InputError, match=rf"train_dataloader\.dataset is a {kind}, whose files have other"):
        read_settings(read_config(str(CONFIG), data_set))


def test_weights_are_not_read(tmp_path):
    teacher = Path(mmdet.__file__).parent / ".mim/configs/gfl/gfl_r50_fpn_1x_coco.py"
    (tmp_path / "student.py").write_text(
        "_base_ = 'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'\n"
        f"model = dict(teacher_config={str(teacher)!r}, teacher_ckpt='none.pth')\n"
        f"train_dataloader = dict(dataset=dict(_delete_=True, **{coco()}))\n"
    )
    found = [kind for kind, _ in read_settings(read_config(str(tmp_path / "student.py"))).problems]
    assert "class-count" in found, "of 80 classes, which the data set does not have"
