"""The loss of one batch, for every objective, over dense and sparse latents alike.

Notation: x_0 clean latents, eps and z noise, t > s times, phi the student with one time and u the
one with two; see `geo3d.distill.flow_objectives` and `geo3d.distill.flow_maps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.device import item_generator
from geo3d.distill import flow_maps, flow_objectives
from geo3d.distill.distribution_matching import distribution_matching, sample_at
from geo3d.distill.flow import Items, Velocity, guided, noisy, path_velocity
from geo3d.distill.flow_maps import MeanVelocity, adaptive_weight, ordered_times
from geo3d.distill.flow_objectives import Pair, Place
from scenes.objects.train_config import ObjectiveConfig
from scenes.objects.training_batch import Latents, TwoTimes, as_mean_velocity, as_velocity


@dataclass(frozen=True, eq=False)
class Roles:
    """The networks of a training."""

    student: nn.Module
    """A flow network, or `TwoTimes` around one."""
    teacher: nn.Module | None = None
    tracker: nn.Module | None = None
    """Learns the velocity of the student's samples (objective "distribution")."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch."""

    noise: Float[Tensor, "n ..."]
    raw: Float[Tensor, " b"]
    """What the law of times makes t of."""
    start: Float[Tensor, "n ..."]
    """Noise that the student's own samples begin at."""
    fresh: Float[Tensor, "n ..."]
    """A second noise for what must not depend on the first."""
    other: Float[Tensor, " b"]
    """A second raw time."""
    uniform: Float[Tensor, " b"]
    keep: Float[Tensor, " b"]
    """Uniform; decides whose condition is dropped."""

    def to(self, device: torch.device) -> Draws:
        """Return the draws on ``device``."""
        return Draws(*(getattr(self, f.name).to(device) for f in fields(self)))


class Loss(NamedTuple):
    """The loss of a batch."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    """Its weighted terms, without gradients."""
    per_item: Float[Tensor, " b"]
    """Mean squared error of each item."""
    t: Float[Tensor, " b"]


def draw(batch: Latents, config: ObjectiveConfig, seed: int, names: tuple[str, ...]) -> Draws:
    """Return draws that depend on each item's own name only, made on the CPU.

    Args:
        batch: what they are for.
        config: law of the times.
        seed: of the training.
        names: one per item, for instance "step 7 item 3".
    """
    rows = [1] * len(names) if batch.grid is None else batch.grid.counts
    shape = batch.values.shape[1:]
    parts: list[list[Tensor]] = [[] for _ in fields(Draws)]
    for name, count in zip(names, rows, strict=True):
        generator = item_generator(seed, name)
        parts[0].append(torch.randn((count, *shape), generator=generator))
        parts[1].append(config.time.raw(generator))
        parts[2].append(torch.randn((count, *shape), generator=generator))
        parts[3].append(torch.randn((count, *shape), generator=generator))
        parts[4].append(config.time.raw(generator))
        parts[5].append(torch.rand(1, generator=generator))
        parts[6].append(torch.rand(1, generator=generator))
    return Draws(*(torch.cat(part) for part in parts)).to(batch.values.device)


def batch_loss(
    roles: Roles, batch: Latents, draws: Draws, config: ObjectiveConfig, warmth: float = 1.0
) -> Loss:
    """Return the student's loss.

    Args:
        roles: the networks; the teacher is not differentiated.
        batch: clean latents (``data_free`` and ``boot`` use their shapes and conditions only).
        draws: the batch's random numbers.
        config: the objective.
        warmth: share of scm's warm-up that is over.
    """
    context = _Context(roles, batch, draws, config, warmth)
    if config.has_two_times:
        return _two_time_loss(context)
    if config.kind == "distribution":
        return _distribution_loss(context)
    return _one_time_loss(context)


def tracker_loss(roles: Roles, batch: Latents, draws: Draws, config: ObjectiveConfig) -> Loss:
    """Return the tracker's loss: flow matching on the student's samples."""
    context = _Context(roles, batch, draws, config, 1.0)
    with torch.no_grad():
        sample = context.own_sample()
    place = context.place(sample, draws.noise)
    tracker = as_velocity(context.needed(roles.tracker), batch.grid)
    pair = flow_objectives.flow_matching(tracker, sample, draws.noise, place, config.sigma_min)
    return _loss({"tracker": (1.0, pair)}, place)


class _Context:
    """What every objective needs of a batch."""

    def __init__(
        self, roles: Roles, batch: Latents, draws: Draws, config: ObjectiveConfig, warmth: float
    ) -> None:
        self.roles, self.batch, self.draws, self.config = roles, batch, draws, config
        self.warmth = warmth
        self.items: Items = batch.items
        self.t = config.time.times(draws.raw, config.lowest)
        kept = (draws.keep >= config.drop_condition).to(batch.condition.dtype)
        self.condition = batch.condition * kept[:, None, None]

    def needed(self, network: nn.Module | None) -> nn.Module:
        if network is None:
            raise TypeError("this objective needs a network that is not there")
        return network

    def student(self) -> Velocity:
        return as_velocity(self.roles.student, self.batch.grid)

    def mean_student(self) -> MeanVelocity:
        if not isinstance(self.roles.student, TwoTimes):
            raise TypeError("this objective needs a student with two times")
        return as_mean_velocity(self.roles.student, self.batch.grid)

    def field(self, weight: float) -> Velocity:
        """Return the teacher's velocity, guided.

        Its condition is the batch's own: drops are for the student.
        """
        teacher = as_velocity(self.needed(self.roles.teacher), self.batch.grid)
        whole = self.batch.condition
        negative = torch.zeros_like(whole)
        field = guided(teacher, negative, weight, self.items, self.config.guidance_interval)
        return lambda x, t, condition: field(x, t, whole)

    def place(self, clean: Tensor, noise: Tensor) -> Place:
        x = noisy(clean, noise, self.t, self.items, self.config.sigma_min)
        return Place(x, self.t, self.condition, self.items)

    def start(self) -> Place:
        """Return pure noise at t = 1."""
        return Place(self.draws.start, torch.ones_like(self.t), self.condition, self.items)

    def own_sample(self) -> Tensor:
        """Return the student's sample after one of its steps, chosen at random for the batch."""
        count = self.config.student_steps
        step = min(int(float(self.draws.uniform[0]) * count), count - 1)
        times = tuple(1 - i / count for i in range(count))
        return sample_at(self.student(), self.start(), times, step)[1]


