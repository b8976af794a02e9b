# SPDX-License-Identifier: Apache-2.0
"""Steps of detectors as ops of their own, because torch.export cannot look into them.

Suppression of overlapping boxes and RoIAlign from several levels have sizes inside that depend on values;
mmcv's deformable convolution is a compiled function.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from mmcv.ops import nms, roi_align
from mmcv.ops.deform_conv import DeformConv2d, DeformConv2dFunction
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.utils import _pair

# where mmcv and mmdet look mmcv's function up
_DEFORM_CONV, _TOOD = "mmcv.ops.deform_conv", "mmdet.models.dense_heads.tood_head"
_SOLO = "mmdet.models.dense_heads.solov2_head"


@torch.library.custom_op("mmcarafe::nms_scores", mutates_args=())
def nms_scores(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Return scores, Tensor[N, K], of the first ``most`` boxes, Tensor[N, K, 4], that survive; else 0."""
    kept = torch.zeros_like(scores)
    for image in range(len(boxes)):
        (valid,) = torch.where(scores[image] > 0)
        _, index = nms(boxes[image, valid], scores[image, valid], iou_threshold)
        index = valid[index[:most]]
        kept[image, index] = scores[image, index]
    return kept


@nms_scores.register_fake
def _(boxes, scores, iou_threshold, most):
    return torch.empty_like(scores)


# schemas with lists are written out: torch 2.6 cannot read them off the annotations
@torch.library.custom_op(
    "mmcarafe::roi_align_levels",
    mutates_args=(),
    schema="(Tensor[] maps, Tensor rois, Tensor levels, SymInt[] size, float[] scales, "
    "SymInt sampling_ratio, bool aligned) -> Tensor",
)
def _roi_align_levels(
    maps: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    size: list[int],
    scales: list[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Align each RoI, Tensor[K, 5], on the map of its level: Tensor[K, C, *size]."""
    out = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], *size)
    for i, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        (index,) = torch.where(levels == i)
        out[index] = roi_align(x, rois[index], tuple(size), scale, sampling_ratio, "avg", aligned)
    return out


@_roi_align_levels.register_fake
def _(maps, rois, levels, size, scales, sampling_ratio, aligned):
    return maps[0].new_empty(rois.shape[0], maps[0].shape[1], *size)


@torch.library.custom_op(
    "mmcarafe::deform_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor offset, Tensor weight, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups, SymInt deform_groups) -> Tensor",
)
def _deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    height, width = offset.shape[2:]
    # mmcv's function takes no map that is smaller than the kernel; outside a map there are zeros
    pad = [0, max(weight.shape[3] - x.shape[3], 0), 0, max(weight.shape[2] - x.shape[2], 0)]
    x, offset = (functional.pad(t, pad).contiguous() if any(pad) else t for t in (x, offset))
    out = DeformConv2dFunction.apply(
        x, offset, weight, tuple(stride), tuple(padding), tuple(dilation), groups, deform_groups
    )
    return out[:, :, :height, :width].contiguous()


@_deform_conv2d.register_fake
def _(x, offset, weight, stride, padding, dilation, groups, deform_groups):
    return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])


def _deform_conv2d_as_op(
    x, offset, weight, stride=1, padding=0, dilation=1, groups=1, deform_groups=1, *unused
):
    """Call the op in place of mmcv's function."""
    pairs = [list(_pair(value)) for value in (stride, padding, dilation)]
    return _deform_conv2d(x, offset, weight, *pairs, groups, deform_groups)


def _deform_forward(self: nn.Module, x: Tensor, offset: Tensor) -> Tensor:
    """Call the op in place of mmcv's layer, which looks at the size of its map."""
    settings = self.stride, self.padding, self.dilation, self.groups, self.deform_groups
    return _deform_conv2d_as_op(x, offset, self.weight, *settings)


def _tood_forward(tood: ModuleType) -> Callable:
    """Return a forward in place of TOODHead's, whose loop over the batch would fix its size."""
    original = tood.TOODHead.forward

    def forward(self: nn.Module, feats: tuple[Tensor, ...]) -> tuple:
        generator, batch = self.prior_generator, feats[0].shape[0]
        of_one = generator.single_level_grid_priors
        generator.single_level_grid_priors = lambda *args, **kwargs: of_one(*args, **kwargs).repeat(batch, 1)
        tood.range = lambda _: (0,)  # the anchors are those of a batch already
        try:
            return original(self, feats)
        finally:
            del tood.range, generator.single_level_grid_priors

    return forward


def _coordinates(size: torch.Size, device: torch.device) -> Tensor:
    """Return coordinates from -1 to 1, Tensor[N, 2, H, W], in place of SOLO's, which would fix the size."""
    batch, _, height, width = size
    across, down = (2 * torch.arange(n, device=device) / torch.sym_max(n - 1, 1) - 1 for n in (width, height))
    x, y = across.expand(height, -1), down.unsqueeze(1).expand(-1, width)
    return torch.stack([x, y]).expand(batch, -1, -1, -1)


def _extract_as_op(self: nn.Module, maps: tuple[Tensor, ...], rois: Tensor, roi_scale_factor=None):
    """Call the op in place of mmdet's extractor."""
    layer = self.roi_layers[0]
    if roi_scale_factor is not None or layer.pool_mode != "avg":
        raise ValueError("RoIs are exported with average pooling and without a roi_scale_factor")
    return _roi_align_levels(
        list(maps),
        rois,
        self.map_roi_levels(rois, len(maps)),
        list(layer.output_size),
        [layer.spatial_scale for layer in self.roi_layers],
        layer.sampling_ratio,
        layer.aligned,
    )


def _upsample_by_scale(self: nn.Module, x: Tensor) -> Tensor:
    """Interpolate in place of mmsegmentation's module, which would fix the traced size for all sizes."""
    scale = None if self.size else self.scale_factor
    return functional.interpolate(x, self.size, scale, self.mode, self.align_corners)


@contextmanager
def exportable() -> Iterator[None]:
    """Let models use these ops, which torch.export can put into a graph, while it is active."""
    places = [
        (importlib.import_module(_DEFORM_CONV), "deform_conv2d", _deform_conv2d_as_op),
        (DeformConv2d, "forward", _deform_forward),
    ]
    if mmdet := sys.modules.get("mmdet.models"):  # not imported: the model is not mmdet's
        tood, solo = (importlib.import_module(name) for name in (_TOOD, _SOLO))
        places += [
            (tood, "deform_conv2d", _deform_conv2d_as_op),
            (tood.TOODHead, "forward", _tood_forward(tood)),
            (mmdet.SingleRoIExtractor, "forward", _extract_as_op),
            (solo, "generate_coordinate", _coordinates),
        ]
    if mmseg := sys.modules.get("mmseg.models.utils"):
        places.append((mmseg.Upsample, "forward", _upsample_by_scale))
    originals = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, replacement in places:
            setattr(owner, name, replacement)
        yield
    finally:
        for (owner, name, _), original in zip(places, originals, strict=True):
            setattr(owner, name, original)
