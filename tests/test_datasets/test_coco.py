# SPDX-License-Identifier: Apache-2.0
"""Annotations that mmdet or pycocotools cannot use end a run with an AnnotationError; all else is mmdet's."""

import json

import pytest
import torch
from mmdet import datasets, evaluation
from mmdet.registry import DATASETS, METRICS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

import mmcarafe.models  # noqa: F401  registers everything
from mmcarafe.errors import AnnotationError, DataError

BOX = [2, 2, 6, 4]
IMAGE = dict(id=1, file_name="1.png", height=10, width=12)
OBJECT = dict(id=7, image_id=1, category_id=3, bbox=BOX, area=24, iscrowd=0,
              segmentation=[[2, 2, 8, 2, 8, 6, 2, 6]])  # fmt: skip
CATEGORY = dict(id=3, name="disk")
SOUND = dict(images=[IMAGE], annotations=[OBJECT], categories=[CATEGORY])


def without(entry: dict, name: str) -> dict:
    return {k: v for k, v in entry.items() if k != name}


def write(folder, content) -> str:
    path = folder / "ann.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def dataset(ann_file: str, **options):
    known = dict(ann_file=ann_file, metainfo=dict(classes=("disk",)), data_prefix=dict(img="img"))
    return DATASETS.build(dict(type="mmdet.CocoDataset") | known | options)


def metric(ann_file: str | None, **options):
    made = METRICS.build(dict(type="mmdet.CocoMetric", ann_file=ann_file, **options))
    made.dataset_meta = dict(classes=("disk",))
    return made


def evaluate(ann_file: str | None, masks: bool = True, label: int = 0, **options) -> dict:
    """Metrics where the object is found."""
    mask = torch.zeros(1, 10, 12, dtype=torch.bool)
    mask[0, 2:6, 2:8] = True
    found = dict(bboxes=torch.tensor([[2.0, 2, 8, 6]]), scores=torch.ones(1), labels=torch.tensor([label]))
    made = metric(ann_file, metric=["bbox", "segm"], **options)
    sample = dict(img_id=1, ori_shape=(10, 12), pred_instances=found | (dict(masks=mask) if masks else {}))
    instances = [dict(bbox=[2, 2, 8, 6], bbox_label=0, mask=OBJECT["segmentation"])]
    made.process(None, [sample | dict(instances=instances)])
    return made.evaluate(size=1)


def test_sound_annotations_give_what_mmdet_gives(tmp_path):
    path = write(tmp_path, SOUND)
    options = dict(metainfo=dict(classes=("disk",)), data_prefix=dict(img="img"))
    theirs = datasets.CocoDataset(ann_file=path, **options)
    assert isinstance(dataset(path), datasets.CocoDataset)
    assert dataset(path)[0] == theirs[0]
    assert evaluate(path)["coco/segm_mAP"] == 1.0
    assert evaluate(None)["coco/segm_mAP"] == 1.0


FILES = {
    "JSONDecodeError": b"{",
    "UnicodeDecodeError": b'{"images": "\xff"}',
    "AssertionError": [],
    "KeyError 'id'": SOUND | dict(images=[without(IMAGE, "id")]),
    "TypeError": SOUND | dict(images=["1.png"]),
    "RecursionError": b"[" * 100000,
}


@pytest.mark.parametrize("reason", FILES)
def test_a_file_of_another_form(reason, tmp_path):
    path = write(tmp_path, FILES[reason])
    sentence = rf"annotations {path} cannot be used \({reason}.*check_dataset.py {path} --no-images names"
    for reads in (dataset, metric):
        with pytest.raises(AnnotationError, match=sentence) as caught:
            reads(path)
        assert isinstance(caught.value, DataError)
        assert "\n" not in str(caught.value)


