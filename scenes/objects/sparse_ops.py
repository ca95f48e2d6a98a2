"""Layers on sparse tensors: submanifold convolution, pooling, subdivision, group norm, windows.

The convolution multiplies, per offset of the kernel, the features of the voxels that have a
neighbour there by that offset's matrix, and adds the products up: only dense matrix products, on
any device.  It is trilinear in input, kernel and upstream gradient, so two operations whose
derivatives are those same two operations give derivatives of every order and direction.

Notation: n voxels, c channels in, d channels out; weights (d, kx, ky, kz, c), as published; but the
memory of a kernel of 1 is read as a matrix (c, d), which published weights need.

Source: Graham and van der Maaten, "Submanifold Sparse Convolutional Networks" (2017); the layers
are those of TRELLIS (2025).

Convolutions of kernel 3 on grids where all 8 children of every voxel are active.

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

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from geo3d.errors import ConfigError, InputError
from scenes.objects.neighbours import (
    CENTRE,
    Pairs,
    children,
    coarser,
    finer,
    neighbour_pairs,
)
from scenes.objects.sparse import SparseTensor, VoxelGrid


class SubmanifoldConvolution(nn.Module):
    """A convolution whose output lives on the voxels of its input (kernel 1 or 3).

    Raises:
        ConfigError: ``sparse.bad_kernel``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise ConfigError(
                "sparse.bad_kernel", f"A kernel of {kernel} is not supported.", "Take 1 or 3."
            )
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, kernel, kernel, kernel, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(in_channels * kernel**3)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return the sum over active neighbours of the same item, plus the bias."""
        if self.kernel == 1:
            # What trained the published weights reads this one kernel's memory as (c, d).
            matrix = self.weight.reshape(self.weight.shape[-1], -1)
            return x.replace(x.feats @ matrix + self.bias)
        kernels = self.weight.flatten(1, 3).permute(1, 2, 0)
        return x.replace(convolve(x.feats, kernels, neighbour_pairs(x.grid)) + self.bias)


class SparseConv3d(nn.Module):
    """A submanifold convolution under the parameter names of the published weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = SubmanifoldConvolution(in_channels, out_channels, kernel)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve."""
        return self.conv(x)


class SparseGroupNorm32(nn.GroupNorm):
    """A group norm over each item's voxels, in float32 whatever the input's type."""

    def forward(self, input: SparseTensor) -> SparseTensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalise every item for itself; empty items stay empty."""
        weight, bias = self.weight.float(), self.bias.float()
        parts = [
            F.group_norm(input.feats[rows].float().T[None], self.num_groups, weight, bias, self.eps)
            for rows in input.layout
            if rows.stop > rows.start
        ]
        if not parts:
            return input
        return input.replace(torch.cat([part[0].T for part in parts]).to(input.dtype))


def downsample(x: SparseTensor) -> SparseTensor:
    """Halve the resolution: each coarse voxel gets the sum of its children over (children + 1).

    A mean would divide by the number of children.  The published networks were trained with a
    mean that counts its zero start as one more child, and need it.
    """
    coarse, parent, count = coarser(x.grid)
    total = x.feats.new_zeros(len(coarse), *x.feats.shape[1:]).index_add(0, parent, x.feats)
    return SparseTensor(total / (count + 1).to(x.dtype).unflatten(0, _column(x.feats)), coarse)


def upsample(x: SparseTensor) -> SparseTensor:
    """Double the resolution again: the voxels before `downsample`, each with its parent's features.

    Raises:
        InputError: ``sparse.never_downsampled``.
    """
    fine = finer(x.grid)
    if fine is None:
        raise InputError(
            "sparse.never_downsampled",
            "The fine voxels of this sparse tensor are not known.",
            "Upsample what downsample made, or subdivide.",
        )
    return SparseTensor(x.feats.index_select(0, fine[1]), fine[0])


def subdivide(x: SparseTensor) -> SparseTensor:
    """Double the resolution: all 8 children of each voxel, each with its parent's features."""
    return SparseTensor(x.feats.repeat_interleave(8, dim=0), children(x.grid))


def convolve(
    feats: Float[Tensor, "n c"], kernels: Float[Tensor, "27 c d"], pairs: list[Pairs]
) -> Float[Tensor, "n d"]:
    """Return sum_o feats[neighbour at o] @ kernels[o], differentiable any number of times."""
    return _Convolve.apply(feats, kernels, pairs)


def _column(feats: Tensor) -> tuple[int, ...]:
    return (-1, *[1] * (feats.ndim - 1))


def _mirror(kernels: Tensor) -> Tensor:
    """Return the kernels that carry gradients from outputs to inputs."""
    return kernels.flip(0).transpose(1, 2)


class _Bilinear(torch.autograd.Function):
    """A product of two tensors that keeps both for its derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        one, two, ctx.pairs = inputs
        ctx.save_for_backward(one, two)
        ctx.save_for_forward(one, two)


class _Convolve(_Bilinear):
    """(x, W) -> sum_o x[source_o] W_o at target_o."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, pairs: list[Pairs]) -> Tensor:
        out = x @ kernels[CENTRE]
        for offset, (source, target) in enumerate(pairs):
            if offset != CENTRE and len(source):
                out.index_add_(0, target, x.index_select(0, source) @ kernels[offset])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, kernels), (gradient,) = ctx.saved_tensors, gradients
        return _both(ctx, (_Convolve, gradient, _mirror(kernels)), (_Correlate, x, gradient))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _bilinear_tangent(_Convolve, ctx.saved_tensors, tangents[:2], ctx.pairs)


class _Correlate(_Bilinear):
    """(x, g) -> for each offset x[source_o]^T g[target_o], the gradient of the kernels."""

    @staticmethod
    def forward(x: Tensor, gradient: Tensor, pairs: list[Pairs]) -> Tensor:
        products = []
        for offset, (source, target) in enumerate(pairs):
            if offset == CENTRE:
                products.append(x.T @ gradient)
            else:
                products.append(x.index_select(0, source).T @ gradient.index_select(0, target))
        return torch.stack(products)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, gradient), (kernels,) = ctx.saved_tensors, gradients
        return _both(ctx, (_Convolve, gradient, _mirror(kernels)), (_Convolve, x, kernels))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _bilinear_tangent(_Correlate, ctx.saved_tensors, tangents[:2], ctx.pairs)


def _both(
    ctx: Any, *products: tuple[type[torch.autograd.Function], Tensor, Tensor]
) -> tuple[Tensor | None, Tensor | None, None]:
    """Return the gradients that are asked for, each a product of two tensors."""
    first, second = (
        product.apply(one, two, ctx.pairs) if is_asked else None
        for is_asked, (product, one, two) in zip(ctx.needs_input_grad[:2], products, strict=True)
    )
    return first, second, None


def _bilinear_tangent(
    product: type[torch.autograd.Function],
    at: Sequence[Tensor],
    tangents: Sequence[Tensor | None],
    pairs: list[Pairs],
) -> Tensor:
    terms = []
    if tangents[0] is not None:
        terms.append(product.apply(tangents[0], at[1], pairs))
    if tangents[1] is not None:
        terms.append(product.apply(at[0], tangents[1], pairs))
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


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
