# SPDX-License-Identifier: Apache-2.0
"""The selection of boxes for a batch as a whole, in tensors of sizes that are known beforehand.

What mmdet removes keeps its place with a score of 0.
"""

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from mmcarafe.deploy.ops import nms_scores

# Where no more candidates of a level are kept than this, the anchors with the best scores are taken first.
FEW = 5000


def flat(outputs: Tensor, channels: int) -> Tensor:
    """Turn Tensor[N, A * channels, H, W] into Tensor[N, H * W * A, channels]."""
    return outputs.permute(0, 2, 3, 1).reshape(outputs.shape[0], -1, channels)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Take rows of each image: x is Tensor[N, A, D], index is Tensor[N, K]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k best of Tensor[N, A], A unknown and maybe less; what is missing has score -1, index 0."""
    best, index = F.pad(scores, (0, k), value=-1.0).topk(k)
    return best, index.where(best >= 0, 0)


def _scores(head: nn.Module, logits: Tensor) -> Tensor:
    return logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]


def _decode(head: nn.Module, priors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode boxes, Tensor[N, K, 4], of the rows of a batch; the coders take one list of them."""
    boxes = head.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=size)
    return boxes.view(deltas.shape[0], -1, 4)


def priors_of(head: nn.Module, maps: list[Tensor], **kwargs) -> list[Tensor]:
    """Return the anchors or points of each level, whose maps are given; ``kwargs`` are the generator's."""
    sizes = [x.shape[2:] for x in maps]
    return head.prior_generator.grid_priors(sizes, dtype=maps[0].dtype, device=maps[0].device, **kwargs)


def dense_candidates(
    head: nn.Module, outputs: tuple, size: tuple[int, int], decoded: bool = False
) -> tuple[Tensor, ...]:
    """Return boxes, scores, labels and places of the ``nms_pre`` best pairs of anchor and class by level.

    Args:
        head (nn.Module): the dense head.
        outputs (tuple): for each level logits, deltas and, of some heads, logits of a factor of the scores.
        size (tuple): of the input, (height, width).
        decoded (bool): the outputs are scores and boxes already. Default: False.

    Returns:
        tuple: boxes, Tensor[N, K, 4]; scores, labels, and indices of the anchors among those of all levels,
        Tensor[N, K].
    """
    cfg, k = head.test_cfg, head.test_cfg.nms_pre
    if len(outputs) == 2:
        outputs = (*outputs, [None] * len(outputs[0]))
    found, start = [], 0
    for logits, deltas, factor, priors in zip(*outputs, priors_of(head, outputs[0]), strict=True):
        scores = flat(logits, head.cls_out_channels)
        scores = scores if decoded else _scores(head, scores)  # [N, A, classes]
        classes = scores.shape[-1]
        anchors = None
        if k <= FEW:
            # the best pairs are of the anchors with the best scores: fewer to sort, the same result
            best, anchors = top(scores.amax(-1), k)
            scores = rows(scores, anchors).where(best.unsqueeze(-1) >= 0, -1.0)
        best, pairs = top(scores.flatten(1), k)
        index, labels = pairs // classes, pairs % classes
        index = index if anchors is None else anchors.gather(1, index)
        best = best.where(best > cfg.get("score_thr", 0), 0.0)
        if factor is not None:
            best = best * rows(flat(factor, 1), index).squeeze(-1).sigmoid()
        deltas = rows(flat(deltas, head.bbox_coder.encode_size), index)
        found.append((best, labels, start + index, deltas, priors[index]))
        start = start + priors.shape[0]  # its len() would be a number of the traced size
    scores, labels, places, deltas, priors = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    boxes = deltas if decoded else _decode(head, priors, deltas, size)
    return boxes, _not_small(boxes, scores, cfg), labels, places


