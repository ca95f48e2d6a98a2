"""Convolutions of whole blocks of children, against those voxel by voxel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scenes.objects import decoders
from scenes.objects.block_convolution import convolve_blocks, convolve_subdivided, fits
from scenes.objects.decoders import SparseSubdivideBlock3d
from scenes.objects.neighbours import children
from scenes.objects.sparse import SparseTensor, VoxelGrid
from scenes.objects.sparse_ops import SubmanifoldConvolution, subdivide


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
