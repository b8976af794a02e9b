# SPDX-License-Identifier: Apache-2.0
"""A detector in several formats on a validation split: AP, size, load time and time an image."""

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.registry import DATASETS, METRICS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmcarafe.apis.fitting import in_image, mean_colour, padded, resized
from mmcarafe.deploy.detr import Transformer
from mmcarafe.deploy.exporting import program_of, save
from mmcarafe.deploy.network import predicting
from mmcarafe.deploy.ops import exportable
from mmcarafe.deploy.parts import Part
from mmcarafe.deploy.runtimes import megabytes, optional, runtime, to_openvino
from mmcarafe.errors import InputError

Finder = Callable[[dict], InstanceData]
"""Finds the objects of one sample of a data set, in pixels of the original image."""


class Row(NamedTuple):
    """Hold what was measured of a format: sizes in MB, times by their names, AP from 0 to 100 by metric."""

    format: str
    size: float
    load_s: float
    image_ms: float
    ap: dict[str, float]


def split(cfg: Config, name: str, limit: int | None = None) -> Iterator[dict]:
    """Yield the samples of a split (``train`` or ``val``), prepared as for validation, at most ``limit``."""
    settings = cfg[f"{name}_dataloader"].dataset
    while inner := settings.get("dataset") or settings.get("datasets"):  # it mixes, repeats or joins others
        settings = inner[0] if isinstance(inner, list) else inner
    settings = settings.copy()
    settings.update(pipeline=cfg.val_dataloader.dataset.pipeline, test_mode=True)
    data = DATASETS.build(settings)
    for index in range(min(len(data), limit or len(data))):
        yield data[index]


def coco_metric(cfg: Config) -> CocoMetric:
    """Return mmdet's CocoMetric, or a class of it, of the config's evaluators; InputError without one."""
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    for settings in evaluators:
        kind = METRICS.get(settings["type"]) if isinstance(settings["type"], str) else settings["type"]
        coco = issubclass(kind, CocoMetric) and not issubclass(kind, LVISMetric)
        if coco and not settings.get("format_only"):
            return METRICS.build(settings)
    raise InputError("formats are compared by CocoMetric: set one as the config's val_evaluator")


def evaluate(cfg: Config, find: Finder, samples: Iterable[dict]) -> tuple[dict[str, float], float]:
    """Return AP from 0 to 100 by mmdet's CocoMetric, and the median of the milliseconds an image."""
    metric = coco_metric(cfg)
    metric.dataset_meta = (
        cfg.val_dataloader.dataset.get("metainfo") or DATASETS.build(cfg.val_dataloader.dataset).metainfo
    )
    times, ids = [], []
    with torch.inference_mode():
        for data in samples:
            start = time.perf_counter()
            found = find(data)
            times.append(time.perf_counter() - start)
            sample = data["data_samples"]
            if "masks" in found:
                found.masks = encode_mask_results(found.masks.numpy())
            metric.process({}, [dict(pred_instances=found, **sample.metainfo)])
            ids.append(sample.img_id)
    metric.img_ids = ids  # those that were looked at, where a limit leaves some out
    with contextlib.redirect_stdout(io.StringIO()):  # tables of pycocotools
        results = metric.compute_metrics(metric.results)
    return {name: 100 * value for name, value in results.items() if name.endswith("_mAP")}, 1e3 * median(
        times
    )


