"""Small students trained for seconds on a mixture whose flow map is known: they approach it.

A student with one step must map noise to where the exact flow takes it.  What regression on the
teacher's velocity reaches (one Euler step) is the level to beat.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from flow_helpers import Line, TinyStudent, flow_matching, mean_to
from torch import Tensor

from geo3d.distill.derivatives import Derivative
from geo3d.distill.flow import SIGMA_MIN, Items, perturb
from geo3d.distill.flow_maps import bootstrap, diagonal, eulerian, lagrangian
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
from geo3d.distill.levels import TimestepDistribution

LAW = Line((-1.0, 1.0), (0.35, 0.25), (0.4, 0.6))
BATCH = 512
ITEMS = Items(BATCH)
EXACT = Derivative("jvp")
STEP = Derivative("difference", 0.05)
Loss = Callable[["Round"], Tensor]


class Round:
    """The draws of a training step, and the student."""

    def __init__(self, student: TinyStudent, generator: torch.Generator, lowest: float) -> None:
        uniform = TimestepDistribution("uniform")
        self.student = student
        self.clean = LAW.draw(BATCH, 1, generator)
        self.noise = torch.randn(BATCH, 1, generator=generator)
        self.z = torch.randn(BATCH, 1, generator=generator)
        self.t = uniform.times(torch.rand(BATCH, generator=generator), lowest)
        self.share = torch.rand(BATCH, generator=generator)
        self.place = Place(perturb(self.clean, self.noise, self.t, ITEMS), self.t, None, ITEMS)
        self.start = Place(self.z, torch.ones(BATCH), None, ITEMS)
        self.one_time = mean_to(student, torch.zeros(BATCH))


def squared(pair: Pair) -> Tensor:
    return pair.squared_error().mean()


def vm(r: Round, how: Derivative = EXACT) -> Tensor:
    return squared(velocity_matching(r.one_time, LAW.velocity, r.place, How(how)))


def vm_vd(r: Round) -> Tensor:
    def residual(place: Place) -> Pair:
        return velocity_matching(r.one_time, LAW.velocity, place, How(EXACT))

    pair = velocity_distillation(
        r.one_time, residual, r.start, r.noise, r.t, SIGMA_MIN, "one_minus_t"
    )
    return vm(r) + squared(pair)


def regression(r: Round) -> Tensor:
    return squared(field_regression(r.one_time, LAW.velocity, r.place, How()))


def cm(r: Round) -> Tensor:
    return squared(consistency(r.one_time, LAW.velocity, r.place, How(STEP)))


def scm(r: Round) -> Tensor:
    return squared(continuous_consistency(r.one_time, LAW.velocity, r.place, How(EXACT)))


def meanflow(r: Round) -> Tensor:
    s = torch.where(r.share < 0.25, r.t, r.t * (r.share - 0.25) / 0.75)
    path = lambda x, t, c: (1 - SIGMA_MIN) * r.noise - r.clean  # noqa: E731
    return squared(eulerian(r.student, path, r.place, s, EXACT))


def eulerian_teacher(r: Round) -> Tensor:
    return squared(eulerian(r.student, LAW.velocity, r.place, r.t * r.share, EXACT))


def lagrangian_teacher(r: Round) -> Tensor:
    return squared(lagrangian(r.student, LAW.velocity, r.place, r.t * r.share, EXACT))


def lagrangian_self(r: Round) -> Tensor:
    on_path = squared(flow_matching(diagonal(r.student), r.clean, r.noise, r.place, SIGMA_MIN))
    return on_path + squared(
        lagrangian(r.student, diagonal(r.student), r.place, r.t * r.share, EXACT)
    )


def data_free(r: Round) -> Tensor:
    return squared(lagrangian(r.student, LAW.velocity, r.start, r.share, EXACT))


def boot(r: Round) -> Tensor:
    return squared(bootstrap(r.student, LAW.velocity, r.start, 0.05 + 0.95 * r.share, STEP))


@functools.cache
def trained(loss: Loss, steps: int = 1500) -> float:
    """Return the mean squared distance of one-step samples to the exact map's."""
    student, generator = TinyStudent(0), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(Round(student, generator, 0.06)).backward()
        optimiser.step()
        schedule.step()
    return distance(student)


