"""Objectives of students: zero at the exact flow map, gradients by hand, known estimators."""

from __future__ import annotations

import pytest
import torch
from flow_helpers import NormalLaw, flow_matching, mean_to
from torch import Tensor

from geo3d.distill.derivatives import Derivative, derivative_along, normalised
from geo3d.distill.flow import SIGMA_MIN, Items
from geo3d.distill.flow_maps import (
    adaptive_weight,
    bootstrap,
    diagonal,
    eulerian,
    lagrangian,
    ordered_times,
)
from geo3d.distill.flow_objectives import (
    How,
    Pair,
    Place,
    consistency,
    continuous_consistency,
    distribution_matching,
    field_regression,
    sample_at,
    velocity_distillation,
    velocity_matching,
)

LAW = NormalLaw()
EXACT = Derivative("jvp")
N = 12


def here(lowest: float = 0.05, seed: int = 0) -> Place:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    t = lowest + (1 - lowest) * torch.rand(N, generator=generator, dtype=torch.float64)
    return Place(x, t, None, Items(N))


def ends(place: Place) -> Tensor:
    return place.t * torch.linspace(0.1, 0.9, N, dtype=torch.float64)


def error(pair: Pair) -> float:
    return float((pair.prediction - pair.target).abs().max())


def test_the_exact_mean_velocity_leaves_no_residual() -> None:
    place, field, phi = here(), LAW.velocity, LAW.mean_to_data
    assert error(velocity_matching(phi, field, place, How(EXACT))) < 1e-9
    assert error(continuous_consistency(phi, field, place, How(EXACT))) < 1e-8
    assert error(eulerian(LAW.mean, field, place, ends(place), EXACT)) < 1e-9
    assert error(lagrangian(LAW.mean, field, place, ends(place), EXACT)) < 1e-9
    assert error(field_regression(field, field, place, How())) == 0
    # and another student is told from it
    assert error(velocity_matching(field, field, place, How(EXACT))) > 0.05
    assert (
        error(lagrangian(lambda x, t, s, c: field(x, t, c), field, place, ends(place), EXACT))
        > 0.05
    )
    # while the regression does not see the difference that matters
    assert error(field_regression(phi, field, place, How())) > 0.05


@pytest.mark.parametrize("kind", ["vm", "cm", "pcm", "boot", "eulerian", "lagrangian"])
def test_finite_steps_leave_a_residual_of_their_order(kind: str) -> None:
    place, field, phi = here(0.3), LAW.velocity, LAW.mean_to_data

    def residual(h: float) -> float:
        s, step = ends(place).clamp(min=0.1), Derivative("difference", h)
        if kind == "vm":
            pair = velocity_matching(phi, field, place, How(step))
        elif kind == "boot":
            pair = bootstrap(LAW.mean, field, place, s, step)
        elif kind == "eulerian":
            pair = eulerian(LAW.mean, field, place, s, step)
        elif kind == "lagrangian":
            pair = lagrangian(LAW.mean, field, place, s, step)
        else:
            student = phi if kind == "cm" else phased(phi)
            phases = 1 if kind == "cm" else 2
            pair = consistency(student, field, place, How(step, phases))
        return error(pair)

    def phased(phi):
        def student(x: Tensor, t: Tensor, condition: object) -> Tensor:
            # the exact map to the end of the phase that t - h is in; t is never near 0.5 + h
            return LAW.mean(x, t, torch.where(t > 0.51, 0.5, 0.0).to(t))

        return student

    coarse, fine = residual(4e-3), residual(1e-3)
    assert 0 < coarse < 0.05
    # consistency makes an error of order 2 per step, the others of order 1
    assert fine < coarse / (12 if kind in ("cm", "pcm") else 3.5)


def test_difference_and_exact_derivative_agree_and_save_an_evaluation() -> None:
    place = here(0.3)
    v = LAW.velocity(place.x, place.t)
    calls = []

    def phi(x: Tensor, t: Tensor) -> Tensor:
        calls.append(0)
        return LAW.mean_to_data(x, t)

    known = phi(place.x, place.t)
    at, tangent = (place.x, place.t), (v, torch.ones_like(place.t))
    exact = derivative_along(phi, at, tangent, EXACT, known)
    calls.clear()
    near = Derivative("difference", 1e-5)
    rough = derivative_along(phi, at, tangent, near, known)
    assert len(calls) == 1
    forward = derivative_along(phi, at, tangent, near, known, ahead=True)
    assert torch.allclose(exact, forward, atol=1e-3) and not torch.equal(rough, forward)
    assert torch.allclose(exact, rough, atol=1e-3)
    # by hand: MDT's identity phi + t dphi/dt = v
    by_hand = (v - known) / place.t[:, None]
    assert torch.allclose(exact, by_hand, atol=1e-9)


