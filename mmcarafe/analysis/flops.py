# SPDX-License-Identifier: Apache-2.0
"""Parameters and floating-point operations of a model, by component; docs/flops.md says what counts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe.deploy.network import image_channels, predicting
from mmcarafe.errors import InputError
from mmcarafe.layers.flops import bilinear_flops, carafe_bias_flops, carafe_flops
from mmcarafe.layers.upsampler import Reassembler
from mmcarafe.utils.classes import is_a

CARAFES = "of these, CARAFE"
OUTSIDE = "outside of these"
PROPOSAL_COUNT = 2  # run, and multiplied

OF_BOXES = ("bbox_head", "bbox_roi_extractor", "shared_head", "semantic_roi_extractor")
OF_MASKS = (
    "mask_head", "mask_iou_head", "mask_roi_extractor", "grid_head", "grid_roi_extractor", "feat_relay_head"
)  # fmt: skip
"""Parts of a RoI head that get all proposals, or what is left of them, as do all while masks are made."""


@dataclass
class Cost:
    """Learnt and frozen parameters, and operations."""

    parameters: int = 0
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.flops + other.flops)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters - other.parameters, self.flops - other.flops)


def components(model: nn.Module) -> dict[str, nn.Module]:
    """Return a model's parts by name; those of a RoI head one by one."""
    parts = {}
    for name, module in model.named_children():
        if name == "roi_head":
            parts |= {f"{name}.{child}": part for child, part in module.named_children()}
        elif name != "data_preprocessor":
            parts[name] = module
    return parts


class Meter:
    """Counts what runs in each component, whether it is called or a method of it is, as mmdet does."""

    def __init__(self, parts: dict[str, nn.Module], rois: "Rois"):
        self.rois = rois
        points = {torch.ops.aten.grid_sampler_2d: self._count_points}
        self.counter = FlopCounterMode(display=False, custom_mapping=points)
        self.flops, self.carafe = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)
        self.measured = 0  # before multiplied
        self.output: dict[str, object] = {}
        self.running: set[str] = set()
        for name, part in parts.items():
            # the stages of a cascade are called one by one
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                for method in ("forward", "predict"):
                    if hasattr(module, method):
                        setattr(module, method, self._measured(name, getattr(module, method)))
            for layer in part.modules():
                if isinstance(layer, Reassembler):
                    layer.register_forward_hook(partial(self._count_carafe, name), with_kwargs=True)

    def _measured(self, name: str, method: Callable) -> Callable:
        def measured(*args, **kwargs):
            if name in self.running:  # one method of a component calls another
                return method(*args, **kwargs)
            before = self.counter.get_total_flops()
            self.running.add(name)
            self.output[name] = method(*args, **kwargs)
            self.running.remove(name)
            flops = self.counter.get_total_flops() - before
            self.measured += flops
            self.flops[name] += flops * self.rois.factor(name)
            return self.output[name]

        return measured

    def _count_points(self, *args, **kwargs) -> int:
        # outside of the components masks are pasted into the image, as little of the network as NMS is
        return bilinear_flops(*args, **kwargs) if self.running else 0

    def _count_carafe(
        self, name: str, layer: Reassembler, args: tuple, kwargs: dict, output: torch.Tensor
    ) -> None:
        source, target = (t[:, 0].numel() for t in (args[0] if args else kwargs["x"], output))
        more = self.rois.factor(name)
        self.flops[name] += carafe_bias_flops(layer, source, target) * more
        self.carafe[name] += carafe_flops(layer, source, target) * more


