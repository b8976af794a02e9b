# SPDX-License-Identifier: Apache-2.0
"""Bilinear sampling by gathers, for engines that have no ``GridSample`` or a wrong one."""

from itertools import product

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmcarafe.errors import InputError

BILINEAR, ZEROS, BORDER = 0, 0, 1  # as torch numbers the modes of interpolation and of padding


def without_grid_sample(program: ExportedProgram) -> ExportedProgram:
    """Return the program with every bilinear ``grid_sample`` of maps written by gathers.

    Raises:
        InputError: one is not bilinear, or its padding is not that of zeros or of the border.
    """
    return program.run_decompositions({torch.ops.aten.grid_sampler.default: sample_by_gather})


def sample_by_gather(
    x: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool
) -> Tensor:
    """Sample as ``aten::grid_sampler`` does: four rows of pixels are gathered for each point, and weighed.

    Args:
        x (Tensor[N, C, H, W]): maps.
        grid (Tensor[N, h, w, 2]): x and y of each point, from -1 to 1 over the map.
        interpolation (int): 0, bilinear.
        padding (int): what is outside the map, 0: zeros, 1: the border.
        align_corners (bool): whether -1 and 1 are the centres of the outermost pixels, not their edges.

    Returns:
        Tensor[N, C, h, w].

    Raises:
        InputError: another interpolation or padding, or maps of three dimensions.
    """
    if x.dim() != 4 or interpolation != BILINEAR or padding not in (ZEROS, BORDER):
        raise InputError(
            "--gather: expected bilinear sampling of [N, C, H, W] with padding of zeros or of the border, "
            f"got {x.dim()} dimensions, torch's interpolation mode {interpolation} and padding mode "
            f"{padding}; leave --gather out"
        )
    N, C, H, W = x.shape
    h, w = grid.shape[1:3]
    axes = []
    for size, at in ((H, grid[..., 1]), (W, grid[..., 0])):
        at = (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2
        if padding == BORDER:
            at = at.clamp(0, size - 1)
        axes.append(_neighbours(at, size))
    rows = x.permute(0, 2, 3, 1).reshape(-1, C)  # [N*H*W, C]
    first = torch.arange(N, device=x.device).view(-1, 1, 1) * (H * W)
    out = None
    for (y, share_y), (column, share_x) in product(*axes):
        pixels = rows.index_select(0, (first + y * W + column).flatten()).view(N, h, w, C)
        term = pixels * (share_y * share_x).unsqueeze(-1)
        out = term if out is None else out + term
    return out.permute(0, 3, 1, 2)


def _neighbours(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the pixels before and behind a coordinate, and the share of each: 0 outside the map."""
    before = at.floor()
    found = []
    for pixel, share in ((before, 1 - (at - before)), (before + 1, at - before)):
        inside = (pixel >= 0) & (pixel < size)
        found.append((pixel.clamp(0, size - 1).long(), share.where(inside, 0.0)))
    return found
