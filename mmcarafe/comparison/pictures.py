# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the arms of a comparison find, side by side with the truth."""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.device import get_device
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from pycocotools import mask as rle

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.resuming import checkpoint_folder, written_checkpoints
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.comparison.object_scores import CONFIDENCE, Seen, extremes, look
from mmcarafe.comparison.page import COLOURS, short_names
from mmcarafe.comparison.runs import RESULTS, read_results, run_folder
from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError
from mmcarafe.visualization import to_bgr

OBJECTS, NO_OBJECT = COLOURS[1:], "#999999"
"""Colours of objects, and of what overlaps none of its class."""

PANEL = 256
"""Pixels that a panel is wide at most, where crops are enlarged; they are by a whole number."""


@torch.no_grad()
def predict(folder: Path, options: dict | None = None) -> list[Seen]:
    """Return what the last checkpoint in a run's folder finds in the images of its validation.

    ``options`` change the config that the run was trained with, as --cfg-options do.

    Raises:
        InputError: config, checkpoint or data are not there, or have no masks.
    """
    config = folder / "config.py"
    if not config.is_file():
        raise InputError(
            f"{config} does not exist: pictures need the folders of the runs, not their results alone"
        )
    cfg = read_config(str(config), options)
    cfg.work_dir = str(folder)  # it may have been moved since
    checkpoints = written_checkpoints(cfg)
    if not checkpoints:
        raise InputError(
            f"{checkpoint_folder(cfg)} holds no checkpoint: pictures need the last one of each run"
        )
    check_data(cfg, "val")
    model, path = build_model(cfg), str(checkpoints[0])
    check_state(model, path, read_state_dict(path)[1])
    model.to(get_device())
    loader = Runner.build_dataloader(cfg.val_dataloader)
    batches = track_iter_progress((loader, len(loader)), file=sys.stderr)
    return [look(sample) for batch in batches for sample in model.test_step(batch)]


