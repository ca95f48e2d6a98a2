"""Objectives by name: what is known of each, hand-worked losses, and the documented way to add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_helpers import DENSE
from torch import Tensor

from geo3d.distill.derivatives import Derivative
from geo3d.distill.flow import SIGMA_MIN
from geo3d.distill.levels import TimestepDistribution
from geo3d.errors import ConfigError
from scenes.objects import objectives
from scenes.objects.objectives import OBJECTIVES, ObjectiveConfig, batch_loss, make_batch
from scenes.objects.ss_flow import SparseStructureFlowModel
from scenes.objects.training_batch import Draws, Latents, Roles, TwoTimes

DOCS = Path(__file__).parents[3] / "docs" / "objectives.md"


def network(seed: int) -> SparseStructureFlowModel:
    made = SparseStructureFlowModel(DENSE, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def case(kind: str, b: int = 2) -> tuple[Roles, Latents, Draws]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    facts = OBJECTIVES[kind]
    student: Any = network(1)
    student = TwoTimes(student) if facts.has_two_times else student
    tracker = network(7) if facts.has_tracker else None
    x = [normal(b, 2, 4, 4, 4) for _ in range(4)]
    uniform = [torch.rand(b, generator=generator) for _ in range(4)]
    draws = Draws(x[1], uniform[0], x[2], x[3], uniform[1], uniform[2], uniform[3])
    teacher = network(3) if facts.needs_teacher else None
    return Roles(student, teacher, tracker), Latents(x[0], normal(b, 3, 6)), draws


def settings(kind: str, **changes: Any) -> ObjectiveConfig:
    return ObjectiveConfig(kind=kind, time=TimestepDistribution("uniform"), **changes)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_gives_its_student_gradients_and_draws_no_time_too_low(kind: str) -> None:
    roles, latents, draws = case(kind)
    config = settings(kind, guidance_scale=3.0 if roles.teacher else 1.0)
    loss = batch_loss(roles, latents, draws, config)
    loss.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in roles.student.parameters())
    for other in (roles.teacher, roles.tracker):
        assert other is None or all(p.grad is None for p in other.parameters())
    reach = {"none": 0.0, "derivative": 0.01, "interval": 0.01}[config.facts.reach]
    assert config.lowest == SIGMA_MIN + reach
    exact = settings(kind, derivative=Derivative("jvp"))
    assert exact.lowest == SIGMA_MIN + (0.01 if config.facts.reach == "interval" else 0.0)


def test_the_teachers_guidance_is_that_of_the_formula() -> None:
    roles, latents, draws = case("regression")
    config = settings("regression", guidance_scale=3.0, guidance_interval=(0.0, 1.0))
    batch = make_batch(roles, latents, draws, config)
    x, t = batch.place().x, batch.t
    teacher = batch.velocity("teacher")
    c = teacher(x, t, latents.condition)
    u = teacher(x, t, torch.zeros_like(latents.condition))
    loss = batch_loss(roles, latents, draws, config)
    student = batch.velocity("student")(x, t, latents.condition)
    expected = (student - (u + 3.0 * (c - u))).square().mean()
    torch.testing.assert_close(loss.total, expected)


def test_distillation_has_its_own_guidance_noise_and_weight() -> None:
    roles, latents, draws = case("velocity")
    plain = batch_loss(roles, latents, draws, settings("velocity", distillation_weight=1.0))
    twice = batch_loss(roles, latents, draws, settings("velocity", distillation_weight=2.0))
    assert twice.parts["matching"] == plain.parts["matching"]
    torch.testing.assert_close(twice.parts["distillation"], 2 * plain.parts["distillation"])
    torch.testing.assert_close(twice.total, sum(twice.parts.values()))
    for change in ({"distillation_guidance_scale": 2.0}, {"distillation_noise": "fresh"}):
        other = settings("velocity", distillation_weight=1.0, **change)
        found = batch_loss(roles, latents, draws, other).parts
        assert found["matching"] == plain.parts["matching"]
        assert found["distillation"] != plain.parts["distillation"]


def test_dropped_conditions_are_zeros_for_the_student_alone() -> None:
    roles, latents, draws = case("regression")
    batch = make_batch(roles, latents, draws, settings("regression", drop_condition=1.0))
    assert not batch.condition.any() and latents.condition.any()
    kept = make_batch(roles, latents, draws, settings("regression"))
    assert torch.equal(kept.condition, latents.condition)
    x, t = batch.place().x, batch.t
    field = batch.field(1.0, (0.0, 1.0))
    assert torch.equal(field(x, t, batch.condition), field(x, t, latents.condition))


def test_samples_of_the_student_are_of_the_step_that_is_drawn() -> None:
    roles, latents, draws = case("distribution")
    for uniform, steps in ((0.49, 1), (0.51, 2), (1.0, 2)):
        own = Draws(**{**vars(draws), "uniform": torch.full((2,), uniform)})
        batch = make_batch(roles, latents, own, settings("distribution", student_steps=2))
        student, z = batch.velocity("student"), own.start
        ones, x, t = torch.ones(2), z, torch.ones(2)
        if steps == 2:
            x, t = z - 0.5 * student(z, ones, latents.condition), 0.5 * ones
        expected = x - t[:, None, None, None, None] * student(x, t, latents.condition)
        torch.testing.assert_close(batch.own_sample(2), expected)


def test_without_a_teacher_the_diagonal_learns_the_path() -> None:
    roles, latents, draws = case("lagrangian")
    batch = make_batch(roles, latents, draws, settings("lagrangian"))
    on_path = torch.tensor([True, False])
    x, t = batch.place().x, batch.t
    own = objectives.own_field(batch, on_path)(x, t, batch.condition)
    path = (1 - SIGMA_MIN) * draws.noise - latents.values
    assert torch.equal(own[0], path[0]) and not torch.equal(own[1], path[1])
    mean = batch.mean_velocity()(x, t, t, batch.condition)
    assert torch.equal(own[1], mean[1])
    assert torch.equal(objectives.path_field(batch, on_path)(x, t, batch.condition), path)


def test_the_documented_objective_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    monkeypatch.setattr(objectives, "OBJECTIVES", {**OBJECTIVES, **names["line"]})
    roles, latents, draws = case("velocity")
    config = settings("second_order", guidance_scale=2.0, distillation_weight=1.0)
    loss = batch_loss(roles, latents, draws, config)
    loss.total.backward()
    assert set(loss.parts) == {"matching", "distillation"} and loss.total > 0
    assert config.lowest == SIGMA_MIN + 0.01


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "magic"}, "velocity"),
        ({"guidance_scale": 0.5}, "at least 1"),
        ({"distillation_guidance_scale": 0.0}, "at least 1"),
        ({"kind": "regression", "distillation_weight": 1.0}, "velocity, consistency, scm"),
        ({"guidance_interval": (0.5, 1.5)}, "guidance_interval"),
        ({"guidance_interval": (0.6, 0.5)}, "guidance_interval"),
        ({"phases": 0}, "phases"),
        ({"matching_weight": -1.0}, "matching_weight"),
        ({"drop_condition": 1.1}, "drop_condition"),
        ({"derivative": Derivative("difference", 0.5)}, "interval"),
    ],
)
def test_impossible_settings(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        ObjectiveConfig(**change)
    assert caught.value.code == "config.bad_value"