ENTRIES = {
    "no-bbox": (SOUND | dict(annotations=[without(OBJECT, "bbox")]), "of image id 1 .*KeyError 'bbox'"),
    "string-bbox": (SOUND | dict(annotations=[OBJECT | dict(bbox="abcd")]), "of image id 1 .*TypeError"),
    "file-name": (SOUND | dict(images=[IMAGE | dict(file_name=5)]), "of image id 1 .*TypeError"),
    "id-twice": (SOUND | dict(annotations=[OBJECT] * 2), "AssertionError .*not unique"),
    "no-images": (without(SOUND, "images"), "leave none of 0 images"),
    "width": (dict(SOUND, images=[IMAGE | dict(width="12")], annotations=[]), "TypeError"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_the_data_set_cannot_use(name, tmp_path):
    content, match = ENTRIES[name]
    with pytest.raises(AnnotationError, match=match):
        dataset(write(tmp_path, content), filter_cfg=dict(min_size=1))


def test_filters_that_leave_no_image_do_so_in_training_alone(tmp_path):
    path = write(tmp_path, SOUND)
    with pytest.raises(AnnotationError, match="filter_cfg and classes leave none of 1 images"):
        dataset(path, filter_cfg=dict(min_size=32))
    assert len(dataset(path, filter_cfg=dict(min_size=32), test_mode=True)) == 1


MASKS = {
    "missing": ({}, "KeyError 'mask'"),
    "size": (dict(mask=dict(size=[4, 4], counts=[4, 12])), "ValueError"),
    "transposed": (dict(mask=dict(size=[12, 10], counts=[60, 60])), "ValueError an RLE of size .* 10 x 12"),
    "double": (dict(mask=dict(size=[20, 24], counts=[240, 240])), "ValueError an RLE of size"),
    "counts": (dict(mask=dict(size=[10, 12], counts=[-1, 121])), "OverflowError"),
    "word": (dict(mask="x"), "TypeError"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_cannot_be_drawn(name):
    step = TRANSFORMS.build(dict(type="mmdet.LoadAnnotations", with_mask=True))
    mask, match = MASKS[name]
    instance = dict(bbox=[2, 2, 8, 6], bbox_label=0, ignore_flag=0) | mask
    results = dict(img_path="1.png", img_id=1, ori_shape=(10, 12), instances=[instance])
    with pytest.raises(AnnotationError, match=rf"annotations of image 1.png \(image id 1\) .*{match}"):
        step(results)


EVALUATED = {
    "no-iscrowd": (without(OBJECT, "iscrowd"), "KeyError 'iscrowd'"),
    "no-mask": (without(OBJECT, "segmentation"), "KeyError 'segmentation'"),
    "string-bbox": (OBJECT | dict(bbox="abcd"), "Exception"),
    "id": (OBJECT | dict(id="x11"), "ValueError"),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_objects_that_pycocotools_cannot_evaluate(name, tmp_path):
    entry, match = EVALUATED[name]
    path = write(tmp_path, SOUND | dict(annotations=[entry]))
    with pytest.raises(AnnotationError, match=rf"annotations {path} cannot be used \({match}"):
        evaluate(path)


def test_mistakes_that_are_not_of_the_annotations_stay_what_they_are(tmp_path):
    path = write(tmp_path, SOUND)
    with pytest.raises(KeyError, match="metric should be one of"):
        METRICS.build(dict(type="mmdet.CocoMetric", ann_file=path, metric="area"))
    with pytest.raises(KeyError, match="segm is not in results"):  # of a model without masks
        evaluate(path, masks=False)
    with pytest.raises(IndexError):  # a label that no class has
        evaluate(path, label=5)
    with pytest.raises(KeyError, match="metric item"):
        evaluate(path, metric_items=["none"])
    with pytest.raises(DataError, match="expected dict"):
        dataset(path, data_prefix=dict(img_path="img"))
    with pytest.raises(FileNotFoundError):
        dataset(str(tmp_path / "none.json"))


def test_metrics_that_extend_mmdets_are_mmdets():
    assert METRICS.get("mmdet.LVISMetric").__mro__[1] is evaluation.CocoMetric


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        (["disk", "star", "ring"], None),
        (["disk", "star"], None),
        (["cup", "disk", "star", "ring"], None),
        (["disk", "ring"], "label 1 is the category 'ring', and in the config the class 'star'"),
        (["star", "disk", "ring"], "label 0 is the category 'star', and in the config the class 'disk'"),
    ],
    ids=str,
)
def test_labels_that_are_not_their_classes_are_warned_of(tmp_path, categories, said, monkeypatch):
    warnings = []
    monkeypatch.setattr("mmcarafe.datasets.coco.print_log", lambda text, *_: warnings.append(text))
    content = SOUND | dict(categories=[dict(id=3 + n, name=name) for n, name in enumerate(categories)])
    made = dataset(write(tmp_path, content), metainfo=dict(classes=("disk", "star", "ring")))
    assert len(made) == 1
    assert len(warnings) == (said is not None)
    assert not said or said in warnings[0]


def test_an_evaluator_with_another_file_is_told_so(tmp_path):
    path = write(tmp_path, SOUND | dict(images=[IMAGE | dict(id=2)], annotations=[]))
    with pytest.raises(DataError, match=rf"annotations {path}, which .* without 1 images .*first: id 1\)"):
        evaluate(path)
    assert evaluate(path, format_only=True, outfile_prefix=str(tmp_path / "out")) == {}
    assert (tmp_path / "out.bbox.json").is_file()


def test_each_of_several_data_sets_has_a_metric_of_its_own(tmp_path):
    sets = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        entry = OBJECT | dict(image_id=number)
        content = SOUND | dict(images=[IMAGE | dict(id=number)], annotations=[entry])
        sets.append(dataset(write(tmp_path / str(number), content), test_mode=True))
    metrics = [dict(type="mmdet.CocoMetric", ann_file=each.ann_file) for each in sets]
    evaluator = evaluation.MultiDatasetsEvaluator(metrics, dataset_prefixes=["one", "two"])
    evaluator.dataset_meta = dict(classes=("disk",), cumulative_sizes=[1, 2])
    for number in (1, 2):
        sample = DetDataSample(metainfo=dict(img_id=number, ori_shape=(10, 12)))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([[2.0, 2, 8, 6]]), scores=torch.ones(1), labels=torch.tensor([0])
        )
        evaluator.process([sample])
    found = evaluator.evaluate(2)
    assert [found[f"{name}/coco/bbox_mAP"] for name in ("one", "two")] == [1, 1]


def test_a_data_set_that_reads_files_of_its_own_is_left_alone():
    class Lines(DATASETS.get("mmdet.CocoDataset")):
        def load_data_list(self):
            self.cat_ids, self.cat2label = [3], {3: 0}
            entry = dict(raw_img_info=IMAGE | dict(img_id=1), raw_ann_info=[OBJECT])
            return [self.parse_data_info(entry)]

    made = Lines(metainfo=dict(classes=("disk",)), data_prefix=dict(img="img"))
    assert made[0]["instances"][0]["bbox_label"] == 0


def test_proposals_are_evaluated_where_crowds_are_told(tmp_path):
    path = write(tmp_path, SOUND | dict(annotations=[without(OBJECT, "iscrowd")]))
    made = metric(path, metric="proposal_fast")
    found = dict(bboxes=torch.tensor([[2.0, 2, 8, 6]]), scores=torch.ones(1), labels=torch.tensor([0]))
    made.process(None, [dict(img_id=1, ori_shape=(10, 12), pred_instances=found)])
    with pytest.raises(AnnotationError, match="KeyError 'iscrowd'"):
        made.evaluate(size=1)
