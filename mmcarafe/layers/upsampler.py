# SPDX-License-Identifier: Apache-2.0
"""What the learned upsamplers share: checked sizes, checked inputs, and an initialisation that lasts."""

from torch import Tensor, nn

from .optional_mmengine import MODELS, BaseModule, initialize


class Upsampler(BaseModule):
    """Base of the learned upsamplers.

    One takes ``channels`` and ``scale_factor`` and maps Tensor[N, channels, H, W] to
    Tensor[N, channels, scale_factor * H, scale_factor * W]. A **guided** one sets ``guided = True``, takes
    ``guide_channels`` too, and has ``forward(x, guide)``: the guide is the finer map that the result joins,
    Tensor[N, guide_channels, scale_factor * H, scale_factor * W]. A class of a user's own that keeps to this
    need not derive from this one.

    Args:
        init_cfg (dict, list, optional): mmengine initialisation that :meth:`init_weights` applies.
        published (tuple[dict, ...]): the paper's, for ``init_cfg=None``.

    Raises:
        ImportError: there is an ``init_cfg``, but no mmengine.
    """

    guided = False

    downsamples = False
    """Say whether it makes maps smaller instead: ``scale_factor`` times, rounded up."""

    __constants__: tuple[str, ...] = ("channels", "scale_factor")
    """Arguments that are sizes: ints of 1 or more."""

    options: tuple[str, ...] = ()
    """Other arguments that ``repr`` shows."""

    channels: int
    guide_channels: int
    scale_factor: int

    def __init__(self, init_cfg: dict | list | None, published: tuple[dict, ...]) -> None:
        if init_cfg is not None and MODELS is None:
            raise ImportError(
                "init_cfg: expected None, as it names initialisers of mmengine, which is not installed; "
                "install mmengine, or initialise the layer's parameters yourself"
            )
        super().__init__(init_cfg=list(published) if init_cfg is None else init_cfg)

    def init_weights(self) -> None:
        """Initialise the weights as ``init_cfg`` says, however often an enclosing module asks for it."""
        initialize(self, self.init_cfg)

    def check_sizes(self) -> None:
        """Raise TypeError or ValueError unless each size is an int of 1 or more that fits the others."""
        for name in self.__constants__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected an int, got {value!r}")
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
            if name.endswith("kernel") and value % 2 == 0:
                raise ValueError(f"{name}: expected an odd number, got {value}")
            if name in ("up_group", "down_group", "groups") and self.channels % value:
                raise ValueError(f"{name}: expected a divisor of the {self.channels} channels, got {value}")

    def check_input(self, x: Tensor, guide: Tensor | None = None) -> None:
        """Raise ValueError for an input, or a guide, of other channels or another size than expected."""
        name = type(self).__name__
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"{name}: expected [N, {self.channels}, H, W], got {tuple(x.shape)}")
        if guide is not None:
            N, _, H, W = x.shape
            expected = (N, self.guide_channels, self.scale_factor * H, self.scale_factor * W)
            if tuple(guide.shape) != expected:
                raise ValueError(f"{name}: expected a guide of {expected}, got {tuple(guide.shape)}")

    def extra_repr(self) -> str:
        """Show the sizes and options, as the constructor takes them."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self.__constants__, *self.options))


class Reassembler(Upsampler):
    """Base of :class:`CARAFE` and :class:`CARAFEDownsample`: kernels predicted from the input alone."""

    channel_compressor: nn.Module
    content_encoder: nn.Module
    compressed_channels: int
    encoder_kernel: int

    @property
    def kernel_size(self) -> int:
        """k, the side of the reassembly kernels."""
        return getattr(self, "down_kernel" if self.downsamples else "up_kernel")

    @property
    def groups(self) -> int:
        """The number of channel groups, each with kernels of its own."""
        return getattr(self, "down_group" if self.downsamples else "up_group")

    @property
    def last_encoder(self) -> nn.Module:
        """The module whose output :meth:`kernel_normalizer` turns into kernels."""
        return self.content_encoder

    def kernel_normalizer(self, logits: Tensor) -> Tensor:
        """Turn raw encoder output into reassembly kernels that sum to 1, one for each output pixel."""
        raise NotImplementedError