def window(differing: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns around the densest of pixels, bool [H, W].

    Each side is a quarter of the image's longer one, and at least 64 pixels where there are as many.
    """
    side = max(64, max(differing.shape) // 4)
    density = cv2.GaussianBlur(differing.astype(np.float32), (0, 0), side / 4)
    centre = np.unravel_index(density.argmax(), density.shape)
    firsts = [
        max(0, min(int(at) - side // 2, size - side)) for at, size in zip(centre, density.shape, strict=True)
    ]
    return slice(firsts[0], firsts[0] + side), slice(firsts[1], firsts[1] + side)


def paint(image: np.ndarray, masks: np.ndarray, colours: Sequence[str], marked: np.ndarray) -> np.ndarray:
    """Return an image enlarged to about PANEL pixels, with masks filled and outlined, one of them in white.

    Args:
        image (np.ndarray): uint8 [H, W, 3], RGB.
        masks (np.ndarray): bool [N, H, W].
        colours (sequence of str): of each mask, #RRGGBB.
        marked (np.ndarray): bool [H, W], the mask that is outlined in white, above the others.
    """
    factor = max(1, PANEL // max(image.shape))
    image, marked, *masks = (
        part.repeat(factor, axis=0).repeat(factor, axis=1) for part in (image, marked, *masks)
    )
    values = [tuple(bytes.fromhex(colour[1:])) for colour in colours]
    for mask, value in zip(masks, values, strict=True):
        image[mask] = 0.65 * image[mask] + 0.35 * np.array(value)
    for mask, value in zip([*masks, marked], [*values, (255, 255, 255)], strict=True):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outlines, -1, value, 2)
    return image


def panels(arm: str, seen: dict[str, Seen], item: int) -> list[tuple[str, np.ndarray]]:
    """Return titles and pixels of one image's panels: the image, the truth, and each arm.

    The truth has a colour for each object, and what is found has that of the object it fits best.

    Args:
        arm (str): with the baseline it decides which part of the image is shown: where the masks that fit
            the object best differ.
        seen (dict[str, Seen]): the image, by arm; the baseline is the first.
        item (int): number of the object.
    """
    baseline, *_ = seen.values()
    truth = rle.decode(baseline.truth.rles[item]).astype(bool)
    differing = best_fit(seen[arm], item) ^ best_fit(baseline, item)
    crop = window(differing if differing.any() else truth)
    image = to_bgr(mmcv.imread(baseline.path))[crop][..., ::-1]
    image = (image * (255 / max(1, image.max()))).astype(np.uint8)  # microscopes' images may be dark

    def painted(masks: list[dict], objects: Sequence[int]) -> np.ndarray:
        colours = [OBJECTS[number % len(OBJECTS)] if number >= 0 else NO_OBJECT for number in objects]
        return paint(image, [rle.decode(mask)[crop].astype(bool) for mask in masks], colours, truth[crop])

    count = len(baseline.truth.rles)
    drawn = [
        ("image", painted([], [])),
        (f"truth\n{count} objects", painted(baseline.truth.rles, range(count))),
    ]
    for name, one in seen.items():
        objects = np.where(one.fits.any(axis=1), one.fits.argmax(axis=1), -1)
        title = f"{name}\n{one.scores[item]:.2f}, image {one.scores.mean():.2f}"
        drawn.append((title, painted(one.found.rles, objects)))
    return drawn


def best_fit(image: Seen, item: int) -> np.ndarray:
    """Return the mask found that fits an object best, bool [H, W]; an empty one where none overlaps it."""
    fits = image.fits[:, item]
    if not fits.any():
        return np.zeros(image.truth.rles[item]["size"], bool)
    return rle.decode(image.found.rles[fits.argmax()]).astype(bool)


def draw(arm: str, seen: dict[str, list[Seen]], path: Path) -> None:
    """Draw the image where an arm gains most and the one where it loses most, a row each.

    Args:
        arm (str): the arm.
        seen (dict[str, list[Seen]]): all images, by arm; the baseline is the first.
        path (Path): the picture, a PNG file.
    """
    theirs = next(iter(seen.values()))
    chosen = extremes([image.scores for image in seen[arm]], [image.scores for image in theirs])
    # so large that no pixel of a panel is left out
    figure = Figure(figsize=(2.8 * (len(seen) + 2), 6.8), layout="constrained")
    axes = figure.subplots(2, len(seen) + 2)
    for row, choice, kind in zip(axes, chosen, ("gain", "loss"), strict=True):
        images = {name: of[choice.image] for name, of in seen.items()}
        for axis, (title, pixels) in zip(row, panels(arm, images, choice.item), strict=True):
            axis.imshow(pixels, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=9)
        name = Path(theirs[choice.image].path).name
        row[0].set_ylabel(f"most {kind}: {choice.difference:+.2f}\n{name[-20:]}", fontsize=9)
    figure.supxlabel(
        "Numbers: IoU with the object outlined in white, and the mean over all objects of the image; of what "
        + f"is found with a confidence of {CONFIDENCE} or more",
        fontsize=9,
    )
    figure.savefig(path, dpi=100)


def write_pictures(out: Path, baseline: str, seed: int, options: dict | None = None) -> list[Path]:
    """Write a picture for each arm into the folder ``pictures``; return their paths.

    Raises:
        InputError: nothing can be compared with the baseline, or :func:`predict` does.
    """
    lines = [line for line in read_results(out / RESULTS) if line["seed"] == seed]
    written = []
    for recipe in dict.fromkeys(line["recipe"] for line in lines):
        runs = {line["arm"]: line["settings"] for line in lines if line["recipe"] == recipe}
        if baseline not in runs or len(runs) < 2:
            continue
        names, seen = short_names(runs), {}
        for arm in sorted(runs, key=lambda arm: arm != baseline):
            print(f"{arm}, seed {seed}", file=sys.stderr)
            seen[names[arm]] = predict(run_folder(out, arm, runs[arm], seed), options)
        for arm in (arm for arm in runs if arm != baseline):
            name = run_folder(out, arm, runs[arm], seed).parent.name
            written.append(out / f"pictures/{name}_seed-{seed}.png")
            written[-1].parent.mkdir(exist_ok=True)
            draw(names[arm], seen, written[-1])
    if not written:
        raise InputError(
            f"{out / RESULTS} has no runs of {baseline!r} and of another arm with seed {seed}: name a seed "
            "that both have with --seeds, or another --baseline"
        )
    return written
