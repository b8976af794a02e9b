# SPDX-License-Identifier: Apache-2.0
"""Give a small data set to mmdet and to the checks, and compare what they make of it."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from broken_data import BOX
from commands import CONFIG
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmcarafe.apis.config import read_config
from mmcarafe.apis.images import read_images
from mmcarafe.datasets.checks.annotations import check_annotations
from mmcarafe.datasets.checks.images import check_images
from mmcarafe.datasets.checks.settings import read_settings
from mmcarafe.errors import AnnotationError, ImageError

CFG = Config.fromfile(CONFIG)
SETTINGS = read_settings(read_config(str(CONFIG)))


def dataset(folder: Path, split: str, steps: dict | None = None, **changes):
    """Build a split of the config; ``steps`` changes transforms by their type."""
    init_default_scope("mmdet")
    cfg = copy.deepcopy(CFG[f"{split}_dataloader"].dataset)
    cfg.update(data_root=str(folder), ann_file="ann.json", data_prefix=dict(img="img/"), **changes)
    cfg.serialize_data = False  # which would collect the garbage of the whole process for each data set
    for step in cfg.pipeline:
        step.update((steps or {}).get(step.type, {}))
    return DATASETS.build(cfg)


def train(folder: Path, flips: float = 0.0, masks: dict | None = None, **changes) -> list:
    """Return the samples of an epoch."""
    steps = dict(RandomFlip=dict(prob=flips), LoadAnnotations=masks or {})
    loaded = dataset(folder, "train", steps, **changes)
    return [loaded[i]["data_samples"] for i in range(len(loaded))]


def evaluate(folder: Path, label: int = 0) -> dict:
    """Return the metrics where the box of the sound data is found once in each image."""
    loaded = dataset(folder, "val")
    metric = METRICS.build(CFG.val_evaluator | dict(ann_file=str(folder / "ann.json")))
    metric.dataset_meta = loaded.metainfo
    for i in range(len(loaded)):
        sample = loaded[i]["data_samples"]
        x, y, w, h = BOX
        mask = torch.zeros(1, *sample.ori_shape, dtype=torch.bool)
        mask[0, y : y + h, x : x + w] = True
        found = dict(bboxes=torch.tensor([[x, y, x + w, y + h]]), scores=torch.tensor([0.9]),
                     labels=torch.tensor([label]), masks=mask)  # fmt: skip
        sample = dict(img_id=sample.img_id, ori_shape=sample.ori_shape, pred_instances=found)
        metric.process(None, [sample])
    return metric.evaluate(size=len(loaded))


def agrees(stated: str, does, folder: Path):
    """Return what ``does`` returns; None where it is stated that it stops, and does with the error named."""
    if stated.startswith("refused"):
        word = stated.split()[1].strip(";,")
        with pytest.raises(dict(AnnotationError=AnnotationError, ImageError=ImageError).get(word, Exception)):
            does(folder)
        return None
    return does(folder)


def found_in(folder: Path, settings=SETTINGS) -> dict:
    found, images = check_annotations(json.loads((folder / "ann.json").read_text()), settings)
    check_images(folder / "img", images, settings, 1, found)
    return found


def skipped_by_the_demo(path: Path) -> list[str]:
    """Return what the demo says of an image that it leaves out."""
    skipped = []
    list(read_images([path], skipped, None))
    return skipped


def ends(code: str) -> bool:
    """Tell whether pycocotools crashes, hangs or lacks memory: never in the process of the tests."""
    limits = (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**31, 2**31)); r.setrlimit(r.RLIMIT_CPU, (2, 3))"
    )
    code = f"from pycocotools import mask; {limits}; {code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.returncode <= 0 or b"MemoryError" in result.stderr, result.stderr
    return result.returncode != 0
