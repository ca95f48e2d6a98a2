"""What a flow network learns: its settings, its objectives by name, and the loss of a batch.

An objective is a function of a `Batch` and its settings that returns weighted pairs of prediction
and target, and a line of `OBJECTIVES`: docs/objectives.md.  Dense and sparse latents look alike.

Notation: x_0 clean latents, eps and z noise, t > s times in [0, 1], 0 at data; phi the student with
one time and u the one with two; see `geo3d.distill.flow_objectives` and `geo3d.distill.flow_maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.config import require, require_at_least
from geo3d.device import item_generator
from geo3d.distill.derivatives import Derivative
from geo3d.distill.flow import SIGMA_MIN, Velocity, path_velocity
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
    Residual,
    consistency,
    continuous_consistency,
    distribution_matching,
    field_regression,
    velocity_distillation,
    velocity_matching,
)
from geo3d.distill.levels import TimestepDistribution
from scenes.objects.training_batch import Batch, Draws, Latents, Roles

Terms = dict[str, tuple[float, Pair]]
"""Weight, prediction and target by name."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the student learns; the defaults are the paper's velocity matching + distillation."""

    kind: str = "velocity"
    """One of `OBJECTIVES`.  flow_matching: the path itself (trains teachers).  regression: the
    teacher's guided velocity (guidance distillation).  velocity: MDT-dist.  consistency: CM, with
    ``phases`` above 1 PCM.  scm: continuous-time consistency.  meanflow: the Eulerian identity,
    teacher or not.  eulerian, lagrangian: self-distillation where there is no teacher, else
    flow-map distillation.  data_free, boot: maps from noise alone.  distribution: DMD2's, without
    a discriminator."""
    guidance_scale: float = 1.0
    """Of the teacher's velocity; 1 is none.  TRELLIS's and MDT-dist's w is this less 1."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times at which the teacher is guided, both ends included."""
    time: TimestepDistribution = field(default_factory=TimestepDistribution)
    sigma_min: float = SIGMA_MIN
    derivative: Derivative = field(default_factory=Derivative)
    matching_weight: float = 1.0
    """Of the loss at perturbed data (velocity, consistency, scm)."""
    distillation_weight: float = 0.0
    """Of velocity distillation: the same residual at the student's own samples."""
    distillation_guidance_scale: float | None = None
    """Guidance scale there; None means ``guidance_scale``."""
    distillation_factor: Literal["one", "one_minus_t"] = "one"
    """Weight over time there: as released, or the paper's."""
    distillation_noise: Literal["shared", "fresh"] = "shared"
    """Whether it perturbs with the noise and time of the other loss, as released."""
    phases: int = 1
    """Phases of consistency; more than 1 needs as many steps or more."""
    warmup_steps: int = 0
    """Steps over which scm turns from regression to consistency."""
    diagonal_share: float = 0.25
    """Share of the items whose jump has no length (meanflow, eulerian, lagrangian)."""
    adaptive_power: float = 0.0
    """Power of MeanFlow's adaptive weight; 0 is none, published 1."""
    student_steps: int = 1
    """Steps of the student's own sampling (distribution)."""
    tracker_updates: int = 5
    """Updates of the tracker per update of the student (distribution)."""
    tracker_learning_rate: float = 1e-4
    drop_condition: float = 0.0
    """Share of the items whose condition is replaced by zeros; teachers need some for guidance."""

    def __post_init__(self) -> None:
        require(self.kind in OBJECTIVES, "kind", f"one of {', '.join(OBJECTIVES)}")
        require_at_least(self, 1, "guidance_scale phases student_steps tracker_updates")
        if self.distillation_guidance_scale is not None:
            require_at_least(self, 1, "distillation_guidance_scale")
        require_at_least(self, 0, "matching_weight distillation_weight warmup_steps")
        low, high = self.guidance_interval
        require(0 <= low <= high <= 1, "guidance_interval", "in [0, 1]")
        require(0 <= self.drop_condition <= 1, "drop_condition", "in [0, 1]")
        require(0 < self.derivative.interval < 0.5, "derivative.interval", "in (0, 0.5)")
        fits = self.distillation_weight == 0 or self.facts.is_residual
        residuals = ", ".join(name for name, entry in OBJECTIVES.items() if entry.is_residual)
        require(fits, "distillation_weight", f"0 for all objectives but {residuals}")

    @property
    def facts(self) -> Objective:
        """What is to be known of the objective."""
        return OBJECTIVES[self.kind]

    @property
    def lowest(self) -> float:
        """Smallest time drawn."""
        how, reach = self.derivative, self.facts.reach
        reaches = {"none": 0.0, "derivative": how.reach, "interval": how.interval}
        return self.sigma_min + reaches[reach]


