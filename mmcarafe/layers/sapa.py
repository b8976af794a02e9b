# SPDX-License-Identifier: Apache-2.0
"""The SAPA module: weighs the neighbours of a source pixel by their likeness to a guide."""

import torch
from torch import Tensor, nn

from mmcarafe.ops import carafe

from .normalize import is_channels_last, normalize_kernels
from .optional_mmengine import initialize, register
from .upsampler import Upsampler

PUBLISHED = (
    dict(type="TruncNormal", layer="Linear", std=0.02, bias=0),
    dict(type="Normal", layer="Conv2d", std=0.02, bias=0),
    dict(type="Constant", layer=["LayerNorm", "GroupNorm"], val=1, bias=0),
)


@register
class SAPA(Upsampler):
    """Similarity-aware point affiliation, SAPA-B (Lu et al., NeurIPS 2022, arXiv 2209.12866). Guided.

    The reassembly kernel of an output pixel is the softmax, over the k x k source pixels, of the inner
    products of the guide's embedding there with the input's; outside the map a product counts as 0. These
    products are the operator's gradient of its masks, and are computed by it. Parameters are named, and
    shaped, as in the two published layouts.

    Args:
        channels (int): C, channels of the input and of the output.
        guide_channels (int): channels of the guide.
        scale_factor (int): how many times larger the output is. Default: 2.
        up_kernel (int): side of the reassembly kernel, odd. Default: 5.
        embedding_dim (int): length of the vectors that are compared. Default: 32.
        norm (str): ``"layer"``, each pixel is normalised over its channels and then embedded by a linear
            layer, as in the paper's repository; ``"group"``, a group norm of 32 groups and a 1 x 1
            convolution, as in its authors' fork of mmdet. Default: ``"layer"``.
        init_cfg (dict or list, optional): mmengine initialisation. Default: the authors', normal with
            standard deviation 0.02, of linear layers truncated.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, the kernel is even, or ``norm`` is not known.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import SAPA
        >>> SAPA(16, guide_channels=8)(torch.rand(1, 16, 24, 24), torch.rand(1, 8, 48, 48)).shape
        torch.Size([1, 16, 48, 48])
    """

    guided = True
    __constants__ = ("channels", "guide_channels", "scale_factor", "up_kernel", "embedding_dim")
    options = ("norm",)

    def __init__(
        self,
        channels: int,
        guide_channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        embedding_dim: int = 32,
        norm: str = "layer",
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg, PUBLISHED)
        self.channels = channels
        self.guide_channels = guide_channels
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.embedding_dim = embedding_dim
        self.norm = norm
        self.check_sizes()
        if norm == "layer":
            self.norm_y, self.norm_x = nn.LayerNorm(guide_channels), nn.LayerNorm(channels)
            self.q, self.k = nn.Linear(guide_channels, embedding_dim), nn.Linear(channels, embedding_dim)
        elif norm == "group":
            self.norm_y, self.norm_x = nn.GroupNorm(32, guide_channels), nn.GroupNorm(32, channels)
            self.q = nn.Conv2d(guide_channels, embedding_dim, 1)
            self.k = nn.Conv2d(channels, embedding_dim, 1)
        else:
            raise ValueError(f"norm: expected 'layer' or 'group', got {norm!r}")
        initialize(self, list(PUBLISHED))

    def _embed(self, norm: nn.Module, project: nn.Module, x: Tensor) -> Tensor:
        """Embed each pixel: Tensor[N, C, H, W] -> Tensor[N, embedding_dim, H, W]."""
        if self.norm == "group":
            return project(norm(x))
        embedded = project(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        # the operator is fast in one layout
        return embedded.contiguous(
            memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format
        )

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Upsample Tensor[N, channels, H, W] to the size of the guide.

        Args:
            x (Tensor[N, channels, H, W]): the map to upsample.
            guide (Tensor[N, guide_channels, scale_factor * H, scale_factor * W]): the map it joins.

        Returns:
            Tensor[N, channels, scale_factor * H, scale_factor * W].
        """
        self.check_input(x, guide)
        queries, keys = self._embed(self.norm_y, self.q, guide), self._embed(self.norm_x, self.k, x)
        logits = torch.ops.mmcarafe.carafe_grad_masks.default(
            queries, keys.to(queries.dtype), self.up_kernel, 1, self.scale_factor
        )
        masks = normalize_kernels(logits, 1)
        return carafe(x, masks.to(x.dtype), self.up_kernel, 1, self.scale_factor)
