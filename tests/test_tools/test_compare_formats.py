# SPDX-License-Identifier: Apache-2.0
"""A detector keeps its AP in every format."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commands import CONFIG, SMALL, call, refused
from compare_formats import loses
from mmdet.evaluation import CocoMetric
from mmengine.config import DictAction
from mmengine.runner import load_checkpoint
from pycocotools import mask as coco_mask

from mmcarafe.apis.config import read_config
from mmcarafe.apis.formats import NAMES, Row, coco_metric, split
from mmcarafe.apis.libraries import build_model
from mmcarafe.errors import InputError

pytest.importorskip("onnxscript", reason="the ONNX tools, an optional requirement, are not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytestmark = pytest.mark.needs(torch="2.10")

OPTIONS = [*SMALL[:2], "model.test_cfg.rcnn.score_thr=0.0"]
MAX_LOSS = 0.2  # AP, of 100


def annotate(checkpoint, folder):
    """Write the best objects that PyTorch finds as the truth, so that an untrained detector has a high AP."""
    pairs = (option.split("=") for option in OPTIONS)
    cfg = read_config(str(CONFIG), {key: DictAction._parse_iterable(value) for key, value in pairs})
    detector = build_model(cfg)
    load_checkpoint(detector, str(checkpoint), map_location="cpu")
    images, annotations = [], []
    for data in split(cfg, "val"):
        sample = data["data_samples"]
        (height, width), number = sample.ori_shape, sample.img_id
        images.append(dict(id=number, height=height, width=width, file_name=sample.img_path.split("/")[-1]))
        found = detector.test_step(dict(inputs=[data["inputs"]], data_samples=[sample.clone()]))[0]
        found = found.pred_instances[:4].cpu()
        for label, (x1, y1, x2, y2), mask in zip(
            found.labels.tolist(), found.bboxes.tolist(), found.masks.numpy(), strict=True
        ):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode()
            annotations.append(
                dict(
                    id=len(annotations) + 1, image_id=number, category_id=label + 1, iscrowd=0,
                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), segmentation=rle,
                )
            )  # fmt: skip
    classes = cfg.val_dataloader.dataset.metainfo["classes"]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
    path = folder / "found.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


@pytest.mark.slow
def test_no_format_loses_ap(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained.parent)
    checkpoint = trained / "epoch_1.pth"
    truth = annotate(checkpoint, tmp_path)
    formats = ["pytorch", "onnx", *(["openvino"] if find_spec("openvino") else [])]
    options = [*OPTIONS, f"val_evaluator.ann_file={truth}"]
    checkpoint = Path(shutil.copy(checkpoint, tmp_path / "model_best.pth"))
    (tmp_path / "model.onnx").write_bytes(b"of another run")
    result = call(
        "compare_formats.py",
        CONFIG,
        checkpoint,
        *("--formats", *formats, "--output", tmp_path, "--cfg-options", *options),
        cwd=trained.parent,
    )
    assert checkpoint.is_file(), "a checkpoint in the folder of the files is kept"
    assert sum(line.startswith("| ") for line in result.stdout.splitlines()) == 2 + len(formats)
    pytorch, *others = json.loads((tmp_path / "formats.json").read_text())["rows"]
    assert pytorch["ap"]["bbox_mAP"] > 50 and pytorch["ap"]["segm_mAP"] > 20
    for row in others:
        for kind, ap in row["ap"].items():
            assert ap >= pytorch["ap"][kind] - MAX_LOSS, f"{row['format']} has {kind} {ap}"


@pytest.mark.parametrize("kind", ["MultiImageMixDataset", "RepeatDataset", "ConcatDataset"])
def test_images_of_a_data_set_in_another(kind, toy, monkeypatch):
    monkeypatch.chdir(toy)
    cfg = read_config(str(CONFIG), {})
    inner = cfg.train_dataloader.dataset
    more = dict(MultiImageMixDataset=dict(pipeline=[]), RepeatDataset=dict(times=2)).get(kind, {})
    inner = dict(datasets=[inner, inner]) if kind == "ConcatDataset" else dict(dataset=inner)
    cfg.train_dataloader.dataset = dict(type=kind, **inner, **more)
    build_model(cfg)  # registers mmdet's classes
    sample = next(split(cfg, "train"))
    assert sample["inputs"].shape[0] == 3 and sample["data_samples"].scale_factor


def test_the_evaluator_is_mmdets_coco_metric():
    cfg = read_config(str(CONFIG), {})
    build_model(cfg)
    coco = dict(cfg.val_evaluator, ann_file=None)
    cfg.val_evaluator = [dict(type="VOCMetric"), coco]
    assert isinstance(coco_metric(cfg), CocoMetric)
    for wrong in (
        dict(type="VOCMetric"),
        dict(coco, type="LVISMetric"),
        dict(coco, format_only=True, outfile_prefix="x"),
    ):
        cfg.val_evaluator = wrong
        with pytest.raises(InputError, match="formats are compared by CocoMetric"):
            coco_metric(cfg)


def test_int8_is_judged_beside_pytorch(capsys):
    pytorch, int8 = (
        Row(NAMES[name], 1, 0, 1, dict(bbox_mAP=ap)) for name, ap in (("pytorch", 50), ("int8", 40))
    )
    for rows in ([pytorch, int8], [int8, pytorch]):
        assert [loses(row, rows) for row in (pytorch, int8)] == [False, True]
    assert "INT8 loses 10.0 AP" in capsys.readouterr().out
    assert not loses(int8, [int8])


def test_a_page_without_markers_is_named_first(tmp_path):
    (tmp_path / "page.md").write_text("no markers")
    args = [CONFIG, "gone.pth", "--formats", "pytorch", "--page", tmp_path / "page.md"]
    refused("compare_formats.py", *args, cwd=tmp_path, match="needs the line '<!-- formats: begin -->'")


@pytest.mark.skipif(bool(find_spec("openvino")), reason="OpenVINO is installed")
def test_without_openvino_it_says_what_to_install(tmp_path):
    args = [CONFIG, "--format", "openvino", "--shape", 192, 192]
    refused("export.py", *args, cwd=tmp_path, match="this format needs openvino")
    refused("compare_formats.py", CONFIG, "x.pth", cwd=tmp_path, match="pip install openvino")


def test_a_name_of_another_format_is_refused(tmp_path):
    args = [CONFIG, "--format", "onnx", "--output", "model.xml"]
    result = call("export.py", *args, cwd=tmp_path, check=False)
    assert "expected a name that ends in .onnx, got model.xml" in result.stderr
