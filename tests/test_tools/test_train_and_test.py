# SPDX-License-Identifier: Apache-2.0
"""The command-line tools run end to end on a toy data set, and name the user's mistakes in one sentence."""

import json
import shutil
from pathlib import Path

import cv2
import mmdet.registry
import pytest
import torch
from commands import COCO_CONFIG, CONFIG, ROOT, SMALL, TWIN, call, metrics, refused, tool
from mmcv.ops import get_compiling_cuda_version
from mmengine.config import Config
from mmengine.registry import Registry
from report import newest_metrics

from mmcarafe.apis.libraries import library_of
from mmcarafe.checkpoint.state_dict import read_state_dict  # and allow-lists what mmengine writes
from mmcarafe.errors import InputError


def test_train_writes_a_checkpoint_and_logs_an_eta(trained):
    assert (trained / "epoch_1.pth").is_file()
    log = next(trained.glob("*/*.log")).read_text()
    assert "coco/segm_mAP" in log
    assert "eta:" in log


def test_checkpoint_loads_without_code(trained):
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=True)
    assert any("upsample_modules.0.content_encoder" in key for key in checkpoint["state_dict"])


def test_evaluation_writes_metrics_pictures_and_predictions(trained, toy, tmp_path):
    call("test.py", CONFIG, trained / "epoch_1.pth", "--work-dir", tmp_path / "eval", "--show-dir", "shown",
         "--out", tmp_path / "predictions.pkl", "--cfg-options", *SMALL[:2], cwd=toy)  # fmt: skip
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= metrics(tmp_path / "eval").keys()
    assert (tmp_path / "predictions.pkl").stat().st_size > 0
    pictures = list((toy / "shown").iterdir())
    assert {path.name for path in pictures} == {path.name for path in (toy / "data/shapes/val2017").iterdir()}
    assert cv2.imread(str(pictures[0])).std() > 0


@pytest.mark.slow
def test_tta_evaluates_boxes_and_says_that_masks_cannot_be_merged(toy, tmp_path):
    refused("test.py", CONFIG, "any.pth", "--tta", cwd=toy, match="merges the boxes of augmented images")
    boxes = toy / "boxes.py"
    boxes.write_text(
        f"_base_ = {str(CONFIG)!r}\n"
        "model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]),\n"
        "    roi_head=dict(mask_head=None, mask_roi_extractor=None))\n"
        "val_evaluator = dict(metric='bbox')\ntest_evaluator = val_evaluator\n"
    )
    work = tmp_path / "work"
    call("train.py", boxes, "--work-dir", work,
         "--cfg-options", SMALL[2], "train_cfg.max_epochs=1", cwd=toy)  # fmt: skip
    call("test.py", boxes, work / "epoch_1.pth", "--tta", "--work-dir", work / "eval", cwd=toy)
    assert "coco/bbox_mAP" in metrics(work / "eval")
    said = call("report.py", boxes, work, "--images", 1, "--score-thr", 0, cwd=toy).stdout
    assert "box AP" in said and "mask AP" not in said
    assert f"picture: {work / 'predictions.png'}" in said.splitlines(), "whole, on a line of its own"


def scoped(part, names):
    """Put mmdet's scope in front of its types in a part of a config, but in parts of the model."""
    if isinstance(part, list | tuple):
        return type(part)(scoped(one, names) for one in part)
    if not isinstance(part, dict):
        return part
    inner = {} if "backbone" in part else names  # which mmdet builds in its own scope
    part = {key: scoped(value, inner) for key, value in part.items()}
    if part.get("type") in names:
        part["type"] = f"mmdet.{part['type']}"
    return part


