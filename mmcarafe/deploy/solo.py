# SPDX-License-Identifier: Apache-2.0
"""SOLOv2 with post-processing of fixed sizes: masks without boxes, whose overlaps lower scores."""

import torch
from mmdet.models import SOLOV2Head
from torch import Tensor, nn
from torch.nn import functional as F

from mmcarafe.deploy.boxes import flat, rows, top
from mmcarafe.deploy.checks import check_limits, check_selection
from mmcarafe.deploy.network import Preprocessed
from mmcarafe.errors import UnsupportedError

KERNELS = ("gaussian", "linear")
"""Name what Matrix NMS may lower scores by."""


class SOLOv2(Preprocessed):
    """SOLOv2 with its selection of masks, by Matrix NMS (Wang et al., arXiv:2003.10152, section 3.3).

    mmdet cuts candidates to ``nms_pre`` after it has weighed their scores with their masks; here as many are
    taken by score alone, because each brings a mask along. With ``nms_pre`` or fewer above ``score_thr``,
    that is the same.

    Args:
        detector (nn.Module): of mmdet, with a SOLOV2Head whose kernels are of 1 x 1 pixels.

    Raises:
        UnsupportedError: another kind of head.
    """

    outputs = ("boxes", "scores", "labels", "mask_maps")

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        head = self.head = detector.mask_head
        check_selection(head, SOLOV2Head, "predict", "predict_by_feat", "_predict_by_feat_single")
        if head.dynamic_conv_size != 1:
            raise UnsupportedError(
                f"SOLOv2 is exported with dynamic_conv_size=1, not {head.dynamic_conv_size}"
            )
        check_limits(head, "nms_pre", "max_per_img")
        if head.test_cfg.kernel not in KERNELS:
            raise UnsupportedError(
                f"test_cfg.kernel: expected {' or '.join(KERNELS)}, got {head.test_cfg.kernel!r}"
            )
        areas = [torch.full((n * n,), float(s)) for n, s in zip(head.num_grids, head.strides, strict=True)]
        self.register_buffer("least", torch.cat(areas), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect in images, Tensor[N, C, H, W], BGR or grey from 0 to 255.

        Returns:
            tuple: boxes, Tensor[N, D, 4], around the masks, in pixels of the input in steps of ``s``; scores
            and labels, Tensor[N, D]; mask_maps, Tensor[N, D, H / s, W / s], s the stride of the masks:
            probabilities minus the threshold, so that a map, resized bilinearly to the input, is positive
            inside its object. Where there are fewer than D objects, all are 0, and labels -1.
        """
        cfg = self.head.test_cfg
        kernels, logits, features = self.head(self.levels(image))
        scores, labels, places = self._candidates(logits)
        kernels = rows(torch.cat([flat(x, self.head.kernel_out_channels) for x in kernels], 1), places)
        maps = (kernels @ features.flatten(2)).sigmoid()  # [N, K, h * w]
        inside = (maps > cfg.mask_thr).to(maps.dtype)
        area = inside.sum(-1)
        maskness = (maps * inside).sum(-1) / area.clamp(min=1)
        scores = (scores * maskness).where(area > self.least[places], 0.0)
        scores, order = scores.topk(cfg.nms_pre)
        scores = scores * decay(
            rows(inside, order), area.gather(1, order), labels.gather(1, order), cfg.kernel, cfg.sigma
        )
        scores = scores.where(scores >= cfg.get("filter_thr", 0), 0.0)
        scores, best = top(scores, cfg.max_per_img)
        scores, order = scores.clamp(min=0), order.gather(1, best)
        found = scores > 0
        labels = labels.gather(1, order).where(found, -1)
        maps = (rows(maps, order) - cfg.mask_thr).where(found.unsqueeze(-1), 0.0)
        maps = maps.unflatten(-1, features.shape[2:])
        return boxes_around(maps > 0, self.head.mask_stride), scores, labels, maps

    def _candidates(self, logits: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, labels and places of the ``nms_pre`` best pairs of place and class, Tensor[N, K]."""
        peaks = []
        for x in logits:
            x = x.sigmoid()
            highest = F.max_pool2d(x, 2, stride=1, padding=1)[:, :, :-1, :-1]
            peaks.append(flat(x.where(x == highest, 0.0), x.shape[1]))
        scores = torch.cat(peaks, 1)
        best, pairs = top(scores.flatten(1), self.head.test_cfg.nms_pre)
        best = best.where(best > self.head.test_cfg.score_thr, 0.0)
        return best, pairs % scores.shape[2], pairs // scores.shape[2]


def decay(inside: Tensor, area: Tensor, labels: Tensor, kernel: str, sigma: float) -> Tensor:
    """Return by what Matrix NMS lowers scores, Tensor[N, K].

    Args:
        inside (Tensor[N, K, P]): 1 where a pixel is of the mask, else 0; masks in falling order of scores.
        area (Tensor[N, K]): of the masks, in pixels.
        labels (Tensor[N, K]): masks of other labels do not matter.
        kernel (str): one of KERNELS.
        sigma (float): of the former.
    """
    shared = inside @ inside.transpose(1, 2)
    union = area.unsqueeze(1) + area.unsqueeze(2) - shared
    same = labels.unsqueeze(1) == labels.unsqueeze(2)
    iou = (shared / union.clamp(min=1)).where(same, 0.0).triu(1)  # of each mask, rows, and those after it
    hidden = iou.amax(1).unsqueeze(2)  # how much of each mask is hidden itself
    if kernel == "gaussian":
        return (sigma * (hidden**2 - iou**2)).exp().amin(1)
    return ((1 - iou) / (1 - hidden)).amin(1)


def boxes_around(inside: Tensor, stride: int) -> Tensor:
    """Return boxes, Tensor[N, D, 4], around masks, bool Tensor[N, D, h, w] in cells of ``stride`` pixels."""
    sides = []
    for seen in (inside.any(2), inside.any(3)):  # columns, rows
        cells = torch.arange(seen.shape[2], device=inside.device)
        first = cells.where(seen, seen.shape[2]).amin(2)
        end = (cells + 1).where(seen, 0).amax(2)
        sides.append((first.minimum(end), end))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], -1).to(torch.get_default_dtype()) * stride
