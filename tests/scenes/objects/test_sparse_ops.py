"""Sparse layers against dense oracles, hand-worked pools, and derivatives of both orders.

Convolutions of whole blocks of children, against those voxel by voxel.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from geo3d.errors import ConfigError, InputError
from scenes.objects import decoders
from scenes.objects.decoders import SparseSubdivideBlock3d
from scenes.objects.neighbours import children, neighbour_pairs, windows
from scenes.objects.sparse import SparseTensor, VoxelGrid
from scenes.objects.sparse_ops import (
    SparseConv3d,
    SparseGroupNorm32,
    SubmanifoldConvolution,
    convolve,
    convolve_blocks,
    convolve_subdivided,
    downsample,
    fits,
    subdivide,
    upsample,
)

quiet_jvp = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def voxels(seed: int = 0, side: int = 6, share: float = 0.3, items: int = 3) -> torch.Tensor:
    """Return random active voxels of ``items`` grids, of which the second is empty."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(items, side, side, side, generator=generator) < share
    active[1] = False
    return active.nonzero().int()


def dense_convolution(
    x: SparseTensor, weight: torch.Tensor, bias: torch.Tensor, side: int = 6
) -> torch.Tensor:
    """Return the oracle: a padded dense convolution, read at the active voxels."""
    b, i, j, k = x.coords.long().T
    grid = x.feats.new_zeros(x.batch_size, side, side, side, x.feats.shape[1])
    grid = grid.index_put((b, i, j, k), x.feats).permute(0, 4, 1, 2, 3)
    out = F.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, padding=weight.shape[1] // 2)
    return out.permute(0, 2, 3, 4, 1)[b, i, j, k]


