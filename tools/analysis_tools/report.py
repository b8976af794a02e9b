# SPDX-License-Identifier: Apache-2.0
"""Sum up a training run: a table of its COCO metrics and files, and a picture of its predictions.

Example: python tools/analysis_tools/report.py CONFIG work_dirs/my_run
"""

import argparse
import json
import re
from pathlib import Path

import mmcv
import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmcarafe.apis.config import load_config
from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.checkpoint.state_dict import read_local
from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import run
from mmcarafe.utils.files import write_picture
from mmcarafe.visualization import to_bgr

HEIGHT = 560
"""Pixels of the picture, for the truth and the predictions below it."""

GAP = 3
"""White pixels around each column."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Table and picture of a training run")
    parser.add_argument("config", help="config file")
    parser.add_argument("work_dir", help="where train.py and test.py wrote")
    parser.add_argument("--images", type=int, default=6, help="pictures drawn, from the validation split")
    parser.add_argument("--score-thr", type=float, default=0.5, help="lowest score drawn")
    args = parser.parse_args(argv)
    args.cfg_options, args.launcher, args.local_rank = None, "none", 0
    return args


def newest_metrics(work_dir: Path, checkpoint: Path, steps: set[int]) -> tuple[dict, Path]:
    """Return the metrics of a checkpoint's newest evaluation below a work directory, and their file.

    Args:
        work_dir (Path): where train.py and test.py wrote.
        checkpoint (Path): of the training.
        steps (set[int]): its epoch and its iteration, one of which a training's log has beside metrics.
    """
    for path in sorted(work_dir.rglob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
        for line in reversed(path.read_text(encoding="utf-8").splitlines()):
            if line.startswith("{") and '"coco/' in line:  # of mmengine's log; others are indented
                metrics = json.loads(line)
                tested = loaded_by(path) == checkpoint.name and "step" not in metrics
                if tested or metrics.get("step") in steps:
                    return metrics, path
    raise InputError(
        f"no evaluation of {checkpoint} found below {work_dir}; run tools/test.py with --work-dir "
        f"{work_dir}/eval first"
    )


def loaded_by(log: Path) -> str | None:
    """Return the name of the checkpoint that the run of a log loaded, which the config beside it has."""
    config = log.parent / "vis_data/config.py"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    found = re.search(r"^load_from = ['\"](.+)['\"]$", text, re.M)
    return Path(found[1]).name if found else None


def draw(cfg: Config, config: str, checkpoint: str, path: Path, images: int, score_thr: float) -> None:
    """Write a PNG: ground truth above, predictions below, one column an image."""
    inferencer = Inferencer(config, checkpoint, "cpu")
    inferencer.visualizer.alpha, inferencer.visualizer.line_width = 0.5, 1  # objects are seen through
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    # the first images with several objects, wherever in the split they are
    several = [i for i in range(len(dataset)) if len(dataset.get_data_info(i)["instances"]) > 1]
    columns = []
    for index in (several or range(len(dataset)))[: max(1, images)]:
        loaded = inferencer.load(dict(img_path=dataset.get_data_info(index)["img_path"])) | dict(img_id=0)
        (sample,) = inferencer([loaded], return_datasamples=True, no_save_vis=True)["predictions"]
        sample.gt_instances = dataset[index]["data_samples"].gt_instances
        sample.gt_instances.bboxes = get_box_tensor(sample.gt_instances.bboxes)
        image = to_bgr(loaded["img"])[..., ::-1]
        inferencer.visualizer.add_datasample("", image, sample, pred_score_thr=score_thr)
        drawn = np.concatenate(np.split(inferencer.visualizer.get_image(), 2, axis=1))  # which was beside it
        drawn = mmcv.imrescale(drawn, HEIGHT / len(drawn), interpolation="bicubic")
        columns.append(mmcv.impad(drawn, padding=GAP, pad_val=(255, 255, 255)))
    write_picture(path, np.concatenate(columns, axis=1)[..., ::-1], compression=9)


def main(argv: list[str] | None = None) -> None:
    """Draw the picture and print the table."""
    args = parse_args(argv)
    work_dir = Path(args.work_dir)
    cfg = load_config(args)
    check_data(cfg, "test")
    last = work_dir / "last_checkpoint"
    if not last.is_file():
        raise InputError(f"{work_dir} holds no checkpoint; train first with --work-dir {work_dir}")
    # mmengine wrote an absolute path; the folder may have moved since
    checkpoint = str(work_dir / Path(last.read_text().strip()).name)
    meta = read_local(checkpoint).get("meta", {})
    steps = {meta.get("epoch"), meta.get("iter")} - {None}
    metrics, metrics_file = newest_metrics(work_dir, Path(checkpoint), steps)
    picture = work_dir / "predictions.png"
    draw(cfg, args.config, checkpoint, picture, args.images, args.score_thr)

    table = Table(title=Path(args.config).stem)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for name, key in (("box AP", "coco/bbox_mAP"), ("mask AP", "coco/segm_mAP")):
        if key in metrics:
            table.add_row(name, f"{metrics[key]:.3f}")
    Console().print(table)
    logs = sorted(work_dir.glob("*.log")) or sorted(work_dir.glob("*/*.log"))
    files = [("checkpoint", checkpoint), *(("log", log) for log in logs), ("metrics", metrics_file)]
    for what, path in [*files, ("picture", picture)]:  # each on a line of its own, to be copied
        print(f"{what}: {path}")


if __name__ == "__main__":
    run(main)
