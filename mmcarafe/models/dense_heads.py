# SPDX-License-Identifier: Apache-2.0
"""mmdet's one-stage mask branches, able to select any upsampler; registered under mmdet's names."""

from collections.abc import Iterator

from mmdet.models import dense_heads
from mmdet.models.dense_heads import condinst_head, solov2_head
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmcarafe.layers import UpsampleConfigError
from mmcarafe.layers.build_upsample import as_dict
from mmcarafe.selecting.replace_upsample import Place, ReplaceUpsample
from mmcarafe.selecting.select_upsample import InitUpsamplers, SelectUpsample, Step


class SOLOV2MaskFeatModule(SelectUpsample, solov2_head.MaskFeatModule):
    """The mask features of :class:`SOLOV2Head`."""

    component = "SOLOV2Head"

    def upsample_steps(self) -> list[Step | None]:
        """State i steps for level i, to the size of level 0."""
        steps = sum(range(self.start_level, self.end_level + 1))
        return [Step(i, self.feat_channels, 2) for i in range(steps)]


class CondInstMaskFeatModule(InitUpsamplers, condinst_head.MaskFeatModule):
    """The mask features of :class:`CondInstMaskHead`.

    Each upsampler follows the convolution of its level, whose output then has the target's size, so that the
    parent's ``aligned_bilinear`` has nothing left to do.
    """

    def __init__(self, *args, upsample_cfg: dict, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if len(self.convs_all_levels) < 2:
            raise UpsampleConfigError(
                f"mask_feature_head: upsample_cfg {upsample_cfg} has no effect on one level"
            )
        for i, level in enumerate(self.convs_all_levels):
            if i > 0:
                step = Step(i - 1, self.feat_channels, 2**i)
                level.add_module(
                    "upsample", step.build(upsample_cfg, "the mask_feature_head of CondInst", MODELS)
                )

    @property
    def upsample_modules(self) -> list[nn.Module]:
        """List the upsamplers of all levels but the first."""
        return [level.upsample for level in self.convs_all_levels[1:]]

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        """Run mmdet's forward; a ValueError names two levels that do not differ by a power of 2."""
        finest, *others = (tuple(level.shape[2:]) for level in x[self.start_level : self.end_level + 1])
        for i, source in enumerate(others, 1):
            if finest != tuple(2**i * size for size in source):
                raise ValueError(
                    f"CondInst's mask features: a level of {source} is upsampled by {2**i}, but the finest "
                    f"level is {finest}; pad images to a multiple of the coarsest level's stride"
                )
        return super().forward(x)


class SelectMaskFeatures:
    """Mixin in front of a head that builds its ``mask_feature_head`` itself."""

    guide = ""
    upsampling_part = "mask_feature_head"
    mask_features: type[nn.Module]

    def __init__(self, *args, **kwargs) -> None:
        if args and "mask_feature_head" not in kwargs:  # CondInst's first argument
            args, kwargs = args[1:], {**kwargs, "mask_feature_head": args[0]}
        theirs = ConfigDict(kwargs.pop("mask_feature_head"))
        upsample_cfg = as_dict(theirs.pop("upsample_cfg", None) or {})
        super().__init__(*args, mask_feature_head=theirs, **kwargs)
        if upsample_cfg.get("type") is not None:
            self.mask_feature_head = self.mask_features(**theirs, upsample_cfg=upsample_cfg)
        elif set(upsample_cfg) - {"type"}:
            raise UpsampleConfigError(
                f"mask_feature_head: expected an upsample_cfg with a type, got {upsample_cfg}"
            )


@MODELS.register_module(force=True)
class SOLOV2Head(SelectMaskFeatures, dense_heads.SOLOV2Head):
    """mmdet's SOLOV2Head whose ``mask_feature_head`` takes an ``upsample_cfg``.

    Args:
        mask_feature_head (dict): mmdet's, and ``upsample_cfg``.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    replaces = "`mask_feature_head`: the bilinear step behind each convolution of a level"
    mask_features = SOLOV2MaskFeatModule


@MODELS.register_module(force=True)
class CondInstMaskHead(SelectMaskFeatures, dense_heads.CondInstMaskHead):
    """mmdet's CondInstMaskHead whose ``mask_feature_head`` takes an ``upsample_cfg``.

    Args:
        mask_feature_head (dict): mmdet's, and ``upsample_cfg``.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """

    replaces = "`mask_feature_head`: aligned bilinear steps by 2 and 4 to the finest level"
    mask_features = CondInstMaskFeatModule


@MODELS.register_module(force=True)
class BoxInstMaskHead(SelectMaskFeatures, dense_heads.BoxInstMaskHead):
    """mmdet's BoxInstMaskHead with the ``upsample_cfg`` of :class:`CondInstMaskHead`."""

    replaces = CondInstMaskHead.replaces
    mask_features = CondInstMaskFeatModule


class SelectMaskFusion(SelectUpsample):
    """Mixin: steps from the coarser levels of the mask features to the finest."""

    replaces = "bilinear steps by 2 and 4 of the mask features"
    guide = "the finest level"

    def upsample_steps(self) -> list[Step | None]:
        """State one step for each level but the finest."""
        return [Step(i - 1, self.in_channels, 2**i, 0) for i in range(1, self.mask_head.num_levels)]


@MODELS.register_module(force=True)
class RTMDetInsHead(SelectMaskFusion, dense_heads.RTMDetInsHead):
    """mmdet's RTMDetInsHead with an ``upsample_cfg`` for its mask features.

    Args:
        upsample_cfg (dict, optional): ``type`` and its arguments. Default: mmdet's interpolation.

    Raises:
        UpsampleConfigError: the type is not known or does not take the arguments.
    """


@MODELS.register_module(force=True)
class RTMDetInsSepBNHead(SelectMaskFusion, dense_heads.RTMDetInsSepBNHead):
    """mmdet's RTMDetInsSepBNHead with the ``upsample_cfg`` of :class:`RTMDetInsHead`."""


@MODELS.register_module(force=True)
class YOLACTProtonet(ReplaceUpsample, dense_heads.YOLACTProtonet):
    """YOLACT's prototypes with the ``upsample_cfg`` of :class:`mmcarafe.models.FPN`."""

    replaces = "the bilinear step between its convolutions, with ReLU behind it as in mmdet"

    def places(self) -> Iterator[Place]:
        """Yield each interpolation; behind every layer of ``protonet`` is an activation."""
        channels = self.in_channels
        for i, (out_channels, kernel_size) in enumerate(
            zip(self.proto_channels, self.proto_kernel_sizes, strict=True)
        ):
            if out_channels is None:
                yield Place(self.protonet, str(2 * i), channels, -kernel_size)
            channels = out_channels or channels