@pytest.mark.slow
def test_a_project_with_a_scope_of_its_own_trains_and_evaluates(toy, tmp_path):
    library_of(Config())  # registers everything
    registries = [r for r in vars(mmdet.registry).values() if isinstance(r, Registry) and r.scope == "mmdet"]
    cfg = Config.fromfile(CONFIG)
    cfg = scoped(cfg.to_dict(), {name for registry in registries for name in registry.module_dict})
    assert cfg["default_hooks"]["checkpoint"]["type"] == "mmdet.CheckpointHook"
    config = tmp_path / "project.py"
    Config(cfg | dict(default_scope="their_project")).dump(config)
    short = [*SMALL, "train_cfg.max_epochs=1"]
    call("train.py", config, "--work-dir", tmp_path / "work", "--cfg-options", *short, cwd=toy)
    args = [config, tmp_path / "work/epoch_1.pth", "--work-dir", tmp_path / "eval", "--show-dir", "shown"]
    call("test.py", *args, "--cfg-options", *SMALL[:2], cwd=toy)
    assert "coco/segm_mAP" in metrics(tmp_path / "eval") and list((toy / "shown").iterdir())
    other = "model.roi_head.bbox_head.num_classes=5"
    refused("train.py", config, "--cfg-options", *short, other, cwd=toy, match="num_classes")


def test_report_draws_and_tabulates(trained, toy):
    small = toy / "small.py"
    small.write_text(
        f"_base_ = {str(CONFIG)!r}\nmodel = dict(backbone=dict(base_channels=8), "
        "neck=dict(in_channels=[8, 16, 32, 64]))\n"
    )
    result = call("report.py", small, trained, "--images", 2, "--score-thr", 0.0, cwd=toy)
    assert "mask AP" in result.stdout
    assert cv2.imread(str(trained / "predictions.png")).std() > 10