def test_norms_by_hand() -> None:
    slope = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 12.0]])
    items = Items(2, torch.tensor([0, 1, 1]))
    assert torch.equal(normalised(slope, items, "none"), slope)
    unit = normalised(slope, items, "unit_l2")
    assert torch.allclose(unit[0], slope[0] / 5.1) and torch.allclose(unit[2], slope[2] / 12.1)
    rms = normalised(slope, items, "unit_rms")
    assert torch.allclose(rms[0], unit[0] * 2**0.5) and torch.allclose(rms[2], unit[2] * 2.0)


def test_sparse_is_dense_item_by_item() -> None:
    """Rows with an index give what the items give one by one, for every objective."""
    place = here(0.3)
    index = torch.tensor([0] * 5 + [1] * 4 + [2] * 3)
    t = torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64)
    s = t / 2
    joint = Place(place.x, t, None, Items(3, index))

    def rowwise(law):
        # the known laws take one time per row
        return lambda x, *args: law(x, *(a[index[: len(x)] + shift] for a in args[:-1]), None)

    for how in (Derivative("jvp", norm="unit_rms"), Derivative("difference", norm="unit_l2")):
        shift = 0
        whole = velocity_matching(rowwise(LAW.velocity), rowwise(LAW.velocity), joint, How(how))
        maps = eulerian(rowwise(LAW.mean), rowwise(LAW.velocity), joint, s, EXACT)
        for item in range(3):
            rows = index == item
            alone = Place(place.x[rows][None], t[item : item + 1], None, Items(1))
            wide = lambda x, t, c: LAW.velocity(x[0], t.expand(len(x[0])))[None]  # noqa: E731
            part = velocity_matching(wide, wide, alone, How(how))
            assert torch.allclose(whole.target[rows], part.target[0])
            mean = lambda x, t, s, c: LAW.mean(x[0], t.expand(len(x[0])), s.expand(len(x[0])))[None]  # noqa: E731
            part = eulerian(mean, wide, alone, s[item : item + 1], EXACT)
            assert torch.allclose(maps.target[rows], part.target[0])


