"""Paths, items and phases of rectified flows, by hand and against closed forms."""

from __future__ import annotations

import pytest
import torch
from flow_helpers import Line, NormalLaw, spread_of

from geo3d.distill.flow import (
    Items,
    path_velocity,
    perturb,
    phase_end,
    velocity_to_clean,
)
from geo3d.errors import ShapeError

SPARSE = Items(3, torch.tensor([0, 0, 2, 2, 2]))


def test_items_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 1.0]])
    assert SPARSE.total(x).tolist() == [10.0, 0.0, 36.0]
    assert SPARSE.entries(x).tolist() == [4.0, 1.0, 6.0]
    assert SPARSE.mean(x).tolist() == [2.5, 0.0, 6.0]
    spread = SPARSE.spread(torch.tensor([1.0, 2.0, 3.0]), x)
    assert spread.flatten().tolist() == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert Items(3, torch.tensor([1, 1])).entries(x[:2]).tolist() == [1.0, 4.0, 1.0]
    dense = Items(2)
    blocks = torch.arange(12.0).reshape(2, 2, 3)
    assert dense.total(blocks).tolist() == [15.0, 51.0]
    assert dense.entries(blocks).tolist() == [6.0, 6.0]
    assert dense.spread(torch.ones(2), blocks).shape == (2, 1, 1)


def test_wrong_batches_are_named() -> None:
    for items, values, rows in ((Items(3), 2, 3), (Items(3), 3, 2), (SPARSE, 3, 3), (SPARSE, 5, 5)):
        with pytest.raises(ShapeError, match="wrong_batch"):
            items.spread(torch.ones(values), torch.ones(rows, 2))


def test_data_keep_a_little_noise_by_hand() -> None:
    clean, noise = torch.full((2, 1), 4.0).double(), torch.full((2, 1), 1e5).double()
    x = perturb(clean, noise, torch.tensor([0.0, 0.5]).double(), Items(2))
    # x_t = (1 - t) 4 + (1e-5 + (1 - 1e-5) t) 1e5
    assert x.flatten().tolist() == pytest.approx([5.0, 2 + 1 + 49999.5])


def test_the_velocity_of_a_path_points_at_its_data() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x = perturb(clean, noise, t, SPARSE)
    v = path_velocity(clean, noise)
    assert torch.allclose(velocity_to_clean(x, v, t, SPARSE), clean)
    later = perturb(clean, noise, t + 1e-3, SPARSE)
    assert torch.allclose((later - x) / 1e-3, v, atol=1e-9)


def test_phases_by_hand() -> None:
    t = torch.tensor([0.05, 0.3, 0.5, 0.52, 1.0])
    assert phase_end(t, 0.01, 1).tolist() == [0.0] * 5
    assert phase_end(t, 0.01, 2).tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert phase_end(t, 0.01, 4).tolist() == [0.0, 0.25, 0.25, 0.5, 0.75]


def test_the_known_flow_is_one() -> None:
    """The field of the tests follows its own maps, and is the mean of the straight paths."""
    law = NormalLaw()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    t = torch.full((9,), 0.7, dtype=torch.float64)
    ahead = law.line.map(x, t, t - 1e-4)
    assert torch.allclose((x - ahead) / 1e-4, law.velocity(x, t), atol=1e-3)
    assert torch.allclose(law.mean(x, t, t - 1e-4), (x - ahead) / 1e-4, atol=1e-6)
    mixture = Line((-1.0, 1.0), (0.3, 0.2), (0.4, 0.6))
    ahead = mixture.map(x, t, t - 1e-4)
    assert torch.allclose((x - ahead) / 1e-4, mixture.velocity(x, t), atol=2e-3)
    generator = torch.Generator().manual_seed(0)
    clean = law.line.draw(200_000, 1, generator)
    noise = torch.randn(clean.shape, generator=generator)
    half = torch.full((len(clean),), 0.5)
    place = perturb(clean, noise, half, Items(len(clean)))
    near = ((place - 0.2).abs() < 0.02).squeeze(1)
    measured = path_velocity(clean, noise)[near].mean()
    expected = law.velocity(torch.full((1, 1), 0.2), torch.full((1,), 0.5))
    assert abs(float(measured) - float(expected)) < 0.03
    assert abs(float(place.std()) - float(spread_of(torch.tensor(0.5), 0.5))) < 0.01