class Loss(NamedTuple):
    """The loss of a batch."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    """Its weighted terms, without gradients."""
    per_item: Float[Tensor, " b"]
    """Mean squared error of each item."""
    t: Float[Tensor, " b"]


def flow_matching(batch: Batch, config: ObjectiveConfig) -> Terms:
    """Learn the path's velocity, as teachers do."""
    return {"matching": (1.0, Pair(batch.place().see(batch.velocity("student")), batch.path()))}


def residual_terms(objective: Residual, batch: Batch, config: ObjectiveConfig) -> Terms:
    """Learn a residual at perturbed data and, as velocity distillation, at the student's samples.

    Args:
        objective: of `geo3d.distill.flow_objectives`.
        batch: networks and data.
        config: settings.
    """
    draws, terms, student = batch.draws, Terms(), batch.velocity("student")

    def residual(scale: float | None = None) -> Callable[[Place], Pair]:
        field = _teacher(batch, config, scale)
        how = How(config.derivative, config.phases, batch.warmth)
        return lambda place: objective(student, field, place, how)

    if config.matching_weight > 0:
        terms["matching"] = (config.matching_weight, residual()(batch.place()))
    if config.distillation_weight > 0:
        noise, t = draws.noise, batch.t
        if config.distillation_noise == "fresh":
            noise, t = draws.fresh, config.time.times(draws.other, config.lowest)
        pair = velocity_distillation(
            student,
            residual(config.distillation_guidance_scale),
            batch.start(),
            noise,
            t,
            batch.sigma_min,
            config.distillation_factor,
        )
        terms["distillation"] = (config.distillation_weight, pair)
    return terms


def identity_terms(
    identity: Callable[..., Pair],
    without_teacher: Callable[[Batch, Tensor], Velocity],
    batch: Batch,
    config: ObjectiveConfig,
) -> Terms:
    """Learn an identity of flow maps at data, between two times.

    Args:
        identity: of `geo3d.distill.flow_maps`.
        without_teacher: returns the field where there is no teacher, told who is on the diagonal.
        batch: networks and data; its times become the larger ones.
        config: settings.
    """
    share, draws = config.diagonal_share, batch.draws
    other = config.time.times(draws.other, config.sigma_min)
    batch.t, s = ordered_times(batch.t, other, draws.uniform, share)
    has_teacher = batch.roles.teacher is not None
    on_diagonal = draws.uniform < share
    field = _teacher(batch, config) if has_teacher else without_teacher(batch, on_diagonal)
    pair = identity(batch.mean_velocity(), field, batch.place(), s, config.derivative)
    return {"matching": (1.0, pair)}


def path_field(batch: Batch, on_diagonal: Tensor) -> Velocity:
    """Return the path's velocity, wherever one looks (MeanFlow)."""
    path = batch.path()
    return lambda x, t, condition: path


def own_field(batch: Batch, on_diagonal: Tensor) -> Velocity:
    """Return the student's own velocity; on the diagonal the path's, which it learns there."""
    path, own = batch.path(), diagonal(batch.mean_velocity())
    is_path = batch.latents.items.spread(on_diagonal.to(path.dtype), path) > 0
    return lambda x, t, condition: torch.where(is_path, path, own(x, t, condition))


def data_free(batch: Batch, config: ObjectiveConfig) -> Terms:
    """Learn the Lagrangian identity from noise alone."""
    student, field, how = batch.mean_velocity(), _teacher(batch, config), config.derivative
    pair = lagrangian(student, field, batch.start(), batch.t - how.reach, how)
    return {"matching": (1.0, pair)}


def boot(batch: Batch, config: ObjectiveConfig) -> Terms:
    """Learn BOOT's map, from noise alone."""
    student, field, how = batch.mean_velocity(), _teacher(batch, config), config.derivative
    return {"matching": (1.0, bootstrap(student, field, batch.start(), batch.t, how))}


def distribution(batch: Batch, config: ObjectiveConfig) -> Terms:
    """Move the student's samples to where the teacher's lie."""
    sample, noise = batch.own_sample(config.student_steps), batch.draws.noise
    tracker, field = batch.velocity("tracker"), _teacher(batch, config)
    pair = distribution_matching(sample, tracker, field, noise, batch.place(), batch.sigma_min)
    return {"matching": (1.0, pair)}


class Objective(NamedTuple):
    """An objective, and what has to be known of it."""

    terms: Callable[[Batch, ObjectiveConfig], Terms]
    needs_teacher: bool = False
    has_two_times: bool = False
    """Whether the student is told where its jump ends."""
    has_tracker: bool = False
    reach: Literal["none", "derivative", "interval"] = "none"
    """How far below t networks are evaluated: as the derivative does, or always by its interval."""
    is_residual: bool = False
    """Whether velocity distillation can push it through the student's own samples."""


def _residual(objective: Residual, reach: Literal["derivative", "interval"]) -> Objective:
    return Objective(partial(residual_terms, objective), True, reach=reach, is_residual=True)


