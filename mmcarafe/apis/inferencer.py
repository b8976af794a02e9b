# SPDX-License-Identifier: Apache-2.0
"""The detector of the demo, and the names of the classes that its labels stand for."""

from mmdet.apis import DetInferencer
from mmdet.models import RPN
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import nn

from mmcarafe.apis.class_names import choose_classes
from mmcarafe.apis.inferencing import Inferencing, check_names
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.deploy.network import predicting
from mmcarafe.errors import InputError


class Inferencer(Inferencing, DetInferencer):
    """mmdet's inferencer, with weights that fit and the classes they were trained for.

    mmdet takes the names from the checkpoint whatever they are, and COCO's where it holds none.
    """

    visualizer_type = "DetLocalVisualizer"

    def __init__(self, config: str, checkpoint: str, device: str):
        super().__init__(config, checkpoint, device, show_progress=False)

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        checkpoint, state = read_state_dict(weights)
        model = build_model(cfg)
        check_instances(model, self.files[0])
        check_state(model, weights, state)
        classes = choose_classes(cfg, checkpoint, *self.files)
        check_count(model, classes, *self.files)
        meta = dict(dataset_meta=dict(classes=classes))
        self._load_weights_to_model(model, dict(state_dict=state, meta=meta), cfg)
        palette = model.dataset_meta["palette"]
        if isinstance(palette, list) and len(palette) < len(classes):  # a data set's own, for other classes
            model.dataset_meta["palette"] = "random"
        return model.to(device)

    def predict(self, images: list[dict]) -> list[DetDataSample]:
        """Return what is found in a batch of loaded images, with the names of the classes."""
        options = dict(return_datasamples=True, no_save_vis=True)
        found = self(images, batch_size=len(images), **options)["predictions"]
        for sample in found:
            sample.classes = self.model.dataset_meta["classes"]
        return found


def check_instances(model: nn.Module, config: str) -> None:
    """Raise InputError where the model gives a panoptic segmentation or proposals, and no objects."""
    model = predicting(model)
    if isinstance(model, RPN):
        raise InputError(
            f"config {config} builds an RPN, whose proposals have no classes; the demo needs objects"
        )
    fusion = getattr(model, "panoptic_fusion_head", None)  # Mask2Former has one for objects too
    if fusion is not None and not (fusion.test_cfg or {}).get("instance_on"):
        raise InputError(f"config {config} builds a panoptic model; the demo needs one that gives objects")


def check_count(model: nn.Module, classes: tuple[str, ...], config: str, path: str) -> None:
    """Raise InputError unless each label of the model has a name."""
    model = predicting(model)
    part = getattr(model, "roi_head", model)
    heads = [getattr(part, name, None) for name in ("bbox_head", "mask_head", "panoptic_head")]
    head = next((head for head in heads if head is not None), None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    count = getattr(head, "num_classes", len(classes))
    check_names(count, classes, config, path)