class Formats:
    """Each format of a detector as a function of a sample.

    Args:
        cfg (Config): the detector's, with its loaders and ``val_evaluator``.
        detector (nn.Module): with its weights.
        part (Part): the whole detector, to be traced with images of one size of the split.
        folder (Path): where files are written.
    """

    def __init__(self, cfg: Config, detector: nn.Module, part: Part, folder: Path) -> None:
        self.cfg, self.detector, self.part, self.folder = cfg, detector, part, folder
        coco_metric(cfg)  # what is wrong with it is said before the export, which takes a while
        self.program = program_of(part, dynamic=True)
        self.mean = mean_colour(part)
        settings = predicting(detector).test_cfg
        self.mask_thr = (settings.get("rcnn") or settings).get("mask_thr_binary", 0.5)
        self.weights = sum(t.numel() * t.element_size() for t in detector.state_dict().values()) / 1e6

    def _finder(self, run: Callable[[tuple[Tensor]], list[Tensor]]) -> Finder:
        def find(data: dict) -> InstanceData:
            image, sample = self._batch(data)
            outputs = dict(zip(self.part.outputs, run((image,)), strict=True))
            return in_image(outputs, sample, self.mask_thr, type(self.part.module))

        return find

    def _batch(self, data: dict) -> tuple[Tensor, DetDataSample]:
        """Return what the file takes in place of an image; of a transformer the whole input is image."""
        image, sample = data["inputs"], data["data_samples"]
        if isinstance(self.part.module, Transformer):
            return resized(image, sample)
        return padded(image, self.mean), sample

    def _loaded(self, path: Path) -> tuple[Finder, float, float]:
        run, seconds = runtime(path)
        return self._finder(run), megabytes(path), seconds

    def pytorch(self) -> tuple[Finder, float, float]:
        """Return mmdet's own prediction, the MB of its weights, and 0 s."""

        def find(data: dict) -> InstanceData:
            batch = dict(inputs=[data["inputs"]], data_samples=[data["data_samples"].clone()])
            return self.detector.test_step(batch)[0].pred_instances

        return find, self.weights, 0.0

    def compiled(self) -> tuple[Finder, float, float]:
        """Return the exported program under torch.compile, which compiles for the first image."""
        start = time.perf_counter()
        compiled = torch.compile(self.program.module())
        example, _ = self._batch(next(split(self.cfg, "val")))
        with torch.inference_mode(), exportable():
            compiled(example)
        return self._finder(lambda x: tree_leaves(compiled(*x))), self.weights, time.perf_counter() - start

    def onnx(self) -> tuple[Finder, float, float]:
        """Return the ONNX file in ONNX Runtime."""
        return self._loaded(self._written)

    def openvino(self) -> tuple[Finder, float, float]:
        """Return OpenVINO's file in OpenVINO."""
        path = self.folder / "model.xml"
        to_openvino(self._written, path)
        return self._loaded(path)

    def int8(self, images: int = 64) -> tuple[Finder, float, float]:
        """Return the ONNX file with convolutions in 8 bits, calibrated on images of the training split."""
        quantization = optional("onnxruntime.quantization")
        batches = (self._batch(data)[0] for data in split(self.cfg, "train", images))

        class Reader(quantization.CalibrationDataReader):
            def get_next(self) -> dict | None:
                batch = next(batches, None)
                return None if batch is None else {"image": batch.numpy()}

        path = self.folder / "model_int8.onnx"
        quantization.quantize_static(
            str(self._written),
            str(path),
            Reader(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
        )
        return self._loaded(path)

    @cached_property
    def _written(self) -> Path:
        """Return the ONNX file, which is written once; one of another run may be there."""
        path = self.folder / "model.onnx"
        save(self.program, self.part, path, 19)
        return path


NAMES = {
    "pytorch": "PyTorch",
    "compiled": "PyTorch, compiled",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "int8": "ONNX Runtime, INT8",
}
"""Name the formats, by the methods of :class:`Formats` that make them."""

NEEDED = dict.fromkeys(("onnx", "int8"), ("onnx", "onnxscript", "onnxruntime"))
NEEDED["openvino"] = ("onnx", "onnxscript", "openvino")
"""Packages, beside PyTorch, by format."""


def check_installed(names: Iterable[str]) -> None:
    """Raise InputError where a package that one of the formats needs is not installed."""
    for name in names:
        for package in NEEDED.get(name, ()):
            optional(package)


def measure(formats: Formats, names: list[str], limit: int | None = None) -> Iterator[Row]:
    """Evaluate each format on the validation split, or on its first ``limit`` images, one after the other."""
    if "int8" in names:
        next(split(formats.cfg, "train"), None)  # what is wrong with these images is said now
    for name in names:
        find, size, seconds = getattr(formats, name)()
        ap, milliseconds = evaluate(formats.cfg, find, split(formats.cfg, "val", limit))
        yield Row(NAMES[name], size, seconds, milliseconds, ap)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    kinds = {"bbox_mAP": "box AP", "segm_mAP": "mask AP"}
    columns = [kind for kind in kinds if kind in rows[0].ap]
    lines = [
        f"| format | {' | '.join(kinds[c] for c in columns)} | MB | loaded in | an image, median |",
        f"| --- |{' ---: |' * (len(columns) + 3)}",
    ]
    for row in rows:
        aps = " | ".join(f"{row.ap[c]:.1f}" for c in columns)
        load = f"{row.load_s:.1f} s" if row.load_s else ""
        lines.append(f"| {row.format} | {aps} | {row.size:.0f} | {load} | {row.image_ms:.1f} ms |")
    return "\n".join(lines)