def test_points() -> tuple[Tensor, Tensor]:
    z = torch.special.ndtri((torch.arange(400.0) + 0.5) / 400)[:, None]
    return z, LAW.map(z, torch.ones(400), torch.zeros(400))


test_points.__test__ = False  # type: ignore[attr-defined]


@torch.no_grad()
def distance(student: TinyStudent) -> float:
    z, exact = test_points()
    sample = z - student(z, torch.ones(400), torch.zeros(400))
    return float((sample - exact).square().mean())


LIMITS: dict[str, tuple[Loss, float]] = {
    "velocity matching": (vm, 0.02),
    "matching and distillation": (vm_vd, 0.02),
    "finite difference": (functools.partial(vm, how=Derivative("difference", 1e-3)), 0.02),
    "consistency": (cm, 0.06),
    "scm": (scm, 0.03),
    "meanflow": (meanflow, 0.06),
    "eulerian": (eulerian_teacher, 0.02),
    "lagrangian": (lagrangian_teacher, 0.02),
    "self-distillation": (lagrangian_self, 0.04),
    "data-free": (data_free, 0.02),
    "boot": (boot, 0.04),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_a_student_approaches_the_exact_map(name: str) -> None:
    loss, limit = LIMITS[name]
    assert trained(loss) < limit


@pytest.mark.slow
def test_regression_stays_where_one_step_of_the_teacher_is() -> None:
    z, exact = test_points()
    euler = float((z - LAW.velocity(z, torch.ones(400)) - exact).square().mean())
    # other objectives come below 0.06; how near a small network comes depends on the machine
    assert trained(regression) == pytest.approx(euler, abs=0.25)
    assert euler > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["unit_l2", "unit_rms"])
def test_normalised_derivatives_miss_the_map(norm: str) -> None:
    """Dividing the derivative by its norm moves the fixed point; the formula of the paper wins."""
    loss = functools.partial(vm, how=Derivative("jvp", norm=norm))
    assert trained(loss) > 2 * trained(vm)


@pytest.mark.slow
def test_distribution_matching_makes_the_right_distribution() -> None:
    student, tracker = TinyStudent(0), TinyStudent(1)
    generator = torch.Generator().manual_seed(0)
    # the student begins as a teacher, the tracker too
    for network in (student, tracker):
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(400):
            optimiser.zero_grad()
            regression(Round(network, generator, 0.02)).backward()
            optimiser.step()
    before = quantile_error(student)
    slow = torch.optim.Adam(student.parameters(), lr=5e-4, betas=(0.0, 0.9))
    fast = torch.optim.Adam(tracker.parameters(), lr=2e-3, betas=(0.0, 0.9))
    for _ in range(500):
        for _ in range(3):
            r = Round(student, generator, 0.02)
            with torch.no_grad():
                sample = sample_at(r.one_time, r.start, (1.0,), 0)
            place = r.place.moved(perturb(sample, r.noise, r.t, ITEMS), r.t)
            fast.zero_grad()
            own = mean_to(tracker, torch.zeros(BATCH))
            squared(flow_matching(own, sample, r.noise, place, SIGMA_MIN)).backward()
            fast.step()
        r = Round(student, generator, 0.02)
        sample = sample_at(r.one_time, r.start, (1.0,), 0)
        slow.zero_grad()
        squared(
            distribution_matching(sample, own, LAW.velocity, r.noise, r.place, SIGMA_MIN)
        ).backward()
        slow.step()
    assert quantile_error(student) < 0.25 * before


@torch.no_grad()
def quantile_error(student: TinyStudent) -> float:
    """Return the squared distance of the sorted samples to the law's quantiles."""
    z, exact = test_points()
    sample = z - student(z, torch.ones(400), torch.zeros(400))
    return float((sample.flatten().sort().values - exact.flatten()).square().mean())