def _identity(identity: Callable[..., Pair], without_teacher: Any) -> Objective:
    terms = partial(identity_terms, identity, without_teacher)
    return Objective(terms, has_two_times=True, reach="derivative")


OBJECTIVES: Mapping[str, Objective] = {
    "flow_matching": Objective(flow_matching),
    "regression": Objective(partial(residual_terms, field_regression), needs_teacher=True),
    "velocity": _residual(velocity_matching, "derivative"),
    "consistency": _residual(consistency, "interval"),
    "scm": _residual(continuous_consistency, "derivative"),
    "meanflow": _identity(eulerian, path_field),
    "eulerian": _identity(eulerian, own_field),
    "lagrangian": _identity(lagrangian, own_field),
    "data_free": Objective(data_free, needs_teacher=True, has_two_times=True, reach="derivative"),
    "boot": Objective(boot, needs_teacher=True, has_two_times=True, reach="interval"),
    "distribution": Objective(distribution, needs_teacher=True, has_tracker=True),
}
"""Objectives by name, for `ObjectiveConfig.kind`."""


def draw(batch: Latents, config: ObjectiveConfig, seed: int, names: tuple[str, ...]) -> Draws:
    """Return draws that depend on each item's own name only, made on the CPU.

    Args:
        batch: what they are for.
        config: distribution of the times.
        seed: of the training.
        names: one per item, for instance "step 7 item 3".
    """
    rows = [1] * len(names) if batch.grid is None else batch.grid.counts
    parts: list[tuple[Tensor, ...]] = []
    for name, count in zip(names, rows, strict=True):
        generator, shape = item_generator(seed, name), (count, *batch.values.shape[1:])
        # One after the other, in the order of `Draws`: another order is another training.
        noise, raw = torch.randn(shape, generator=generator), config.time.raw(generator)
        start, fresh = (torch.randn(shape, generator=generator) for _ in range(2))
        other = config.time.raw(generator)
        uniform, keep = (torch.rand(1, generator=generator) for _ in range(2))
        parts.append((noise, raw, start, fresh, other, uniform, keep))
    return Draws(*(torch.cat(part) for part in zip(*parts, strict=True))).to(batch.values.device)


def make_batch(
    roles: Roles, latents: Latents, draws: Draws, config: ObjectiveConfig, warmth: float = 1.0
) -> Batch:
    """Return what an objective is made of: times drawn, some conditions dropped."""
    t = config.time.times(draws.raw, config.lowest)
    kept = (draws.keep >= config.drop_condition).to(latents.condition.dtype)
    condition = latents.condition * kept[:, None, None]
    return Batch(roles, latents, draws, t, condition, config.sigma_min, warmth)


def batch_loss(
    roles: Roles, latents: Latents, draws: Draws, config: ObjectiveConfig, warmth: float = 1.0
) -> Loss:
    """Return the student's loss.

    Args:
        roles: the networks; the teacher is not differentiated.
        latents: clean (``data_free`` and ``boot`` use their shapes and conditions only).
        draws: the batch's random numbers.
        config: the objective.
        warmth: share of scm's warm-up that is over.
    """
    batch = make_batch(roles, latents, draws, config, warmth)
    return _loss(config.facts.terms(batch, config), batch, config.adaptive_power)


def tracker_loss(roles: Roles, latents: Latents, draws: Draws, config: ObjectiveConfig) -> Loss:
    """Return the tracker's loss: flow matching on the student's samples."""
    batch = make_batch(roles, latents, draws, config)
    with torch.no_grad():
        sample = batch.own_sample(config.student_steps)
    seen = batch.place(sample).see(batch.velocity("tracker"))
    target = path_velocity(sample, draws.noise, config.sigma_min)
    return _loss({"tracker": (1.0, Pair(seen, target))}, batch)


def _teacher(batch: Batch, config: ObjectiveConfig, scale: float | None = None) -> Velocity:
    """Return the teacher's velocity, guided as the settings or ``scale`` say."""
    guidance_scale = config.guidance_scale if scale is None else scale
    return batch.field(guidance_scale, config.guidance_interval)


def _loss(terms: Terms, batch: Batch, adaptive_power: float = 0.0) -> Loss:
    items = batch.latents.items
    errors = {name: pair.squared_error() for name, (_, pair) in terms.items()}
    total = sum(weight * errors[name] for name, (weight, _) in terms.items())
    if not isinstance(total, Tensor):
        raise TypeError("an objective without terms")
    per_item = items.mean(total.detach())
    parts = {name: terms[name][0] * error.detach().mean() for name, error in errors.items()}
    if adaptive_power > 0:
        weight = adaptive_weight(total, items, adaptive_power)
        total = total * items.spread(weight, total)
    return Loss(total.mean(), parts, per_item, batch.t)
