"""Convolutions of kernel 3 on grids where all 8 children of every voxel are active.

There a voxel's children are a dense 2^3 block.  Two cases are much cheaper than convolving voxel by
voxel, and give the same numbers up to rounding:

* the children still have their parent's features: the 27 taps fall on 8 parents, with summed
  weights;
* any features: blocks with a rim of one voxel go through a dense convolution.

The second needs the rims in memory, so large grids (`fits`) go the other way.

Notation: n parents, 8 n children (those of a parent in a row, z fastest), c channels in, d out;
weights (d, 3, 3, 3, c).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scenes.objects.neighbours import neighbour_pairs
from scenes.objects.sparse import VoxelGrid

MOST_ENTRIES = 1 << 26
"""Largest tensor of blocks with rims."""
_RIM = 4
"""Edge of a block with its rim."""
_TAPS = ([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
"""Along one axis, for the lower and the upper child: which taps fall on which of two parents."""


def fits(grid: VoxelGrid, channels: int) -> bool:
    """Return whether blocks of the children of ``grid`` are small enough for this."""
    return len(grid) * _RIM**3 * channels <= MOST_ENTRIES


def convolve_subdivided(
    feats: Float[Tensor, "n c"], weight: Float[Tensor, "d 3 3 3 c"], grid: VoxelGrid
) -> Float[Tensor, "m d"]:
    """Return the convolution of children that have their parent's features.

    Args:
        feats: of the parents.
        weight: kernel.
        grid: the parents.
    """
    around = _table(grid).unflatten(1, (3, 3, 3))
    padded = F.pad(feats, (0, 0, 0, 1))
    taps = torch.tensor(_TAPS, dtype=weight.dtype, device=weight.device)
    made = []
    for x, y, z in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        # the lower child sees its parent and the one before, the upper one the one after
        parents = around[:, x : x + 2, y : y + 2, z : z + 2].flatten()
        kernel = torch.einsum("dijkc,xi,yj,zk->xyzcd", weight, taps[x], taps[y], taps[z])
        rows = padded.index_select(0, parents).view(len(feats), 8 * feats.shape[1])
        made.append(rows @ kernel.reshape(-1, len(weight)))
    return torch.stack(made, dim=1).flatten(0, 1)


def convolve_blocks(
    feats: Float[Tensor, "m c"], weight: Float[Tensor, "d 3 3 3 c"], grid: VoxelGrid
) -> Float[Tensor, "m d"]:
    """Return the convolution of the children's own features.

    Args:
        feats: of the children.
        weight: kernel.
        grid: the parents.
    """
    rows = grid.once("blocks with rims", lambda: _rims(grid))
    blocks = F.pad(feats, (0, 0, 0, 1)).index_select(0, rows.flatten())
    blocks = blocks.view(len(grid), _RIM, _RIM, _RIM, feats.shape[1]).movedim(-1, 1)
    kernel = weight.movedim(-1, 1).contiguous(memory_format=torch.channels_last_3d)
    return F.conv3d(blocks, kernel).movedim(1, -1).reshape(len(feats), len(weight))


def _table(grid: VoxelGrid) -> Int[Tensor, "n 27"]:
    """Return the row of each voxel's neighbours; n where there is none."""

    def make() -> Tensor:
        table = torch.full((len(grid), 27), len(grid), device=grid.coords.device)
        for offset, (source, target) in enumerate(neighbour_pairs(grid)):
            table[target, offset] = source
        return table

    return grid.once("neighbour table", make)


def _rims(grid: VoxelGrid) -> Int[Tensor, "n 64"]:
    """Return the rows of the children in each block and around it; 8 n where there is none."""
    place = torch.arange(-1, 3, device=grid.coords.device)
    steps = torch.cartesian_prod(place, place, place)
    parent = steps.div(2, rounding_mode="floor") + 1
    child = steps % 2
    offset = (parent * torch.tensor([9, 3, 1], device=parent.device)).sum(1)
    within = (child * torch.tensor([4, 2, 1], device=child.device)).sum(1)
    rows = _table(grid)[:, offset] * 8 + within
    return rows.clamp(max=8 * len(grid))
