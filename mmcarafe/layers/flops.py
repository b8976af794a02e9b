# SPDX-License-Identifier: Apache-2.0
"""Count what resamplers cost: the paper's formula for CARAFE, and what torch's and mmengine's counters lack.

torch's ``FlopCounterMode`` knows the operator from :mod:`mmcarafe.ops`; here it learns of points between
pixels, mmengine's analyzer of the operator. Both leave out the additions of biases, which the formula has.
"""

from collections import Counter
from math import prod
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

from .optional_mmengine import MODELS
from .upsampler import Reassembler


def carafe_flops(layer: Reassembler, source_pixels: int = 1, target_pixels: int | None = None) -> int:
    """Count floating-point operations of a CARAFE module, a multiply-add as two (paper, section 3.3).

    ``2 (C + 1) C_m`` for each source pixel, in the compressor, and ``2 (C_m k_enc**2 + 1) g k**2 + 2 k**2 C``
    for each target pixel, in the encoder and the reassembly. The softmax and what ``norm_cfg`` and
    ``act_cfg`` add are left out, as in the paper.

    Args:
        layer (CARAFE or CARAFEDownsample): the module.
        source_pixels (int): N * H * W of its input. Default: 1.
        target_pixels (int, optional): the same of its output. Default: None, ``scale_factor**2`` times more
            or, rounded up, less.

    Returns:
        int: the number of operations.

    Example:
        >>> from mmcarafe.layers import CARAFE, carafe_flops
        >>> carafe_flops(CARAFE(channels=256))
        199496
    """
    kernel = layer.kernel_size**2
    compressor = 2 * (layer.channels + 1) * _compressed(layer)
    encoder = 2 * (layer.compressed_channels * layer.encoder_kernel**2 + 1) * layer.groups * kernel
    if target_pixels is None:
        target_pixels = _target_pixels(layer, source_pixels)
    return source_pixels * compressor + target_pixels * (encoder + 2 * kernel * layer.channels)


def carafe_bias_flops(layer: Reassembler, source_pixels: int = 1, target_pixels: int | None = None) -> int:
    """Count what FLOP counters leave out of :func:`carafe_flops`: two operations for each bias.

    Args:
        layer (CARAFE or CARAFEDownsample): the module.
        source_pixels (int): N * H * W of its input. Default: 1.
        target_pixels (int, optional): the same of its output, as in :func:`carafe_flops`.

    Returns:
        int: the number of operations.
    """
    if target_pixels is None:
        target_pixels = _target_pixels(layer, source_pixels)
    return 2 * (_compressed(layer) * source_pixels + layer.groups * layer.kernel_size**2 * target_pixels)


def _compressed(layer: Reassembler) -> int:
    """Return the outputs of the compressor for a source pixel: none where nothing compresses."""
    return 0 if isinstance(layer.channel_compressor, nn.Identity) else layer.compressed_channels


def _target_pixels(layer: Reassembler, source_pixels: int) -> int:
    times = layer.scale_factor**2
    return -(-source_pixels // times) if layer.downsamples else source_pixels * times


def _count_operator(inputs: list, outputs: list) -> Counter:
    """Count for mmengine, to which a multiply-add is one: k*k for each channel of each output pixel."""
    from mmengine.analysis.jit_handles import get_shape  # who calls this has it

    kernel_size = inputs[2].toIValue()
    return Counter({"carafe": kernel_size**2 * prod(cast(list[int], get_shape(outputs[0])))})


def _count_similarity(inputs: list, outputs: list) -> Counter:
    """Count the same for the gradient of the masks, which SAPA computes in its forward."""
    return _count_operator(inputs, inputs[:1])


def bilinear_flops(*args, out_shape: tuple[int, ...], **kwargs) -> int:
    """Count for torch: four multiply-adds for each channel of each point, as mmengine's analyzer does."""
    return 2 * 4 * prod(out_shape)


for _op in (torch.ops.aten.grid_sampler_2d, torch.ops.aten.upsample_bilinear2d):
    if _op not in flop_registry:  # where torch has no formula of its own
        register_flop_formula(_op)(bilinear_flops)

if MODELS is not None:
    from mmengine.analysis import complexity_analysis

    # there is no public way to register an op for every analyzer; mmdet's get_flops.py makes one of its own
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(
        {
            "mmcarafe::carafe": _count_operator,
            "mmcarafe::carafe_downsample": _count_operator,
            "mmcarafe::carafe_grad_masks": _count_similarity,
        }
    )
