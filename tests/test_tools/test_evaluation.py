# SPDX-License-Identifier: Apache-2.0
"""The parts of test.py: what test-time augmentation compares with what, and where pictures are written."""

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import VOCMetric
from mmdet.models import DetTTAModel
from mmdet.registry import DATASETS, HOOKS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmcarafe.apis.detection import show_predictions
from mmcarafe.apis.test_time_augmentation import check_boxes_alone, use_tta
from mmcarafe.errors import InputError
from mmcarafe.utils.files import picture_names

BOX = (8, 20, 32, 48)  # x1, y1, x2, y2, left of the middle
META = dict(meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances"))
LOAD, OBJECTS = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)
PACK = dict(type="PackDetInputs")
PAD = dict(type="Pad", size=(300, 300))
FLIPS = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
SCALES = [dict(type="Resize", scale=scale, keep_ratio=True) for scale in ((200, 120), (50, 30))]


@pytest.fixture
def data_set(tmp_path) -> dict:
    """The config of one image, black with a white object."""
    init_default_scope("mmdet")
    image = np.zeros((60, 100, 3), np.uint8)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    cv2.imwrite(str(tmp_path / "1.png"), image)
    bbox = [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]
    known = dict(id=1, image_id=1, category_id=1, bbox=bbox, area=bbox[2] * bbox[3], iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name="1.png", height=60, width=100)],
        annotations=[known],
        categories=[dict(id=1, name="box")],
    )
    (tmp_path / "ann.json").write_text(json.dumps(content))
    return dict(type="CocoDataset", data_root=str(tmp_path), ann_file="ann.json", data_prefix=dict(img=""),
                metainfo=dict(classes=("box",)), test_mode=True, pipeline=DEFAULTS["as-mmdet"])  # fmt: skip


class FindsWhite(nn.Module):
    """A detector that sees what is white; its boxes are those before the image was resized."""

    def test_step(self, data: dict) -> list[DetDataSample]:
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            rows, columns = (image[0] > 127).nonzero().T
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = box / torch.tensor(sample.scale_factor * 2)
            sample.pred_instances = InstanceData(
                bboxes=box[None], scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long)
            )
        return data["data_samples"]


def evaluate(cfg: Config) -> tuple[DetDataSample, float]:
    """The merged sample of the image and VOC's mAP, which is computed from its objects."""
    use_tta(cfg)
    batch = pseudo_collate([DATASETS.build(cfg.test_dataloader.dataset)[0]])
    (sample,) = DetTTAModel(tta_cfg=cfg.tta_model.tta_cfg, module=FindsWhite()).test_step(batch)
    metric = VOCMetric(iou_thrs=0.9, eval_mode="area")
    metric.dataset_meta = dict(classes=("box",))
    metric.process({}, [sample.to_dict()])
    return sample, metric.evaluate(size=1)["pascal_voc/mAP"]


def views(*choices: list[dict]) -> dict:
    return dict(type="TestTimeAug", transforms=[*choices, [PACK]])


DEFAULTS = {
    "as-mmdet": [LOAD, SCALES[0], OBJECTS, PACK | META],
    "padded": [LOAD, SCALES[0], PAD, OBJECTS, PACK | META],
    "objects-first": [OBJECTS, LOAD, dict(type="Resize", scale=(100, 60)), PACK | META],
}
OWN = {
    "as-mmdet": [LOAD, views(SCALES, FLIPS, [OBJECTS])],
    "objects-first": [LOAD, OBJECTS, views(SCALES, FLIPS)],
    "objects-first-of-the-views": [LOAD, views([OBJECTS], SCALES, FLIPS, [PAD])],
    "flipped-alone": [LOAD, OBJECTS, views([SCALES[1]], FLIPS[:1])],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_objects_are_those_of_the_original_image(data_set, name):
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=data_set | dict(pipeline=DEFAULTS[name]))))
    sample, ap = evaluate(cfg)
    assert ap == 1
    assert sample.pred_instances.bboxes.round().tolist() == [list(BOX)]  # one: the views agree
    assert not sample.flip
    assert sample.instances[0]["bbox"] == list(BOX)  # what the config's own last step keeps


@pytest.mark.parametrize("name", OWN)
def test_objects_are_those_of_the_original_image_with_the_configs_own_views(data_set, name):
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=data_set), tta_pipeline=OWN[name]))
    sample, ap = evaluate(cfg)
    assert ap == 1
    assert sample.pred_instances.bboxes.round().tolist() == [list(BOX)]
    assert sample.flip == (name == "flipped-alone")


def test_each_of_several_data_sets_is_augmented(data_set):
    other = data_set | dict(pipeline=[LOAD, PAD, OBJECTS, PACK])
    both = dict(type="ConcatDataset", datasets=[data_set, dict(type="RepeatDataset", times=1, dataset=other)])
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=both)))
    use_tta(cfg)
    loaded = DATASETS.build(cfg.test_dataloader.dataset)
    assert [[tuple(image.shape) for image in item["inputs"]] for item in loaded] == [
        [(3, 120, 200)] * 2, [(3, 300, 300)] * 2
    ]  # fmt: skip


