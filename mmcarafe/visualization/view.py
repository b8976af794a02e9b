# SPDX-License-Identifier: Apache-2.0
"""Runs a model on one image and finds where its CARAFE modules' maps lie in it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor, prod

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmcarafe.analysis import Reassembly, entropy, record, trace
from mmcarafe.checkpoint.random_state import random_state, set_random_state
from mmcarafe.errors import InputError
from mmcarafe.utils.classes import is_a

from .loading import to_bgr

PASS = ", pass "
"""Between the name of a part and a number, where it runs several times."""


@dataclass(frozen=True, eq=False)
class View:
    """A chain of reassemblies, and where its maps lie in the image.

    Positions are (x, y) in pixels of the image as it went into the network; the first pixel reaches from
    0 to 1. A level is a place in the chain, 0 the finest.
    """

    name: str
    """Of the part of the model."""
    image: np.ndarray
    """uint8 [H, W, 3], RGB, as the test pipeline resized it, without padding; of grey ones three times."""
    calls: list[Reassembly]
    """The chain, finest first."""
    index: int
    """Of the image, or the RoI, in the batch."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the finest output: a RoI's, or the padded image's."""
    scale_factor: tuple[float, float]
    """Horizontal and vertical: how many times larger ``image`` is than the original."""
    is_roi: bool
    """True where the maps are those of a RoI."""

    def step(self, level: int) -> tuple[float, float]:
        """Return width and height of a cell of the map that a level takes; level -1: of the finest output."""
        rows, columns = self.calls[0].kernels.shape[2:]
        times = prod(call.ratio for call in self.calls[: level + 1])
        left, top, right, bottom = self.box
        return (right - left) / columns * times, (bottom - top) / rows * times

    def pixel(self, x: float, y: float, level: int = -1) -> tuple[int, int]:
        """Return row and column of the cell of a map in which a position is."""
        dx, dy = self.step(level)
        return int((y - self.box[1]) // dy), int((x - self.box[0]) // dx)

    def cell(self, row: int, column: int, level: int = -1) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a cell of a map."""
        dx, dy = self.step(level)
        return self.box[0] + column * dx, self.box[1] + row * dy, dx, dy

    def cells(self, area: tuple[float, float, float, float], level: int = -1) -> tuple[slice, slice]:
        """Return rows and columns of a map that are in an area, given by left, top, right and bottom."""
        (dx, dy), (left, top, _, _) = self.step(level), self.box
        rows = slice(max(0, floor((area[1] - top) / dy)), max(1, ceil((area[3] - top) / dy)))
        return rows, slice(max(0, floor((area[0] - left) / dx)), max(1, ceil((area[2] - left) / dx)))

    def extent(self, shape: tuple[int, int], level: int = -1) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top of a map, as matplotlib's imshow takes them."""
        left, top, dx, dy = self.cell(0, 0, level)
        return left, left + shape[1] * dx, top + shape[0] * dy, top

    def at(self, level: int) -> "View":
        """Return the view of the rest of the chain, from a level on."""
        rows, columns = self.calls[level].kernels.shape[2:]
        left, right, bottom, top = self.extent((rows, columns), level - 1)
        _, comma, which = self.name.partition(PASS)
        name = f"{self.calls[level].name}{comma}{which}"
        return replace(self, name=name, calls=self.calls[level:], box=(left, top, right, bottom))

    @property
    def flaw(self) -> str:
        """Say why there is nothing to draw; empty where there is something.

        A training that diverged has kernels of NaN, and kernels without a softmax have negative weights.
        """
        left, top, right, bottom = self.inside
        if not (left < right and top < bottom):  # a box that diverged, or has no width
            return f"the box {tuple(round(side, 1) for side in self.box)} has no part of the image in it"
        if not all(bool(t.isfinite().all()) for call in self.calls for t in (call.features, call.kernels)):
            return "features or kernels are not finite"
        return "kernels have negative weights" if any(bool((c.kernels < 0).any()) for c in self.calls) else ""

    @property
    def inside(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what the maps and the image have in common."""
        height, width = self.image.shape[:2]
        left, top, right, bottom = self.box
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)

    def kernels(self, x: float, y: float) -> list[np.ndarray]:
        """Return the kernel [k, k] of each level at a position, a mean over groups."""
        kernels = []
        for level, call in enumerate(self.calls):
            row, column = self.pixel(x, y, level - 1)
            kernel = call.kernels[self.index, :, row, column].float()
            kernels.append(kernel.view(call.groups, call.kernel_size, -1).mean(0).cpu().numpy())
        return kernels

    def weights(self, x: float, y: float) -> list[np.ndarray]:
        """Return the weights that made the finest output at a position, [H, W] a level, mean over groups."""
        weights = trace(self.calls[0], *self.pixel(x, y), self.index)
        return [weight.float().mean(0).cpu().numpy() for weight in weights]

    def entropy(self, level: int) -> np.ndarray:
        """Return the entropy of a level's kernels, [s*H, s*W] in 0..1, mean over groups."""
        call = self.calls[level]
        kernels = call.kernels[self.index : self.index + 1]
        return entropy(kernels, call.groups)[0].mean(0).cpu().numpy()

    def mean_entropy(self) -> np.ndarray:
        """Return the mean entropy of all levels' kernels at each pixel of the finest output, [s*H, s*W]."""
        return np.mean([self.at_finest(self.entropy(i), i - 1) for i in range(len(self.calls))], axis=0)

    def kept(self) -> np.ndarray:
        """Return the share of each finest pixel that is of the coarsest map, not past borders, [s*H, s*W]."""
        share = torch.ones_like(self.calls[-1].features[self.index : self.index + 1, :1])
        for call in reversed(self.calls):
            share = share[:, :, : call.features.shape[2], : call.features.shape[3]].expand(
                -1, call.groups, -1, -1
            )
            kernels = call.kernels[self.index : self.index + 1]
            share = call.reassemble(share, kernels).mean(1, keepdim=True)
        return share[0, 0].float().cpu().numpy()

    def at_finest(self, values: np.ndarray, level: int) -> np.ndarray:
        """Repeat a map of a level to the pixels of the finest output."""
        rows, columns = self.calls[0].kernels.shape[2:]
        times = round(self.step(level)[0] / self.step(-1)[0])
        return values.repeat(times, 0).repeat(times, 1)[:rows, :columns]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let the model evaluate while active; then restore modes and random numbers."""
    modes, numbers = {module: module.training for module in model.modules()}, random_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        set_random_state(numbers)
        for module, training in modes.items():
            module.training = training


def look(model: nn.Module, inputs: Tensor, sample: BaseDataElement) -> list[View]:
    """Run a model on an image and return a view of each chain of its CARAFE modules, in call order.

    The model's mode and torch's random numbers are left as they were. Where the maps are those of RoIs, the
    view is of the first, which has the highest score. Modules that are not run have no view: mask heads
    where nothing is found.

    Args:
        model (nn.Module): a detector of mmdet's, or a segmentor of mmsegmentation's.
        inputs (Tensor[C, H, W]): BGR or grey pixels in 0..255, as a test pipeline gives them.
        sample (BaseDataElement): what the pipeline says of the image.

    Raises:
        InputError: the segmentor predicts piece by piece.
    """
    check_whole(model, "--cfg-options model.test_cfg.mode=whole")
    rois: list[tuple[int, Tensor, torch.Size]] = []
    with undisturbed(model), record(model) as calls, ExitStack() as stack:

        def keep(module, args, kwargs, output):
            given = kwargs["rois"] if "rois" in kwargs else args[1]
            rois.append((len(calls), given, output.shape))

        for module in model.modules():
            if is_a(module, "mmdet", "BaseRoIExtractor"):
                stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        (result,) = model.test_step(dict(inputs=[inputs], data_samples=[sample]))
    sources = [call.source for call in calls]
    lasts = [(i, call) for i, call in enumerate(calls) if call not in sources and len(call.features)]
    several = Counter(name for name, _ in {(_component(call), call.name) for _, call in lasts})
    scale_factor = tuple(sample.metainfo.get("scale_factor", (1.0, 1.0)))[:2]
    height, width = sample.metainfo.get("ori_shape", inputs.shape[1:])[:2]
    # some pipelines pad at the right and the bottom
    pixels = inputs[:, : round(height * scale_factor[1]), : round(width * scale_factor[0])]
    image = to_bgr(pixels.permute(1, 2, 0).cpu().numpy())[..., ::-1]
    views = []
    for i, call in lasts:
        name = _component(call) if several[_component(call)] == 1 else call.name
        roi = _roi_box(i, call, rois)
        # mmdet's padded size, that of mmsegmentation where it pads, and the image's own
        padded = (result.metainfo.get(name) for name in ("batch_input_shape", "pad_shape"))
        size = next((known for known in padded if known), inputs.shape[1:])
        box = roi or _map_box(call, size[:2], is_pooled(model, call))
        views.append(View(name, image, call.chain(), 0, box, scale_factor, roi is not None))
    return numbered(views)


def check_whole(model: nn.Module, advice: str) -> None:
    """Raise InputError, with what to do, where a segmentor predicts an image piece by piece."""
    if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
        raise InputError(
            "the segmentor predicts windows of the image one by one; its kernels are shown in whole images: "
            f"{advice}"
        )


def numbered(views: list[View]) -> list[View]:
    """Tell the passes apart of modules that run several times (RFP's neck): "neck, pass 1"."""
    times, passes = Counter(view.name for view in views), Counter()
    found = []
    for view in views:
        passes[view.name] += 1
        name = f"{view.name}{PASS}{passes[view.name]}"
        found.append(replace(view, name=name) if times[view.name] > 1 else view)
    return found


def select(views: list[View], module: str | None) -> list[View]:
    """Return the views of a part of the model, or the chain that ends at a module; all of them for None."""
    if module is None:
        return views
    found = [view for view in views if f"{view.name.partition(PASS)[0]}.".startswith(f"{module}.")]
    return found or [
        view.at(level) for view in views for level, call in enumerate(view.calls) if call.name == module
    ]


def _component(call: Reassembly) -> str:
    """Return the part of the model that has the module."""
    return call.name.rpartition(".")[0].removesuffix(".upsample_modules") or call.name


def _roi_box(order: int, call: Reassembly, rois: list[tuple[int, Tensor, torch.Size]]) -> tuple | None:
    """Return the box of the first RoI, if the input is a map of the RoIs last taken out before the call."""
    before = [(boxes, shape) for count, boxes, shape in rois if count <= order]
    if not before:
        return None
    boxes, shape = before[-1]
    same = (shape[0], *shape[2:]) == (len(call.features), *call.features.shape[2:])
    return tuple(boxes[0, 1:].tolist()) if same else None


def is_pooled(model: nn.Module, call: Reassembly) -> bool:
    """Tell whether a call is of a pooling pyramid, whose maps are resized to the whole image."""
    owner, _, index = call.name.rpartition(".upsample_modules.")
    steps = getattr(model.get_submodule(owner), "_steps", ())
    # an upsampler of one's own may have the CARAFE module inside
    return any(step.pooled and str(step.module) == index.partition(".")[0] for step in steps if step)


def _map_box(call: Reassembly, size: tuple[int, int], pooled: bool) -> tuple[float, float, float, float]:
    """Return the area of the finest output over an input of ``size``; an odd map reaches over its edge."""
    rows, columns = call.kernels.shape[2:]
    if pooled:
        return 0, 0, size[1], size[0]
    # of the larger of the two maps, whose sides are rounded less
    finer = call.features if call.downsamples else call.kernels
    stride = max(1, round(max(size) / max(finer.shape[2:]))) * (call.scale if call.downsamples else 1)
    return 0, 0, stride * columns, stride * rows