def test_a_report_has_the_metrics_of_the_checkpoint_it_names(trained, toy, tmp_path):
    work = Path(shutil.copytree(trained, tmp_path / "work"))
    call("test.py", CONFIG, work / "epoch_1.pth", "--work-dir", work / "eval",
         "--cfg-options", *SMALL[:2], cwd=toy)  # fmt: skip
    (evaluation,) = (work / "eval").glob("*/*.json")
    (training,) = work.glob("*/vis_data/scalars.json")
    assert newest_metrics(work, work / "epoch_1.pth", {1, 3})[1] == evaluation
    config = evaluation.parent / "vis_data/config.py"
    config.write_text(config.read_text().replace("epoch_1.pth", "epoch_3.pth"))
    assert newest_metrics(work, work / "epoch_1.pth", {1, 3})[1] in training.parent.iterdir()
    assert newest_metrics(work, work / "epoch_3.pth", {3, 9})[1] == evaluation
    config.unlink()  # of a run that writes to TensorBoard alone
    with pytest.raises(InputError, match=r"no evaluation of .*epoch_3\.pth found .*run tools/test\.py"):
        newest_metrics(work, work / "epoch_3.pth", {3, 9})


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped"])
def test_weights_alone_with_an_average_in_the_config(trained, toy, tmp_path, kind):
    """mmengine's EMAHook asks what is loaded for a state_dict."""
    state, path = read_state_dict(str(trained / "epoch_1.pth"))[1], tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(dict(state), path)
    else:
        prefix = "module." if kind == "wrapped" else ""
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    config = tmp_path / "averaged.py"
    config.write_text(f"_base_ = {str(CONFIG)!r}\ncustom_hooks = [dict(type='EMAHook', priority=49)]\n")
    options = ["--cfg-options", *SMALL, "train_cfg.max_epochs=1"]
    call("test.py", config, path, "--work-dir", tmp_path / "eval", *options, cwd=toy)
    (scalars,) = trained.glob("*/vis_data/scalars.json")
    of_training = json.loads(scalars.read_text().splitlines()[-1])
    assert metrics(tmp_path / "eval")["coco/bbox_mAP_50"] == of_training["coco/bbox_mAP_50"]
    call("train.py", config, "--work-dir", tmp_path / "on", *options, f"load_from={path}", cwd=toy)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["randomness.seed", "0"], "--cfg-options: expected key=value without spaces around =, got 'random"),
        (["param_scheduler.5.end=3"], "param_scheduler.5.end=3 do not fit the config: Index"),
        (["train_dataloader.dataset.ann_file.x=3"], "ann_file.x=3 do not fit the config: "),
        (["train_cfg.max_epoch=1"], "unexpected keyword argument 'max_epoch': an argument in the config"),
        (["optim_wrapper.optimizer.typ=SGD"], "unexpected keyword argument 'typ': an argument in the config"),
        (["auto_scale_lr=None", "--auto-scale-lr"], "--auto-scale-lr needs auto_scale_lr.base_batch_size"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_the_config_are_named(toy, tmp_path, options, match):
    args = ["--work-dir", tmp_path, "--cfg-options", *SMALL, *options]
    refused("train.py", CONFIG, *args, cwd=toy, match=match)


@pytest.mark.slow
def test_two_processes_evaluate(trained, toy, tmp_path):
    tool("dist_test.sh", CONFIG, trained / "epoch_1.pth", 2, "--work-dir", tmp_path / "eval",
         "--cfg-options", *SMALL[:2], cwd=toy)  # fmt: skip
    assert "coco/segm_mAP" in metrics(tmp_path / "eval")


@pytest.mark.needs_cuda
@pytest.mark.parametrize("options", [[], ["--amp"]], ids=["float32", "amp"])
def test_trains_and_evaluates_on_a_gpu(toy, tmp_path, options):
    if get_compiling_cuda_version() == "not available":
        pytest.skip("this mmcv was built without CUDA, so RoIAlign and NMS have no GPU kernels")
    tool("train.py", CONFIG, "--work-dir", tmp_path / "train", *options,
         "--cfg-options", *SMALL, "train_cfg.max_epochs=1", cwd=toy, gpu=True)  # fmt: skip
    tool("test.py", CONFIG, tmp_path / "train/epoch_1.pth", "--work-dir", tmp_path / "eval",
         "--cfg-options", *SMALL[:2], cwd=toy, gpu=True)  # fmt: skip
    assert "coco/segm_mAP" in metrics(tmp_path / "eval")


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ([ROOT / "configs/carafe/nothing.py"], "nothing.py does not exist"),
        ([COCO_CONFIG], "instances_train2017.json does not exist; link"),
        ([CONFIG, "--cfg-options", "model.neck.upsample_cfg.type=CARAFEE"], "did you mean 'CARAFE'?"),
        ([CONFIG, "--cfg-options", "model.neck.upsample_cfg.kernel=7"], "keyword argument 'kernel'"),
        ([CONFIG, "--cfg-options", "train_dataloader.dataset.ann_file=no.json"], "no.json does not exist"),
        ([CONFIG, "--auto-scale-lr"], "needs auto_scale_lr.base_batch_size"),
    ],
    ids=["config", "coco", "upsampler", "argument", "annotations", "auto-scale-lr"],
)  # fmt: skip
def test_train_names_the_mistake(toy, tmp_path, args, match):
    refused("train.py", *args, cwd=toy, match=match)


def test_checkpoint_of_another_architecture_is_refused(trained, toy):
    refused("test.py", TWIN, trained / "epoch_1.pth", "--cfg-options", *SMALL[:2],
            cwd=toy, match="was made by another architecture")  # fmt: skip
    refused("train.py", TWIN, "--resume", trained / "epoch_1.pth", "--cfg-options", *SMALL,
            cwd=toy, match="was made by another architecture")  # fmt: skip


def test_missing_or_unreadable_checkpoint_is_named(toy):
    refused("test.py", CONFIG, "gone.pth", cwd=toy, match="checkpoint gone.pth does not exist")
    (toy / "half.pth").write_bytes(b"PK half a checkpoint")
    torch.save({"state_dict": {}, "code": eval}, toy / "code.pth")
    for name in ("half.pth", "code.pth"):
        with pytest.raises(InputError, match=f"{name} cannot be read as weights"):
            read_state_dict(str(toy / name))


def test_report_without_a_run_says_so(toy, tmp_path):
    refused("report.py", CONFIG, tmp_path, cwd=toy, match="holds no checkpoint")
