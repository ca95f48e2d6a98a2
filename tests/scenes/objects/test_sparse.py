"""Sparse tensors: the broadcast rule, items, arithmetic and what is refused."""

from __future__ import annotations

import pytest
import torch

from geo3d.errors import ShapeError
from scenes.objects.sparse import SparseTensor, VoxelGrid, join_items

COORDS = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [2, 5, 5, 5]], dtype=torch.int32)


def tensor(batch_size: int | None = None) -> SparseTensor:
    return SparseTensor(torch.arange(6.0).reshape(3, 2), COORDS, batch_size)


def test_empty_items_are_kept_at_any_place() -> None:
    assert tensor().grid.counts == [2, 0, 1]
    assert tensor(4).layout == [slice(0, 2), slice(2, 2), slice(2, 3), slice(3, 3)]
    assert tensor(4).shape == (4, 2)
    nothing = SparseTensor(torch.zeros(0, 2), COORDS[:0], 2)
    assert nothing.shape == (2, 2) and len(nothing + nothing) == 0


def test_a_row_per_item_reaches_its_voxels() -> None:
    rows = torch.tensor([[1.0, 10.0], [100.0, 100.0], [2.0, 20.0], [0.0, 0.0]])
    expected = torch.tensor([[0.0, 10.0], [2.0, 30.0], [8.0, 100.0]])
    assert torch.equal((tensor(4) * rows).feats, expected)
    assert torch.equal((rows * tensor(4)).feats, expected)
    column = torch.tensor([[1.0], [9.0], [2.0], [9.0]])
    assert torch.equal((tensor(4) + column).feats, torch.tensor([[1.0, 2], [3, 4], [6, 7]]))


def test_other_tensors_meet_the_features_directly() -> None:
    x = tensor(4)
    assert torch.equal((x - torch.ones(3, 2)).feats, x.feats - 1)
    assert torch.equal((x - torch.ones(2)).feats, x.feats - 1)
    assert torch.equal((x - torch.tensor(1.0)).feats, x.feats - 1)
    assert torch.equal((tensor(1 + 2) / torch.full((1, 2), 2.0)).feats, x.feats / 2)


def test_arithmetic_is_that_of_the_features() -> None:
    x = tensor()
    y = x.replace(x.feats + 1)
    assert torch.equal((x - 0.5 * y).feats, x.feats - 0.5 * y.feats)
    assert torch.equal((1 - x).feats, 1 - x.feats)
    assert torch.equal((1 / y).feats, 1 / y.feats)
    assert torch.equal((-x).feats, -x.feats)
    with pytest.raises(TypeError):
        x + "a"


def test_items_and_join_undo_each_other() -> None:
    x = tensor(4)
    assert [len(item) for item in x.items()] == [2, 0, 1, 0]
    again = join_items(x.items())
    assert torch.equal(again.coords, x.coords) and torch.equal(again.feats, x.feats)
    assert again.batch_size == 4
    with pytest.raises(ShapeError) as caught:
        join_items([])
    assert caught.value.code == "sparse.no_items"


@pytest.mark.parametrize(
    "coords",
    [COORDS[:, :3], COORDS.float(), COORDS.flip(0), COORDS - 1],
    ids=["three columns", "floats", "unsorted", "negative item"],
)
def test_bad_coordinates_are_refused(coords: torch.Tensor) -> None:
    with pytest.raises(ShapeError) as caught:
        VoxelGrid(coords)
    assert caught.value.code == "sparse.bad_coords"


def test_items_outside_the_batch_and_wrong_rows_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        VoxelGrid(COORDS, 2)
    assert caught.value.code == "sparse.bad_coords"
    with pytest.raises(ShapeError) as caught:
        SparseTensor(torch.zeros(2, 2), COORDS)
    assert caught.value.code == "sparse.wrong_rows"
    with pytest.raises(ShapeError) as caught:
        _ = tensor() + SparseTensor(torch.zeros(3, 2), COORDS + torch.tensor([0, 1, 0, 0]))
    assert caught.value.code == "sparse.other_voxels"


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_forward_derivatives_pass() -> None:
    x = tensor()
    value, slope = torch.func.jvp(
        lambda f: (x.replace(f) * x).feats, (x.feats,), (torch.ones(3, 2),)
    )
    assert torch.equal(value, x.feats**2) and torch.equal(slope, x.feats)
