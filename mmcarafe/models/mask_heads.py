# SPDX-License-Identifier: Apache-2.0
"""mmdet's mask heads, able to select any upsampler; registered under mmdet's names."""

from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor

from mmcarafe.layers import UpsampleConfigError
from mmcarafe.layers.build_upsample import as_dict
from mmcarafe.selecting.select_upsample import Step, by_name, init_weights


class SelectMaskUpsample:
    """Mixin in front of an mmdet mask head with FCNMaskHead's constructor."""

    replaces = "the deconvolution in front of the logits"
    guide = ""
    host_types = ("deconv", "nearest", "bilinear", "carafe")

    def __init__(self, *args, **kwargs) -> None:
        args, kwargs = by_name(super().__init__, args, kwargs)
        cfg = as_dict(kwargs.pop("upsample_cfg", None) or dict(type="deconv", scale_factor=2))
        if "type" not in cfg:
            raise UpsampleConfigError(f"a mask head's upsample_cfg needs a type (or type=None), got {cfg}")
        kind = cfg.pop("type")
        scale_factor = cfg.pop("scale_factor", 2)
        # mmdet builds these itself, and draws their random weights in its own order
        if kind in (None, "deconv", "nearest", "bilinear") and not cfg:
            super().__init__(*args, upsample_cfg=dict(type=kind, scale_factor=scale_factor), **kwargs)
            return
        super().__init__(*args, upsample_cfg=dict(type=None, scale_factor=scale_factor), **kwargs)
        # the parent's forward puts a ReLU behind the method it knows as deconv
        self.upsample_method = kind
        self.upsample_cfg = dict(type=kind, **cfg)
        step = Step(0, self.conv_logits.in_channels, scale_factor)
        self.upsample = step.build(dict(type=kind, **cfg), type(self).__name__, MODELS)

    def init_weights(self) -> None:
        """Initialise as mmdet does, and the upsampler as it says itself."""
        init_weights(self, super().init_weights, [self.upsample])

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Paste masks as mmdet does; those of boxes beside the image are empty.

        On a CPU mmdet ends in an error there, and detectors with queries do not clip their boxes. It rescales
        ``bboxes``, Tensor[N, 4], in place.
        """
        scale = bboxes.new_tensor(img_meta["scale_factor"][:2])
        size = bboxes.new_tensor(img_meta["ori_shape"][1::-1]) * scale
        beside = ((bboxes[:, 2:] < 0) | (bboxes[:, :2] > size)).any(1)
        given = bboxes[beside] / scale.repeat(2) if rescale else bboxes[beside]
        bboxes[beside] = 0
        masks = super()._predict_by_feat_single(
            mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
        )
        bboxes[beside] = given
        masks[beside] = 0
        return masks


@MODELS.register_module(force=True)
class FCNMaskHead(SelectMaskUpsample, mask_heads.FCNMaskHead):
    """mmdet's FCNMaskHead whose ``upsample_cfg`` may name any upsampler, CARAFE on the CPU included.

    Args:
        upsample_cfg (dict): ``type``, ``scale_factor`` (default 2) and the type's own arguments.
            Default: mmdet's deconvolution, ``dict(type="deconv", scale_factor=2)``.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.

    Example:
        >>> import torch
        >>> from mmcarafe.models import FCNMaskHead
        >>> head = FCNMaskHead(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3,
        ...                    upsample_cfg=dict(type="CARAFE"))
        >>> head(torch.rand(2, 8, 14, 14)).shape
        torch.Size([2, 3, 28, 28])
    """


@MODELS.register_module(force=True)
class HTCMaskHead(SelectMaskUpsample, mask_heads.HTCMaskHead):
    """mmdet's HTCMaskHead with the ``upsample_cfg`` of :class:`FCNMaskHead`."""


@MODELS.register_module(force=True)
class SCNetMaskHead(SelectMaskUpsample, mask_heads.SCNetMaskHead):
    """mmdet's SCNetMaskHead with the ``upsample_cfg`` of :class:`FCNMaskHead`."""


@MODELS.register_module(force=True)
class DynamicMaskHead(SelectMaskUpsample, mask_heads.DynamicMaskHead):
    """mmdet's DynamicMaskHead with the ``upsample_cfg`` of :class:`FCNMaskHead`."""
