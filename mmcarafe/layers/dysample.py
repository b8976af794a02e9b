# SPDX-License-Identifier: Apache-2.0
"""The DySample module: predicts where to sample the map for each output pixel."""

import torch
from torch import Tensor, nn

from .optional_mmengine import initialize, register
from .pixel_shuffle import pixel_shuffle
from .sampling import sample
from .upsampler import Upsampler


@register
class DySample(Upsampler):
    """Upsampling by dynamic point sampling (Liu et al., ICCV 2023, arXiv 2308.15085).

    Each output pixel samples the input bilinearly at the point where bilinear upsampling would, moved by an
    offset that a 1 x 1 convolution predicts: ``0.25 * offset(x)``, or with ``dyscope``
    ``0.5 * sigmoid(scope(x)) * offset(x)``. Parameters are named as in the authors' code.

    Args:
        channels (int): C, channels of the input and of the output.
        scale_factor (int): s, how many times larger the output is. Default: 2.
        style (str): ``"lp"``, the convolution and then pixel shuffle, or ``"pl"``, pixel shuffle first, whose
            convolution has s**4 times fewer weights and needs s**2 to divide ``channels``. Default: ``"lp"``.
        groups (int): channel groups, each with points of its own; divides ``channels``. Default: 4.
        dyscope (bool): whether the range of the offsets is predicted too (DySample+). Default: False.
        init_cfg (dict or list, optional): mmengine initialisation. Default: the authors', offsets normal
            with standard deviation 0.001 and bias 0, scopes 0. The necks of published detectors had
            ``dict(type="Xavier", layer="Conv2d", distribution="uniform")`` instead.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1, does not divide the channels, or the style is not known.

    Example:
        >>> import torch
        >>> from mmcarafe.layers import DySample
        >>> DySample(channels=16)(torch.rand(1, 16, 24, 24)).shape
        torch.Size([1, 16, 48, 48])
    """

    __constants__ = ("channels", "scale_factor", "groups")
    options = ("style", "dyscope")

    init_pos: Tensor

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        style: str = "lp",
        groups: int = 4,
        dyscope: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        published = (dict(type="Normal", std=0.001, bias=0, override=dict(name="offset")),)
        if dyscope:
            published += (dict(type="Constant", val=0, override=dict(name="scope")),)
        super().__init__(init_cfg, published)
        self.channels = channels
        self.scale_factor = scale_factor
        self.style = style
        self.groups = groups
        self.dyscope = dyscope
        self.check_sizes()
        shuffled = scale_factor**2 if style == "pl" else 1
        if style not in ("lp", "pl"):
            raise ValueError(f"style: expected 'lp' or 'pl', got {style!r}")
        if channels % shuffled:
            raise ValueError(f"style 'pl': expected a multiple of {shuffled} channels, got {channels}")
        offsets = 2 * groups * scale_factor**2 // shuffled
        self.offset = nn.Conv2d(channels // shuffled, offsets, 1)
        if dyscope:
            self.scope = nn.Conv2d(channels // shuffled, offsets, 1, bias=False)
        self.register_buffer("init_pos", self._bilinear_points())
        initialize(self, list(published))

    def init_weights(self) -> None:
        """Initialise the weights as ``init_cfg`` says, and the points, which a layer made on meta lacks."""
        super().init_weights()
        self.init_pos.copy_(self._bilinear_points())

    def _bilinear_points(self) -> Tensor:
        """Return what leads from a pixel to where bilinear upsampling samples, Tensor[1, 2*g*s*s, 1, 1]."""
        steps = (torch.arange(self.scale_factor) - (self.scale_factor - 1) / 2) / self.scale_factor
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack((dx, dy))[:, None].repeat(1, self.groups, 1, 1).reshape(1, -1, 1, 1)

    def _offsets(self, x: Tensor) -> Tensor:
        if self.dyscope:
            return 0.5 * self.scope(x).sigmoid() * self.offset(x)
        return 0.25 * self.offset(x)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample: Tensor[N, channels, H, W] -> Tensor[N, channels, scale_factor * H, scale_factor * W]."""
        self.check_input(x)
        s = self.scale_factor
        if self.style == "lp":
            offset = self._offsets(x)
        else:
            offset = self._offsets(pixel_shuffle(x, s))
            offset = (
                offset.unflatten(3, (-1, s)).unflatten(2, (-1, s)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
            )
        return sample(x, offset + self.init_pos, s, self.groups)