class Scaled(torch.nn.Module):
    """phi(x, t) = a x + b t: two parameters, all derivatives by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: object = None) -> Tensor:
        return self.a * x + self.b * t[:, None]


def test_velocity_matching_by_hand() -> None:
    place, student = here(), Scaled()
    v = LAW.velocity(place.x, place.t)
    for how in (EXACT, Derivative("difference", 0.01)):
        student.zero_grad()
        pair = velocity_matching(student, LAW.velocity, place, How(how))
        t = place.t[:, None]
        target = v - t * (0.7 * v - 0.2)
        assert torch.allclose(pair.target, target)
        assert not pair.target.requires_grad
        pair.squared_error().mean().backward()
        difference = 0.7 * place.x - 0.2 * t - target
        assert torch.allclose(student.a.grad, (2 * difference * place.x).mean())
        assert torch.allclose(student.b.grad, (2 * difference * t).mean())


@pytest.mark.parametrize("weight", ["one", "one_minus_t"])
def test_velocity_distillation_by_hand(weight: str) -> None:
    place, student = here(), Scaled()
    z, noise = place.x, here(seed=1).x
    one = torch.ones(N, dtype=torch.float64)
    start = place.moved(z, one)

    def residual(there: Place) -> Pair:
        return velocity_matching(student, LAW.velocity, there, How(EXACT))

    pair = velocity_distillation(student, residual, start, noise, place.t, SIGMA_MIN, weight)
    pair.squared_error().sum().backward()
    with torch.no_grad():
        t = place.t[:, None]
        sample = z - student(z, one)
        x = (1 - t) * sample + (SIGMA_MIN + (1 - SIGMA_MIN) * t) * noise
        found = residual(place.moved(x, place.t))
        difference = found.prediction - found.target
        if weight == "one_minus_t":
            difference = difference * (1 - t)
    assert torch.allclose(pair.squared_error(), difference.square())
    assert torch.allclose(student.a.grad, (2 * difference * z).sum())
    assert torch.allclose(student.b.grad, (2 * difference).sum())


def test_consistency_by_hand_with_no_gradient_in_its_target() -> None:
    place, student = here(0.2), Scaled()
    pair = consistency(student, LAW.velocity, place, How(Derivative("difference", 0.05)))
    assert not pair.target.requires_grad
    t, lower = place.t[:, None], place.t[:, None] - 0.05
    before = place.x - 0.05 * LAW.velocity(place.x, place.t)
    assert torch.allclose(pair.prediction, place.x - t * (0.7 * place.x - 0.2 * t))
    assert torch.allclose(pair.target, before - lower * (0.7 * before - 0.2 * lower))


def test_scm_tangent_has_at_most_unit_size() -> None:
    place, student = here(), Scaled()
    for warmth in (0.0, 0.5, 1.0):
        pair = continuous_consistency(student, LAW.velocity, place, How(EXACT, warmth=warmth))
        step = (pair.target - pair.prediction).detach().square().mean(dim=1).sqrt()
        assert float(step.max()) < 1
    plain = continuous_consistency(student, LAW.velocity, place, How(EXACT, warmth=0.0))
    regression = LAW.velocity(place.x, place.t) - plain.prediction
    cosine = torch.cosine_similarity(plain.target - plain.prediction, regression)
    assert torch.allclose(cosine, torch.ones_like(cosine))


def test_flow_matching_is_minimal_at_the_mean_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    clean = LAW.line.draw(n, 1, generator)
    noise, t = torch.randn(n, 1, generator=generator), torch.rand(n, generator=generator)
    x = (1 - t[:, None]) * clean + (SIGMA_MIN + (1 - SIGMA_MIN) * t[:, None]) * noise
    place = Place(x, t, None, Items(n))

    def loss(shift: float) -> float:
        def student(x: Tensor, t: Tensor, condition: object) -> Tensor:
            return LAW.velocity(x, t) + shift

        return float(flow_matching(student, clean, noise, place, SIGMA_MIN).squared_error().mean())

    assert loss(0.0) < min(loss(0.1), loss(-0.1))


def test_self_distillation_and_helpers() -> None:
    place = here()
    s = ends(place)
    own = diagonal(lambda x, t, s, c: x + t[:, None] + 10 * s[:, None])
    assert torch.allclose(own(place.x, place.t, None), place.x + 11 * place.t[:, None])
    fixed = mean_to(LAW.mean, s)
    assert torch.equal(fixed(place.x, place.t, None), LAW.mean(place.x, place.t, s))
    mapped = place.jump(fixed, s)
    assert torch.allclose(mapped, LAW.line.map(place.x, place.t, s), atol=1e-9)
    t, lower = ordered_times(
        torch.tensor([0.2, 0.9, 0.5]),
        torch.tensor([0.8, 0.1, 0.3]),
        torch.tensor([0.9, 0.9, 0.1]),
        0.5,
    )
    assert t.tolist() == pytest.approx([0.8, 0.9, 0.5])
    assert lower.tolist() == pytest.approx([0.2, 0.1, 0.5])
    weight = adaptive_weight(torch.tensor([[1.0], [4.0]]), Items(2), 1.0, 0.0)
    assert weight.tolist() == pytest.approx([1.0, 0.25])


def test_boot_starts_from_the_field_at_noise() -> None:
    one = torch.ones(N, dtype=torch.float64)
    start = here().moved(here().x, one)
    pair = bootstrap(
        lambda x, t, s, c: 0 * x, LAW.velocity, start, one, Derivative("difference", 0.1)
    )
    assert torch.allclose(pair.target, LAW.velocity(start.x, one))


def test_distribution_matching_pulls_towards_the_teacher() -> None:
    start = here().moved(here().x, torch.ones(N, dtype=torch.float64))
    sample = sample_at(LAW.mean_to_data, start, (1.0,), 0)
    assert torch.allclose(sample, LAW.line.map(start.x, start.t, 0 * start.t), atol=1e-9)
    # the second of two steps: half the way, then the jump from there
    second = sample_at(LAW.mean_to_data, start, (1.0, 0.5), 1)
    half = torch.full_like(start.t, 0.5)
    there = start.x - 0.5 * LAW.mean_to_data(start.x, start.t)
    assert torch.allclose(second, there - 0.5 * LAW.mean_to_data(there, half))
    noise, there = here(seed=1).x, here(seed=2)

    def pull(tracker: NormalLaw) -> Tensor:
        pair = distribution_matching(
            sample, tracker.velocity, LAW.velocity, noise, there, SIGMA_MIN
        )
        return pair.target - pair.prediction

    assert torch.allclose(pull(LAW), torch.zeros(()).double(), atol=1e-9)
    # samples that lie too far right, as the tracker says, are pulled to the left
    assert float(pull(NormalLaw(centre=0.9)).max()) < 0


def test_scm_by_hand() -> None:
    # phi = x + 2 t, v = 3 at x 1, t 0.5: dphi/dt = 3 + 2 = 5; phi = 2;
    # tangent 3 - 2 - r 0.5 * 5, normalised by its size + 0.1
    place = Place(torch.ones(1, 1), torch.tensor([0.5]), None, Items(1))

    def student(x: Tensor, t: Tensor, condition: object) -> Tensor:
        return x + 2 * t[:, None]

    for warmth, tangent in ((0.0, 1.0), (1.0, -1.5)):
        how = How(EXACT, warmth=warmth)
        pair = continuous_consistency(student, lambda x, t, c: 3 + 0 * x, place, how)
        expected = 2 + tangent / (abs(tangent) + 0.1)
        assert pair.prediction.item() == pytest.approx(2.0)
        assert pair.target.item() == pytest.approx(expected)


def test_distribution_matching_by_hand() -> None:
    place = Place(torch.zeros(1, 2), torch.tensor([0.5]), None, Items(1))
    sample, noise = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, -2.0]])
    pair = distribution_matching(
        sample, lambda x, t, c: 0 * x, lambda x, t, c: 0 * x + 1, noise, place, 0.0
    )
    # x_t = (1.5, 0.5): the tracker sees the data there, the teacher 0.5 below, at (1, 0);
    # scale mean(|1 - 1|, |3 - 0|) = 1.5, so both entries move by -0.5 / 1.5
    assert pair.target.flatten().tolist() == pytest.approx([1 - 1 / 3, 3 - 1 / 3])
    still = distribution_matching(
        sample, lambda x, t, c: 0 * x - 1e-7, lambda x, t, c: 2 * (x - sample), noise, place, 0.0
    )
    assert torch.isfinite(still.target).all()


def test_maps_by_hand() -> None:
    # u = x + 2 t + 5 s and v = 3 at x 1, t 0.5, s 0.25: u = 3.25
    place = Place(torch.ones(1, 1), torch.tensor([0.5]), None, Items(1))
    s = torch.tensor([0.25])

    def student(x: Tensor, t: Tensor, s: Tensor, condition: object) -> Tensor:
        return x + 2 * t[:, None] + 5 * s[:, None]

    for how in (EXACT, Derivative("difference", 0.125)):
        found = eulerian(student, lambda x, t, c: 3 + 0 * x, place, s, how)
        # 3 - 0.25 (3 + 2)
        assert (found.prediction.item(), found.target.item()) == pytest.approx((3.25, 1.75))
        # v at x - 0.25 u, which is 10 times that, and 0.25 * 5
        found = lagrangian(student, lambda x, t, c: 10 * x + t[:, None], place, s, how)
        assert found.target.item() == pytest.approx(10 * (1 - 0.25 * 3.25) + 0.25 + 1.25)
    # to 0.125: u(0.25) = 3.25 carries 1 to 0.1875; a step of 0.125 with v = 3 goes on from there
    found = bootstrap(student, lambda x, t, c: 3 + 0 * x, place, s, Derivative("difference", 0.125))
    assert found.prediction.item() == pytest.approx(1 + 1 + 0.625)
    assert found.target.item() == pytest.approx((1 - 0.1875 + 0.375) / 0.375)


def test_adaptive_weights_and_equal_times_at_their_limits() -> None:
    weight = adaptive_weight(torch.tensor([[0.0], [0.999]]), Items(2), 0.5)
    assert weight.tolist() == pytest.approx([0.001**-0.5, 1.0])
    share = torch.tensor([0.25, 0.24])
    t, s = ordered_times(torch.tensor([0.1, 0.1]), torch.tensor([0.4, 0.4]), share, 0.25)
    assert t.tolist() == pytest.approx([0.4, 0.4]) and s.tolist() == pytest.approx([0.1, 0.4])
