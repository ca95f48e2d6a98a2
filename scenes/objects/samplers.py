"""From noise to data by teachers and by few-step students, with guidance in an interval of times.

Three moves serve them all (`SamplerConfig.student`), see `geo3d.distill.samplers.flow_steps`; one
sampler serves dense latents and sparse ones.

Notation: t in [0, 1], 0 data, 1 noise; v velocity, towards noise, from the branches u (negative)
and c of the condition: v = u + s (c - u), s the guidance scale.

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024); Kynkäänniemi et al., "Applying
Guidance in a Limited Interval" (2024); Bar-Tal et al., "MultiDiffusion" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast, get_args

import torch
from torch import Tensor

from geo3d.distill.conventions import scale_to_strength, strength_to_scale
from geo3d.distill.flow import SIGMA_MIN
from geo3d.distill.guidance import guided, in_interval
from geo3d.distill.levels import flow_times
from geo3d.distill.samplers import FlowStep, flow_steps
from geo3d.errors import ConfigError, ShapeError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.embeddings import time_to_steps
from scenes.objects.sparse import SparseTensor, join_items

X = TypeVar("X", Tensor, SparseTensor)
FlowNetwork = Callable[..., X]
"""A network: state, 1000 t per item, tokens of the condition per item -> velocity.  That of a flow
map is told the end of its step too: state, 1000 t, 1000 of the end, tokens -> mean velocity."""
Student = Literal["velocity", "jump", "flow_map"]

UPSTREAM_SAMPLERS = ("FlowEulerSampler", "FlowEulerCfgSampler", "FlowEulerGuidanceIntervalSampler")
"""Names of samplers in published pipeline files."""


@dataclass(frozen=True)
class SamplerConfig:
    """How one stage is sampled; the defaults are those of the published teacher."""

    steps: int = 25
    """Evaluations of the guided velocity."""
    rescale_t: float = 3.0
    """Above 1, steps are shorter near the noise."""
    guidance_scale: float | None = 6.0
    """1 or None: the conditional branch alone."""
    interval: tuple[float, float] = (0.5, 1.0)
    """Times, both ends included, at which guidance is on."""
    sigma_min: float = SIGMA_MIN
    """Noise left in the data."""
    student: Student = "velocity"
    """velocity: Euler steps; teachers, guidance-distilled and phased students (as many even steps
    as phases), MDT-dist as published, two-time students folded for these steps.  jump: to the data
    x - t v, then noised anew for the next step; consistency and distribution-matching students, and
    every map to the data in more than one step.  flow_map: a student told both times."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            _refuse(f"there must be at least one step, not {self.steps}")
        if not 0 < self.rescale_t < math.inf:
            _refuse(f"rescale_t must be positive, not {self.rescale_t}")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            _refuse(f"the guidance scale must be a number, not {self.guidance_scale}")
        if not self.interval[0] <= self.interval[1]:
            _refuse(f"the interval {self.interval} is empty")
        if self.student not in get_args(Student):
            _refuse(f"there is no student {self.student!r}")

    def times(self) -> list[float]:
        """Return the times from 1 down to 0, one more than there are steps."""
        return flow_times(self.steps, self.rescale_t)

    def guides(self, t: float) -> bool:
        """Return whether a step that starts at ``t`` needs the negative branch."""
        return self.guidance_scale not in (None, 1.0) and in_interval(t, self.interval)

    def evaluations(self) -> int:
        """Return how often an item passes the network."""
        return sum(1 + self.guides(t) for t in self.times()[:-1])


@dataclass(frozen=True)
class Conditions:
    """What is wanted, as tokens per item, or one row for all items."""

    images: Sequence[Tensor]
    """One per image of the same object."""
    negative: Tensor | None = None
    """Of the negative branch; None for zeros."""
    views: Literal["multidiffusion", "stochastic"] = "multidiffusion"
    """How several images are used: the mean of their velocities, or one per step in turn (which
    needs at least as many steps as images)."""


@dataclass
class Sampled(Generic[X]):
    """What `sample` returns."""

    x: X
    """The data."""
    calls: int = 0
    """Calls of the network."""
    steps: list[FlowStep[X]] = field(default_factory=list)
    """With states and estimates of the data, if recorded."""