class Rois:
    """Tell how many RoIs the parts of a RoI head get from an image, by the settings for tests."""

    def __init__(self, model: nn.Module):
        # queries are no RoIs
        self.counted = getattr(model, "with_rpn", False) and model.test_cfg.get("rpn") is not None
        self.masking = False
        if self.counted:
            self.boxes, self.masks = model.test_cfg.rpn.max_per_img, model.test_cfg.rcnn.max_per_img
            if make_masks := getattr(model.roi_head, "_mask_forward", None):
                model.roi_head._mask_forward = self._noted(make_masks)

    def _noted(self, make_masks: Callable) -> Callable:
        def noted(*args, **kwargs):
            self.masking = True
            output = make_masks(*args, **kwargs)
            self.masking = False
            return output

        return noted

    def factor(self, part: str) -> float:
        """Return what the operations of a part, which got a few RoIs, are multiplied by."""
        name = part.removeprefix("roi_head.")
        if not self.counted or name not in OF_BOXES + OF_MASKS:
            return 1
        return (self.masks if self.masking or name in OF_MASKS else self.boxes) / PROPOSAL_COUNT


def propose(model: nn.Module, shape: list[int]) -> None:
    """Let the RPN propose PROPOSAL_COUNT boxes whatever it computes."""
    height, width = shape
    boxes = torch.tensor([[0.0, 0.0, width / 2, height / 2]] * PROPOSAL_COUNT)
    scores, labels = torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.long)
    proposals = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    compute = model.rpn_head.predict
    model.rpn_head.predict = lambda *args, **kwargs: [compute(*args, **kwargs) and proposals]
    model.rpn_head.predict_by_feat = lambda *args, **kwargs: [proposals]


def mode_of(model: nn.Module) -> str:
    """Return the mode of the forward pass: the raw one, unless that would compute losses."""
    if is_a(model, "mmdet", "SingleStageInstanceSegmentor") and model.with_bbox:
        model.bbox_head.test_cfg.score_thr = 1.1  # masks of single objects are in no raw pass
        return "predict"
    return "predict" if is_a(getattr(model, "roi_head", None), "mmdet", "SparseRoIHead") else "tensor"


def count(model: nn.Module, shape: list[int]) -> dict[str, Cost]:
    """Count each component's cost for one image; InputError where the CPU cannot run the model on it."""
    model = predicting(model).requires_grad_(False)
    for parameter in model.parameters():  # random ones may give boxes that are not finite
        parameter.zero_()
    parts, rois, mode = components(model), Rois(model), mode_of(model)
    if rois.counted:
        propose(model, shape)
    size = tuple(shape)
    sample = BaseDataElement(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
    image = torch.zeros(image_channels(model), *shape)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    meter = Meter(parts, rois)
    with meter.counter:
        try:
            model(**batch, mode=mode)
        # TypeError: a raw pass of mmsegmentation's lacks what some heads ask for
        except (RuntimeError, ImportError, TypeError) as error:
            raise InputError(
                f"{type(model).__name__} does not run on the CPU with an image of {shape[0]} x {shape[1]}: "
                f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}"
            ) from error
        for name, part in parts.items():  # mmdet's raw forward pass leaves the semantic head out
            if name.endswith("semantic_head") and name not in meter.output:
                part.forward(meter.output["neck"])
    return costs_of(model, parts, meter)


def costs_of(model: nn.Module, parts: dict, meter: Meter) -> dict[str, Cost]:
    """Return the cost of each component, of what is in none, and of the CARAFE modules among them."""
    costs, carafe = {}, Cost()
    for name, part in parts.items():
        costs[name] = Cost(parameters_of(part), round(meter.flops[name]))
        layers = [m for m in part.modules() if isinstance(m, Reassembler)]
        carafe += Cost(sum(map(parameters_of, layers)), round(meter.carafe[name]))
    outside = Cost(parameters_of(model), meter.counter.get_total_flops())
    outside -= Cost(total(costs).parameters, meter.measured)
    if outside != Cost():
        costs[OUTSIDE] = outside
    return costs | ({CARAFES: carafe} if carafe.parameters else {})


def parameters_of(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def total(costs: dict[str, Cost]) -> Cost:
    """Add the costs of all components."""
    return sum((cost for name, cost in costs.items() if name != CARAFES), Cost())
