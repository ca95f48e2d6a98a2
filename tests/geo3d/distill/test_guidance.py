"""Guidance: the one formula, its interval, and the conversion of foreign strengths."""

from __future__ import annotations

import torch

from geo3d.distill.conventions import scale_to_strength, strength_to_scale
from geo3d.distill.flow import Items
from geo3d.distill.guidance import guided, guided_velocity, in_interval

SPARSE = Items(3, torch.tensor([0, 0, 2, 2, 2]))


def test_guidance_by_hand() -> None:
    u, c = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 3.0])
    # 1 + 7.5 (2 - 1) and -2 + 7.5 (3 + 2); the other order would give -5.5 and -34.5
    assert guided(u, c, 7.5).tolist() == [8.5, 35.5]
    assert guided(u, c, 1.0).tolist() == c.tolist()
    assert guided(u, c, 0.0).tolist() == u.tolist()


def test_foreign_strengths_by_hand() -> None:
    assert [strength_to_scale(w) for w in (0.0, 5.0, 40.0, 100.0)] == [1.0, 6.0, 41.0, 101.0]
    assert scale_to_strength(41.0) == 40.0 and scale_to_strength(1.1) == 0.1


def test_both_ends_belong_to_an_interval() -> None:
    times, expected = [0.4, 0.5, 0.6, 0.75, 0.8], [False, True, True, True, False]
    assert [in_interval(t, (0.5, 0.75)) for t in times] == expected
    assert in_interval(torch.tensor(times), (0.5, 0.75)).tolist() == expected


def test_guidance_acts_inside_its_interval_only() -> None:
    calls = []

    def velocity(x: torch.Tensor, t: torch.Tensor, condition: float) -> torch.Tensor:
        calls.append(condition)
        return torch.full_like(x, condition)

    field = guided_velocity(velocity, 1.0, 5.0, SPARSE, (0.5, 0.75))
    x = torch.zeros(5, 1)
    # item 0 at the lower end, item 2 outside: 1 + 5 (3 - 1), and 3 alone
    values = field(x, torch.tensor([0.5, 0.7, 0.95]), 3.0)
    assert values.flatten().tolist() == [11.0, 11.0, 3.0, 3.0, 3.0]
    at_the_end = field(x, torch.tensor([0.8, 0.7, 0.75]), 3.0)
    assert at_the_end.flatten().tolist() == [3.0, 3.0, 11.0, 11.0, 11.0]
    calls.clear()
    assert torch.equal(field(x, torch.tensor([0.4, 0.3, 0.2]), 3.0), torch.full((5, 1), 3.0))
    assert calls == [3.0]
    assert guided_velocity(velocity, 1.0, 1.0, SPARSE) is velocity