@torch.no_grad()
def sample(
    network: FlowNetwork[X],
    noise: X,
    cond: Tensor | Conditions,
    config: SamplerConfig,
    *,
    together: bool = False,
    renew: Callable[[], X] | None = None,
    record: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Sampled[X]:
    """Carry noise (t = 1) to data (t = 0).

    Args:
        network: the teacher or student.
        noise: one item per sample.
        cond: tokens per item, or one row for all.
        config: steps and guidance.
        together: evaluate all branches in one call of a larger batch.
        renew: returns new noise like ``noise`` (jumps of several steps).
        record: keep the steps.
        progress: told after every step; may raise to cancel.

    Raises:
        ShapeError: ``sampler.wrong_condition`` (rows do not match the items).
        ConfigError: ``sampler.bad_config`` (jumps of several steps without ``renew``).
    """
    if config.student != "jump":
        renew = None
    elif renew is None and config.steps > 1:
        _refuse("jumps of several steps need new noise")
    given = Conditions([cond]) if isinstance(cond, Tensor) else cond
    conds = [_rows(tokens, noise.shape[0]) for tokens in given.images]
    none = torch.zeros_like(conds[0]) if given.negative is None else given.negative
    none, out, done = _rows(none, noise.shape[0]), Sampled(noise), 0

    def velocity(x: X, t: float, end: float) -> X:
        used = [conds[done % len(conds)]] if given.views == "stochastic" else conds
        has_negative = config.guides(t)
        asked = [*used, none] if has_negative else used
        told = (t, end) if config.student == "flow_map" else (t,)
        joined = together and len(asked) > 1
        out.calls += 1 if joined else len(asked)
        found = (_ask_together if joined else _ask)(network, x, told, asked)
        c = _mean(found[: len(used)])
        return guided(found[-1], c, config.guidance_scale or 1.0) if has_negative else c

    report(progress, "sampling", 0, config.steps)
    for step in flow_steps(velocity, noise, config.times(), renew, config.sigma_min):
        out.x, done = step.x, done + 1
        if record:
            out.steps.append(step)
        report(progress, "sampling", done, config.steps, t=step.end)
    return out


def upstream_to_sampler(
    name: str, params: Mapping[str, Any], sigma_min: float = SIGMA_MIN
) -> SamplerConfig:
    """Return the settings of a sampler in a published pipeline file.

    Raises:
        ConfigError: ``sampler.unknown`` and ``sampler.bad_config``.
    """
    if name not in UPSTREAM_SAMPLERS:
        raise ConfigError(
            "sampler.unknown",
            f"There is no sampler {name!r}.",
            f"Known: {', '.join(UPSTREAM_SAMPLERS)}.",
        )
    strength = None if name == "FlowEulerSampler" else params.get("cfg_strength", 3.0)
    everywhere = name == "FlowEulerCfgSampler"
    lo, hi = (0.0, 1.0) if everywhere else params.get("cfg_interval", (0.0, 1.0))
    return SamplerConfig(
        steps=int(params.get("steps", 50)),
        rescale_t=float(params.get("rescale_t", 1.0)),
        guidance_scale=None if strength is None else strength_to_scale(float(strength)),
        interval=(float(lo), float(hi)),
        sigma_min=sigma_min,
        student=params.get("student", "velocity"),
    )


def changed(config: SamplerConfig, changes: Sequence[str]) -> SamplerConfig:
    """Return ``config`` with settings in words: ``steps=12 cfg_strength=7.5 interval=0.5,1``.

    ``cfg_strength`` is TRELLIS's w, ``guidance_scale`` ours: s = 1 + w.

    Raises:
        ConfigError: ``sampler.bad_config``.
    """
    given: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in _WORDS:
            _refuse(f"{change!r} is none of {', '.join(f'{word}=' for word in _WORDS)}")
        try:
            key, value = _WORDS[name](text)
        except ValueError:
            _refuse(f"{change!r} has no such value")
        if key in given:
            _refuse(f"{key} is given twice (guidance_scale is cfg_strength + 1)")
        given[key] = value
    return replace(config, **given)


def _interval(text: str) -> tuple[str, tuple[float, float]]:
    low, high = (float(part) for part in text.split(","))
    return "interval", (low, high)


_WORDS: Mapping[str, Callable[[str], tuple[str, Any]]] = {
    "steps": lambda text: ("steps", int(text)),
    "guidance_scale": lambda text: ("guidance_scale", float(text)),
    "cfg_strength": lambda text: ("guidance_scale", strength_to_scale(float(text))),
    "interval": _interval,
    "cfg_interval": _interval,
    "rescale_t": lambda text: ("rescale_t", float(text)),
}
"""How each setting is read from text: its name here and its value."""


def sampler_to_upstream(config: SamplerConfig) -> dict[str, Any]:
    """Return a sampler's entry of a published pipeline file."""
    params: dict[str, Any] = {"steps": config.steps, "rescale_t": config.rescale_t}
    if config.student != "velocity":
        params["student"] = config.student
    name = UPSTREAM_SAMPLERS[0]
    if config.guidance_scale is not None:
        name = UPSTREAM_SAMPLERS[2]
        params["cfg_strength"] = scale_to_strength(config.guidance_scale)
        params["cfg_interval"] = list(config.interval)
    return {"name": name, "args": {"sigma_min": config.sigma_min}, "params": params}


def _ask(network: FlowNetwork[X], x: X, told: tuple[float, ...], conds: list[Tensor]) -> list[X]:
    """Return the velocity under each condition."""
    rows = [torch.full((x.shape[0],), t, dtype=torch.float64) for t in told]
    steps = [time_to_steps(t).to(device=x.device, dtype=torch.float32) for t in rows]
    return [network(x, *steps, tokens) for tokens in conds]


def _ask_together(
    network: FlowNetwork[X], x: X, told: tuple[float, ...], conds: list[Tensor]
) -> list[X]:
    """Do as `_ask` in one call, for a batch of as many copies of every item, copy after copy."""
    parts = len(conds)
    if isinstance(x, SparseTensor):
        # The joined grid is kept, and with it the neighbours of its voxels.
        grid = x.grid.once(("repeated", parts), lambda: join_items([x] * parts).grid)
        joined = SparseTensor(torch.cat([x.feats] * parts), grid)
    else:
        joined = torch.cat([x] * parts)
    v: Any = _ask(network, cast(Any, joined), told, [torch.cat(conds)])[0]
    if isinstance(x, SparseTensor):
        return [SparseTensor(feats, x.grid) for feats in v.feats.split(len(x.grid))]
    return list(v.chunk(parts))


def _mean(found: list[X]) -> X:
    total = found[0]
    for v in found[1:]:
        total = total + v
    return total if len(found) == 1 else total * (1 / len(found))


def _rows(tokens: Tensor, batch: int) -> Tensor:
    if len(tokens) == batch:
        return tokens
    if len(tokens) == 1:
        return tokens.expand(batch, *tokens.shape[1:])
    raise ShapeError(
        "sampler.wrong_condition",
        f"There are {len(tokens)} conditions for {batch} samples.",
        "Give one, or one per sample.",
    )


def _refuse(reason: str) -> NoReturn:
    raise ConfigError("sampler.bad_config", f"The sampler cannot run: {reason}.", "")