def _one_time_loss(context: _Context) -> Loss:
    config, draws, clean = context.config, context.draws, context.batch.values
    student = context.student()
    place = context.place(clean, draws.noise)
    terms: dict[str, tuple[float, Pair]] = {}
    if config.kind == "flow_matching":
        pair = flow_objectives.flow_matching(student, clean, draws.noise, place, config.sigma_min)
        return _loss({"matching": (1.0, pair)}, place)
    if config.matching_weight > 0:
        residual = _residual(context, config.guidance)
        terms["matching"] = (config.matching_weight, residual(place))
    if config.distillation_weight > 0:
        weight = config.distillation_guidance
        residual = _residual(context, config.guidance if weight is None else weight)
        noise, t = draws.noise, context.t
        if config.distillation_noise == "fresh":
            noise, t = draws.fresh, config.time.times(draws.other, config.lowest)
        pair = flow_objectives.velocity_distillation(
            student,
            residual,
            context.start(),
            noise,
            t,
            config.sigma_min,
            config.distillation_factor,
        )
        terms["distillation"] = (config.distillation_weight, pair)
    return _loss(terms, place)


def _residual(context: _Context, weight: float) -> Callable[[Place], Pair]:
    config, student = context.config, context.student()
    field = context.field(weight)
    if config.kind == "regression":
        return partial(flow_objectives.field_regression, student, field)
    if config.kind == "consistency":
        return partial(
            flow_objectives.consistency,
            student,
            field,
            interval=config.derivative.interval,
            phases=config.phases,
        )
    if config.kind == "scm":
        return partial(
            flow_objectives.continuous_consistency,
            student,
            field,
            how=config.derivative,
            warmth=context.warmth,
        )
    return partial(flow_objectives.velocity_matching, student, field, how=config.derivative)


def _two_time_loss(context: _Context) -> Loss:
    config, draws, student = context.config, context.draws, context.mean_student()
    interval = config.derivative.interval if config.derivative.estimator == "difference" else None
    if config.kind in ("data_free", "boot"):
        start = context.start()
        if config.kind == "boot":
            pair = flow_maps.bootstrap(
                student,
                context.field(config.guidance),
                start,
                context.t,
                config.derivative.interval,
            )
        else:
            s = context.t - config.derivative.reach
            pair = flow_maps.lagrangian(student, context.field(config.guidance), start, s, interval)
        return _loss({"matching": (1.0, pair)}, start.moved(start.x, context.t))
    other = config.time.times(draws.other, config.sigma_min)
    t, s = ordered_times(context.t, other, draws.uniform, config.diagonal_share)
    context.t = t
    place = context.place(context.batch.values, draws.noise)
    field = _map_field(context, student, draws.uniform < config.diagonal_share)
    identity = flow_maps.lagrangian if config.kind == "lagrangian" else flow_maps.eulerian
    pair = identity(student, field, place, s, interval)
    return _loss({"matching": (1.0, pair)}, place, config.adaptive_power)


def _map_field(context: _Context, student: MeanVelocity, on_diagonal: Tensor) -> Velocity:
    """Return the teacher; without one the path's velocity (meanflow), or the student's own.

    A student that learns from itself learns the path's velocity on the diagonal.
    """
    if context.roles.teacher is not None:
        return context.field(context.config.guidance)
    clean, noise = context.batch.values, context.draws.noise
    path = path_velocity(clean, noise, context.config.sigma_min)
    if context.config.kind == "meanflow":
        return lambda x, t, condition: path
    own, items = flow_maps.diagonal(student), context.items
    is_path = items.spread(on_diagonal.to(path.dtype), path)
    return lambda x, t, condition: torch.where(is_path > 0, path, own(x, t, condition))


def _distribution_loss(context: _Context) -> Loss:
    config = context.config
    tracker = as_velocity(context.needed(context.roles.tracker), context.batch.grid)
    place = Place(context.draws.noise, context.t, context.condition, context.items)
    pair = distribution_matching(
        context.own_sample(),
        tracker,
        context.field(config.guidance),
        context.draws.noise,
        place,
        config.sigma_min,
    )
    return _loss({"matching": (1.0, pair)}, place)


def _loss(terms: dict[str, tuple[float, Pair]], place: Place, adaptive_power: float = 0.0) -> Loss:
    errors = {name: pair.squared_error() for name, (_, pair) in terms.items()}
    total = sum(weight * errors[name] for name, (weight, _) in terms.items())
    if not isinstance(total, Tensor):
        raise TypeError("an objective without terms")
    per_item = place.items.mean(total.detach())
    parts = {name: terms[name][0] * error.detach().mean() for name, error in errors.items()}
    if adaptive_power > 0:
        weight = adaptive_weight(total, place.items, adaptive_power)
        total = total * place.items.spread(weight, total)
    return Loss(total.mean(), parts, per_item, place.t)
