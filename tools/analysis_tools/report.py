# SPDX-License-Identifier: Apache-2.0
"""Sum up a training run: a table of its COCO metrics and files, and a picture of its predictions.

Example: python tools/analysis_tools/report.py CONFIG work_dirs/my_run
"""

import argparse
import json
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.structures import InstanceData
from rich.console import Console
from rich.table import Table

from mmcarafe.apis.config import load_config
from mmcarafe.apis.inferencer import Inferencer
from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import run

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend that needs no screen


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


def newest_metrics(work_dir: Path) -> tuple[dict, Path]:
    """Metrics of the newest evaluation below a work directory, and the file that has them."""
    for path in sorted(work_dir.rglob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "coco/" in line]
        if lines:
            return json.loads(lines[-1]), path
    raise InputError(f"no evaluation found below {work_dir}; run tools/test.py with --work-dir there first")


def outline(axis, mask: np.ndarray, color: np.ndarray) -> None:
    """Fill a mask, bool [H, W], faintly and draw its boundary; ``color`` is RGB in 0..1."""
    axis.imshow(np.dstack([np.broadcast_to(color, (*mask.shape, 3)), 0.35 * mask]))
    axis.contour(mask, levels=[0.5], colors=[color], linewidths=1.4)


def masks_of(instances: InstanceData, height: int, width: int) -> np.ndarray:
    """Return the masks of objects, bool [N, H, W]; those of their boxes where a model has no masks."""
    if "masks" in instances:
        masks = instances.masks
        return np.asarray(getattr(masks, "masks", masks)).astype(bool)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    x1, y1, x2, y2 = np.asarray(get_box_tensor(instances.bboxes)).reshape(-1, 4).T[..., None, None]
    return (columns > x1) & (columns < x2) & (rows > y1) & (rows < y2)


def draw(cfg: Config, config: str, checkpoint: str, path: Path, images: int, score_thr: float) -> None:
    """Write a PNG: ground truth above, predictions below, one column an image."""
    inferencer = Inferencer(config, checkpoint, "cpu")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    classes = dataset.metainfo["classes"]
    palette = np.array(dataset.metainfo["palette"]) / 255
    # the first images with several objects, wherever in the split they are
    several = [i for i in range(len(dataset)) if len(dataset.get_data_info(i)["instances"]) > 1]
    chosen = (several or range(len(dataset)))[: max(1, images)]
    images = len(chosen)
    figure, axes = plt.subplots(2, images, figsize=(2.4 * images, 5.2), squeeze=False, layout="constrained")
    for column, index in zip(axes.T, chosen, strict=True):
        info = dataset.get_data_info(index)
        image = cv2.cvtColor(cv2.imread(info["img_path"]), cv2.COLOR_BGR2RGB)
        truth = dataset[index]["data_samples"].gt_instances
        loaded = inferencer.load(dict(img_path=info["img_path"])) | dict(img_id=0)
        results = inferencer([loaded], return_datasamples=True, no_save_vis=True)
        found = results["predictions"][0].pred_instances
        found = found[found.scores >= score_thr]
        for axis, objects, scores in ((column[0], truth, None), (column[1], found, found.scores)):
            axis.imshow(image)
            axis.set_axis_off()
            masks = masks_of(objects, *image.shape[:2])
            for i, (label, mask) in enumerate(zip(objects.labels, masks, strict=True)):
                outline(axis, mask, palette[label])
                y, x = np.argwhere(mask).mean(0) if mask.any() else (0, 0)
                text = classes[label] + (f" {scores[i]:.2f}" if scores is not None else "")
                axis.text(
                    x, y, text, color="white", fontsize=8, ha="center", va="center",
                    bbox=dict(facecolor="black", alpha=0.55, pad=1.2, linewidth=0),
                )  # fmt: skip
    axes[0, 0].set_title("ground truth", loc="left", fontsize=10)
    axes[1, 0].set_title(f"prediction (score >= {score_thr})", loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
    metrics, metrics_file = newest_metrics(work_dir)
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