def tood_candidates(head: nn.Module, outputs: tuple, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return the same of TOOD, which predicts probabilities and boxes, in units of a level's stride."""
    scores, boxes = outputs
    boxes = [x * stride[0] for x, stride in zip(boxes, head.prior_generator.strides, strict=True)]
    return dense_candidates(head, (scores, boxes), size, decoded=True)


def rpn_candidates(head: nn.Module, outputs: tuple, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and levels of the ``nms_pre`` best anchors of each level (RPN)."""
    found = []
    for level, (logits, deltas, priors) in enumerate(zip(*outputs, priors_of(head, outputs[0]), strict=True)):
        scores = _scores(head, flat(logits, head.cls_out_channels)).squeeze(-1)
        best, index = top(scores, head.test_cfg.nms_pre)
        deltas = rows(flat(deltas, head.bbox_coder.encode_size), index)
        found.append((best.clamp(min=0), torch.full_like(index, level), deltas, priors[index]))
    scores, levels, deltas, priors = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    boxes = _decode(head, priors, deltas, size)
    return boxes, _not_small(boxes, scores, head.test_cfg), levels


def yolox_candidates(head: nn.Module, outputs: tuple, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return boxes, scores and labels of every location (YOLOX: one class each, boxes are not clipped)."""
    logits, deltas, objectness = (
        torch.cat([flat(x, channels) for x in maps], 1)
        for maps, channels in zip(outputs, (head.cls_out_channels, 4, 1), strict=True)
    )
    boxes = head._bbox_decode(torch.cat(priors_of(head, outputs[0], with_stride=True)), deltas)
    best, labels = logits.sigmoid().max(-1)
    scores = best * objectness.squeeze(-1).sigmoid()
    return boxes, scores.where(scores >= head.test_cfg.score_thr, 0.0), labels


def _not_small(boxes: Tensor, scores: Tensor, cfg: ConfigDict) -> Tensor:
    """Return scores, 0 where a side is not longer than ``min_bbox_size``."""
    least = cfg.get("min_bbox_size", -1)
    if least < 0:
        return scores
    sides = boxes[..., 2:] - boxes[..., :2]
    return scores.where((sides > least).all(-1), 0.0)


def rois_of(boxes: Tensor) -> Tensor:
    """Turn Tensor[N, D, 4] into RoIs, Tensor[N * D, 5], with the number of the image in front."""
    image = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device).view(-1, 1, 1)
    return torch.cat([image.expand(-1, boxes.shape[1], -1), boxes], -1).flatten(0, 1)


def roi_candidates(
    head: nn.Module,
    score_thr: float,
    found: tuple[Tensor, Tensor],
    rois: Tensor,
    objectness: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of every pair of proposal and class.

    Args:
        head (nn.Module): the box head.
        score_thr (float): of a class's score.
        found (tuple): logits and deltas that the head predicts for the RoIs.
        rois (Tensor[N * D, 5]): of the proposals, with the number of the image in front.
        objectness (Tensor[N, D]): 0 where there is no proposal.
        size (tuple): of the input, (height, width).
    """
    batch, (logits, deltas) = objectness.shape[0], found
    scores = logits.softmax(-1)[:, :-1]
    classes = scores.shape[-1]
    scores = scores.view(batch, -1, classes).where(objectness.unsqueeze(-1) > 0, 0.0)
    scores = scores.where(scores > score_thr, 0.0)
    of_boxes = 1 if head.reg_class_agnostic else classes
    priors = rois[:, 1:].repeat_interleave(of_boxes, dim=0)
    boxes = head.bbox_coder.decode(priors, deltas.view(-1, 4), max_shape=size)
    boxes = boxes.view(batch, -1, of_boxes, 4).expand(-1, -1, classes, -1).flatten(1, 2)
    labels = torch.arange(classes, device=scores.device).expand_as(scores).flatten(1)
    return boxes, scores.flatten(1), labels


def best_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, *others: Tensor, cfg: ConfigDict
) -> tuple[Tensor, ...]:
    """Suppress overlapping boxes of the same label, and keep the ``max_per_img`` with the best scores.

    ``others``, Tensor[N, K], follow their boxes; where there are fewer boxes, they are those of the first.
    """
    most = cfg.get("max_per_img", 300)  # YOLOX's configs have no limit
    apart = boxes
    if not cfg.nms.get("class_agnostic", False):
        # boxes of different labels are moved apart, as mmcv's batched_nms does
        most_right = boxes.where(scores.unsqueeze(-1) > 0, 0.0).amax((1, 2), keepdim=True)[..., 0]
        apart = boxes + (labels * (most_right + 1)).unsqueeze(-1)
    kept = nms_scores(apart, scores, cfg.nms.iou_threshold, most)
    best, index = top(kept, most)
    found = best > 0
    boxes = rows(boxes, index).where(found.unsqueeze(-1), 0.0)
    labels = labels.gather(1, index).where(found, -1)
    return boxes, best.clamp(min=0), labels, *(other.gather(1, index) for other in others)
