from __future__ import annotations

import pytest
import torch

from geo3d.errors import NumericalError, ShapeError
from scenes.urban.constraints import (
    ConstraintConfig,
    LayoutRays,
    RenderedRays,
    constraint_losses,
    coverage_loss,
    depth_loss,
    outside_loss,
    semantic_loss,
)
from scenes.urban.rollback import Rollback, RollbackConfig


def test_matter_outside_primitives_by_hand() -> None:
    t = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    # two primitives, 1.5 to 2.5 and 3.9 to 5, and one unused row
    segments = torch.tensor([[[1.5, 2.5], [3.9, 5.0], [-1.0, -1.0]]])
    assert outside_loss(weights, t, segments).item() == pytest.approx(0.4)
    assert outside_loss(weights, t, segments, slack=0.4).item() == pytest.approx(0.4)
    assert outside_loss(weights, t, segments, slack=0.5).item() == 0
    assert outside_loss(weights, t, segments[:, 2:], slack=9.0).item() == pytest.approx(1.0)


def test_depth_coverage_and_classes_by_hand() -> None:
    layout = torch.tensor([9.0, 4.0, -1.0])
    depth = torch.tensor([12.0, 4.5, 77.0])
    assert depth_loss(depth, layout, 1.0).item() == pytest.approx((2 / 10 + 0) / 2)
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.25], [0.0, 0.0]])
    assert coverage_loss(weights, layout).item() == pytest.approx(0.25)
    logits = torch.zeros(3, 4)
    assert semantic_loss(logits, torch.tensor([0, 3, -1])).item() == pytest.approx(1.386294)
    assert semantic_loss(logits, torch.tensor([-1, -1, -1])).item() == 0


def test_constraint_losses_are_switched_off_one_by_one_and_have_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 3, generator=draws).requires_grad_()
    depth = (torch.rand(5, generator=draws) * 9).requires_grad_()
    logits = torch.randn(5, 4, generator=draws).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, -1])
    layout = LayoutRays(torch.full((5,), 20.0), label, torch.tensor([[[0.0, 0.5]]]).expand(5, 1, 2))
    rendered = RenderedRays(depth, weights, torch.tensor([[0.1, 1, 2]]).expand(5, 3), logits)
    losses = constraint_losses(rendered, layout)
    assert set(losses) == {"density", "depth", "semantics"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (weights, depth, logits))
    for name in losses:
        off = ConstraintConfig(**{name: 0.0})  # type: ignore[arg-type]
        assert set(constraint_losses(rendered, layout, off)) == set(losses) - {name}
    with pytest.raises(ShapeError, match=r"constraints.no_head"):
        constraint_losses(RenderedRays(depth, weights, weights), layout)


def test_default_weights_and_tolerances_by_hand() -> None:
    """One primitive, 2 to 3 m, seen at 4.5 m; matter a little and far outside of it."""
    t = torch.tensor([[1.7, 1.8, 3.2, 3.3]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.15]])
    layout = LayoutRays(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([[[2.0, 3.0]]]))
    rendered = RenderedRays(torch.tensor([4.5]), weights, t, torch.zeros(1, 4))
    losses = constraint_losses(rendered, layout)
    # 0.25 m are free: 0.1 and 0.15 lie outside, and 0.25 of the pixel is missing
    assert losses["density"].item() == pytest.approx(0.25 + 0.25)
    # half of (2.5 - 1) / (1 + 2), and a tenth of ln 4
    assert losses["depth"].item() == pytest.approx(0.5 * 1.5 / 3)
    assert losses["semantics"].item() == pytest.approx(0.1 * 1.386294)
    doubled = constraint_losses(rendered, layout, ConstraintConfig(2.0, 1.0, 0.2))
    for name, loss in losses.items():
        assert doubled[name].item() == pytest.approx(2 * loss.item())


def optimised() -> tuple[torch.nn.Linear, torch.optim.Adam]:
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def train(model: torch.nn.Linear, optimiser: torch.optim.Adam) -> None:
    optimiser.zero_grad()
    model(torch.ones(1, 2)).square().sum().backward()
    optimiser.step()


def test_a_bad_step_brings_back_the_last_copy_bit_by_bit() -> None:
    model, optimiser = optimised()
    guard = Rollback({"model": model, "optimiser": optimiser}, RollbackConfig(every=2))
    kept = {}
    for step in range(5):
        train(model, optimiser)
        guard.check(step, 1.0)
        if step == 3:
            kept = {k: v.clone() for k, v in model.state_dict().items()}
            moment = optimiser.state[model.weight]["exp_avg"].clone()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"rollback.not_finite") as caught:
        guard.check(5, float("nan"))
    assert guard.recover(5, caught.value) == 4
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert torch.equal(optimiser.state[model.weight]["exp_avg"], moment)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.05)
    assert model.weight.grad is None
    assert guard.report()[0]["step"] == 5 and guard.attempt == 1
    train(model, optimiser)  # the copy must survive what follows
    assert guard.recover(6, caught.value) == 4
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.025)


def test_values_far_above_the_usual_are_a_divergence_but_one_spike_is_not() -> None:
    guard = Rollback({}, RollbackConfig(window=10, factor=10, patience=3))
    for step in range(20):
        guard.check(step, 500.0 if step == 15 else 1.0 + step / 10)
    guard.check(20, 900.0)
    guard.check(21, 900.0)
    with pytest.raises(NumericalError, match=r"rollback.diverged"):
        guard.check(22, 900.0)


def test_it_gives_up_after_some_returns_in_the_last_good_state() -> None:
    model, optimiser = optimised()
    guard = Rollback({"model": model}, RollbackConfig(most=1))
    start = model.weight.detach().clone()
    error = NumericalError("distill.not_finite", "bad")
    assert guard.recover(3, error) == 0
    train(model, optimiser)
    with pytest.raises(NumericalError, match=r"rollback.gave_up"):
        guard.recover(4, error)
    assert torch.equal(model.weight, start)