@pytest.mark.parametrize("shuffled", [False, True], ids=["sorted", "shuffled"])
@pytest.mark.parametrize("far", [0, 5000], ids=["table", "bisection"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_equals_the_dense_one(kernel: int, far: int, shuffled: bool) -> None:
    torch.manual_seed(0)
    coords = voxels()
    if shuffled:
        order = torch.randperm(len(coords))
        coords = coords[order[coords[order][:, 0].argsort(stable=True)]]
    # One distant voxel makes the table of all cells too large.
    lonely = torch.tensor([[3, far, far, far]], dtype=torch.int32)
    x = SparseTensor(
        torch.randn(len(coords) + 1, 5, dtype=torch.float64, requires_grad=True),
        torch.cat([coords, lonely]),
        5,
    )
    layer = SubmanifoldConvolution(5, 4, kernel).double()
    out = layer(x).feats
    near = SparseTensor(x.feats[:-1], coords, 3)
    weight = layer.weight
    if kernel == 1:
        # Published kernels of 1 are stored as if input and output channels were swapped.
        weight = weight.reshape(5, 4).T.reshape(weight.shape)
    expected = dense_convolution(near, weight, layer.bias)
    torch.testing.assert_close(out[:-1], expected)
    centre = weight[:, kernel // 2, kernel // 2, kernel // 2]
    torch.testing.assert_close(out[-1], F.linear(x.feats[-1], centre, layer.bias))
    inputs = (x.feats, layer.weight, layer.bias)
    pull = torch.randn_like(expected)
    mine = torch.autograd.grad((out[:-1] * pull).sum(), inputs)
    for ours, theirs in zip(
        mine, torch.autograd.grad((expected * pull).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@quiet_jvp
def test_convolution_is_twice_differentiable_in_both_modes() -> None:
    coords = voxels(side=2, share=0.4, items=2)
    pairs = neighbour_pairs(SparseTensor(torch.zeros(len(coords), 1), coords).grid)
    feats = torch.randn(len(coords), 1, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(27, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: convolve(x, w, pairs), (feats, kernels), check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(
        lambda x, w: convolve(x, w, pairs), (feats, kernels), check_fwd_over_rev=True
    )


@quiet_jvp
def test_directional_derivative_of_a_network_and_its_gradient() -> None:
    torch.manual_seed(1)
    coords = voxels()
    first, second = SparseConv3d(3, 4).double(), SparseConv3d(4, 3).double()

    def network(feats: torch.Tensor) -> torch.Tensor:
        h = first(SparseTensor(feats, coords, 3))
        h = h.replace(F.silu(h.feats))
        h = upsample(downsample(h)) + h
        return second(h).feats

    x, v = torch.randn(2, len(coords), 3, dtype=torch.float64)
    value, slope = torch.func.jvp(network, (x,), (v,))[:2]
    step = 1e-6
    torch.testing.assert_close(value, network(x))
    torch.testing.assert_close(
        slope, (network(x + step * v) - network(x - step * v)) / (2 * step), rtol=1e-6, atol=1e-7
    )
    # The tangent itself can be trained through.
    slope.square().sum().backward()
    trained = first.conv.weight.grad
    assert trained is not None and trained.abs().sum() > 0


def test_pool_divides_by_one_too_many_and_unpool_restores_the_voxels() -> None:
    coords = torch.tensor([[0, 2, 2, 2], [0, 0, 1, 1], [0, 3, 3, 3]], dtype=torch.int32)
    x = SparseTensor(torch.tensor([[3.0], [4.0], [9.0]]), coords, 2)
    coarse = downsample(x)
    assert coarse.coords.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]] and coarse.batch_size == 2
    assert coarse.feats.tolist() == [[2.0], [4.0]]
    fine = upsample(coarse)
    assert fine.grid is x.grid and fine.feats.tolist() == [[4.0], [2.0], [4.0]]


def test_two_levels_of_pools_undo_in_order() -> None:
    x = SparseTensor(torch.randn(len(voxels()), 2), voxels(), 4)
    assert upsample(upsample(downsample(downsample(x)))).grid is x.grid
    with pytest.raises(InputError) as caught:
        upsample(x)
    assert caught.value.code == "sparse.never_downsampled"


def test_subdivision_orders_children_like_a_cube() -> None:
    x = SparseTensor(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0, 0, 0], [1, 1, 2, 3]]))
    out = subdivide(x)
    assert out.coords[:3].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert out.coords[8].tolist() == [1, 2, 4, 6] and out.coords[15].tolist() == [1, 3, 5, 7]
    assert out.feats[:, 0].tolist() == [1.0] * 8 + [2.0] * 8


def test_group_norm_treats_items_apart() -> None:
    torch.manual_seed(0)
    x = SparseTensor(torch.randn(len(voxels()), 6), voxels(), 4)
    norm = SparseGroupNorm32(2, 6)
    out = norm(x)
    for rows in x.layout:
        if rows.start == rows.stop:
            continue
        groups = x.feats[rows].unflatten(1, (2, 3))
        centred = groups - groups.mean((0, 2), keepdim=True)
        expected = centred / (groups.var((0, 2), correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(out.feats[rows], expected.flatten(1))
    assert norm(x.to(torch.float16)).dtype == torch.float16
    nothing = SparseTensor(torch.zeros(0, 6), torch.zeros(0, 4, dtype=torch.int32), 1)
    assert len(norm(nothing)) == 0


def test_windows_hold_the_voxels_of_one_cell_of_one_item() -> None:
    x = SparseTensor(torch.zeros(len(voxels()), 1), voxels())
    parts = windows(x.grid, 4, 2)
    cells = [(int(b), *[(int(c) + 2) // 4 for c in rest]) for b, *rest in x.coords]
    names = sorted(set(cells))
    assert parts.window_of_voxel.tolist() == [names.index(cell) for cell in cells]
    assert parts.lengths == [cells.count(name) for name in names]
    assert torch.equal(parts.order[parts.place], torch.arange(len(cells)))
    sorted_windows = parts.window_of_voxel[parts.order]
    assert bool((sorted_windows.diff() >= 0).all())
    assert windows(x.grid, 4, 2) is parts


def test_nothing_in_nothing_out() -> None:
    nothing = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), 2)
    assert SparseConv3d(3, 5)(nothing).shape == (2, 5)
    assert len(subdivide(nothing)) == len(upsample(downsample(nothing))) == 0
    assert windows(nothing.grid, 8, 0).lengths == []


def test_other_kernels_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        SubmanifoldConvolution(1, 1, 5)
    assert caught.value.code == "sparse.bad_kernel"


def parents(share: float = 0.3) -> VoxelGrid:
    """Return two items of random voxels, with an empty one between."""
    generator = torch.Generator().manual_seed(0)
    found = (torch.rand(3, 5, 5, 5, generator=generator) < share).nonzero().int()
    return VoxelGrid(found[found[:, 0] != 1], 3)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def plain(channels: int, out: int) -> SubmanifoldConvolution:
    layer = SubmanifoldConvolution(channels, out).double()
    torch.nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_subdivided_features(share: float) -> None:
    grid, layer = parents(share), plain(6, 4)
    feats = random(len(grid), 6)
    expected = layer(subdivide(SparseTensor(feats, grid))).feats
    assert torch.allclose(convolve_subdivided(feats, layer.weight, grid), expected, atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_own_features(share: float) -> None:
    grid, layer = parents(share), plain(6, 4)
    feats = random(8 * len(grid), 6)
    expected = layer(SparseTensor(feats, children(grid))).feats
    assert torch.allclose(convolve_blocks(feats, layer.weight, grid), expected, atol=1e-12)


def test_no_voxel_at_all() -> None:
    grid = VoxelGrid(torch.zeros(0, 4, dtype=torch.int32), 1)
    weight = plain(6, 4).weight
    assert convolve_subdivided(random(0, 6), weight, grid).shape == (0, 4)
    assert convolve_blocks(random(0, 6), weight, grid).shape == (0, 4)


def test_gradients_are_those_of_the_plain_convolution() -> None:
    grid, layer = parents(), plain(3, 2)
    for rows, route in ((len(grid), convolve_subdivided), (8 * len(grid), convolve_blocks)):
        feats = random(rows, 3).requires_grad_()
        made = route(feats, layer.weight, grid)
        upstream = random(*made.shape)
        ours = torch.autograd.grad(made, (feats, layer.weight), upstream)
        if rows == len(grid):
            same = layer(subdivide(SparseTensor(feats, grid)))
        else:
            same = layer(SparseTensor(feats, children(grid)))
        theirs = torch.autograd.grad(same.feats, (feats, layer.weight), upstream)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(ours, theirs, strict=True))


def test_a_large_grid_goes_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    block, grid = SparseSubdivideBlock3d(64, 32).double(), parents()
    for parameter in block.parameters():
        parameter.data += 0.05 * random(*parameter.shape)
    x = SparseTensor(random(len(grid), 64), grid)
    assert fits(grid, 32) and not fits(grid, 1 << 26)
    near = block(x)
    monkeypatch.setattr(decoders, "fits", lambda grid, channels: False)
    far = block(x)
    assert torch.equal(near.coords, far.coords)
    assert torch.allclose(near.feats, far.feats, atol=1e-6)