def test_a_pipeline_without_views_is_refused(data_set):
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=data_set), tta_pipeline=data_set["pipeline"]))
    with pytest.raises(InputError, match=r"expected TestTimeAug at the end .* got PackDetInputs"):
        use_tta(cfg)


def written(paths: list[Path], options: dict) -> list[str | None]:
    """Where test.py's hook writes the pictures of images."""
    cfg = Config(dict(default_hooks=dict(visualization=dict(type="DetVisualizationHook"))))
    show_predictions(cfg, Namespace(**dict(show=False, show_dir=None, wait_time=0) | options))
    DetLocalVisualizer.get_instance("test")
    hook, files, pixels = HOOKS.build(cfg.default_hooks.visualization), [], []
    hook._visualizer = SimpleNamespace(
        add_datasample=lambda _, image, show, out_file, **__: (
            files.append((show, out_file)), pixels.append(image[0, 0].tolist())
        )
    )  # fmt: skip
    infos = [dict(img_path=str(path)) for path in paths]
    dataset = type("DataSet", (list,), dict(get_data_info=list.__getitem__))(infos)
    runner = SimpleNamespace(
        work_dir="work",
        timestamp="now",
        test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)),
    )
    hook.before_test_epoch(runner)
    for n in range(0, len(infos), 2):
        hook.after_test_iter(runner, n, {}, [DetDataSample(metainfo=info) for info in infos[n : n + 2]])
    assert {show for show, _ in files} == {"show" in options}
    assert pixels == [[0, 0, 255]] * len(paths)  # RGB, as mmengine's visualizers take it
    return [file for _, file in files]


@pytest.fixture
def images(tmp_path, monkeypatch) -> list[Path]:
    """Four images in the working directory, two of one name."""
    monkeypatch.chdir(tmp_path)
    paths = [Path("a/val/1.png"), Path("a/val/2.png"), Path("b/1.png"), tmp_path / "b/c/1.png"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((2, 2, 3), (255, 0, 0), np.uint8))
    return paths


def test_each_image_has_a_picture_of_its_own_in_the_folder_asked_for(images, tmp_path):
    shown = tmp_path / "shown"
    assert written(images, dict(show_dir="shown")) == [
        f"{shown}/{name}" for name in ("a_val_1.png", "a_val_2.png", "b_1.png", "b_c_1.png")
    ]
    # what all images have in common is left out
    assert written(images[:2], dict(show_dir="shown")) == [f"{shown}/1.png", f"{shown}/2.png"]
    assert written(images[2:], dict(show_dir=str(shown))) == [f"{shown}/1.png", f"{shown}/c_1.png"]


@pytest.mark.parametrize("folder", ["a/val", "link"])
def test_pictures_do_not_replace_the_images(images, folder):
    Path("link").symlink_to("a/val")
    with pytest.raises(InputError, match=r"--show-dir .* holds the input a/val/.\.png .* be overwritten"):
        written(images, dict(show_dir=folder))


def test_no_two_pictures_have_one_name():
    paths = ["x/a_b/1.png", "x/a/b_1.png", "x/_a/b_1.png", "x/1.png"]
    assert [*picture_names(paths).values()] == ["a_b_1.png", "_a_b_1.png", "__a_b_1.png", "1.png"]


def test_shown_in_a_window(images, tmp_path):
    assert written(images, dict(show=True)) == [None] * 4
    assert written(images[:1], dict(show=True, show_dir="shown")) == [f"{tmp_path}/shown/1.png"]


def test_a_hook_of_the_configs_own_writes_into_the_folder_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config(dict(default_hooks=dict(visualization=dict(type="TheirHook"))))
    show_predictions(cfg, Namespace(show=False, show_dir="shown", wait_time=0))
    assert cfg.default_hooks.visualization.type == "TheirHook"
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / "shown")
    with pytest.raises(InputError, match=r"the config has no default_hooks.visualization"):
        show_predictions(Config(), Namespace(show=True, show_dir=None, wait_time=0))


@pytest.mark.parametrize("path", ["roi_head.mask_head", "mask_head", "bbox_head.mask_head", "panoptic_head"])
def test_a_detector_of_masks_is_refused_wherever_it_has_its_head(path):
    model = nn.Module()
    part = model
    for name in path.split("."):
        part.add_module(name, nn.Module())
        part = getattr(part, name)
    with pytest.raises(InputError, match=f"not their masks, which this model's {path.split('.')[-1]} finds"):
        check_boxes_alone(model)


def test_a_detector_of_boxes_is_not_refused():
    check_boxes_alone(nn.ModuleDict(dict(roi_head=nn.Linear(1, 1), bbox_head=nn.Linear(1, 1))))
