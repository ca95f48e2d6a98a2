"""Schedules by hand, and the cycle against torch's."""

from __future__ import annotations

import pytest
import torch

from geo3d.work.schedules import cosine, one_cycle, power, rise


def test_by_hand() -> None:
    assert [rise(done, 4) for done in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert rise(0, 0) == 1
    assert [cosine(done, 4) for done in (-1, 0, 2, 4, 5)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert cosine(2, 4, floor=0.1) == pytest.approx(0.55) and cosine(4, 4, 0.1) == 0.1
    assert power(1, 4, 2.0) == pytest.approx(0.5625)


@pytest.mark.parametrize("steps", [2, 3, 7, 40])
def test_the_cycle_is_that_of_torch(steps: int) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], 0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert one_cycle(step, steps, 0.1, 0.004, 0.004 / 1e4) == pytest.approx(group["lr"])
        assert one_cycle(step, steps, 0.85, 0.95, 0.95) == pytest.approx(group["betas"][0])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
