"""From noise to data by teachers and by few-step students, with guidance in an interval of times.

Three moves serve them all (`SamplerConfig.student`): Euler steps along a velocity; the jump to the
data and new noise, for consistency functions; the step of a flow map that is told both its ends.

One sampler serves dense latents and sparse ones: a state needs only ``x * number``, ``x - x`` and,
to evaluate both branches of the guidance together, joining and splitting of batches.

Notation: t in [0, 1], 0 data, 1 noise; x_t = (1 - t) x_0 + (s + (1 - s) t) eps with s = sigma_min;
v velocity, towards noise; g guidance scale: v = u + g (c - u), 1 means none.  TRELLIS's strength w
is g = 1 + w (`from_upstream`).

Source: Xiang et al., "Structured 3D Latents" (TRELLIS, 2024); Kynkäänniemi et al., "Applying
Guidance in a Limited Interval" (2024); Bar-Tal et al., "MultiDiffusion" (2023); Song et al.,
"Consistency Models" (2023); Boffi et al., "Flow Map Matching" (2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor

from geo3d.errors import ConfigError, ShapeError
from geo3d.progress import ProgressCallback, ignore_progress, report
from scenes.objects.embeddings import time_to_steps
from scenes.objects.sparse import SparseTensor, join_items

X = TypeVar("X", Tensor, SparseTensor)
Velocity = Callable[..., X]
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
    """g; 1 or None: the conditional branch alone."""
    interval: tuple[float, float] = (0.5, 1.0)
    """Times, both ends included, at which guidance is on."""
    sigma_min: float = 1e-5
    """Noise left in the data."""
    student: Student = "velocity"
    """velocity: Euler steps; teachers, guidance-distilled and phased students (as many even steps
    as phases), MDT-dist as published, two-time students folded for these steps.  jump: to the data
    x - t v, then noised anew for the next step; consistency and distribution-matching students, and
    every map to the data in more than one step.  flow_map: a student told both times."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            _refuse(f"there must be at least one step, not {self.steps}")
        if self.rescale_t <= 0:
            _refuse(f"rescale_t must be positive, not {self.rescale_t}")
        if not self.interval[0] <= self.interval[1]:
            _refuse(f"the interval {self.interval} is empty")
        if self.student not in get_args(Student):
            _refuse(f"there is no student {self.student!r}")

    def times(self) -> list[float]:
        """Return the times from 1 down to 0, one more than there are steps."""
        r = self.rescale_t
        even = [1 - i / self.steps for i in range(self.steps + 1)]
        return [r * u / (1 + (r - 1) * u) for u in even]

    def guided(self, t: float) -> bool:
        """Return whether a step that starts at ``t`` needs the negative branch."""
        lo, hi = self.interval
        return self.guidance_scale not in (None, 1.0) and lo <= t <= hi

    def evaluations(self) -> int:
        """Return how often an item passes the network."""
        return sum(1 + self.guided(t) for t in self.times()[:-1])


@dataclass
class Sampled(Generic[X]):
    """What `sample` returns."""

    x: X
    """The data."""
    calls: int = 0
    """Calls of the network."""
    trajectory: list[X] = field(default_factory=list)
    """States after each step, if recorded."""
    estimates: list[X] = field(default_factory=list)
    """Estimates of the data at each step, if recorded."""


@torch.no_grad()
def sample(
    velocity: Velocity[X],
    noise: X,
    cond: Tensor | Sequence[Tensor],
    config: SamplerConfig,
    *,
    negative: Tensor | None = None,
    images: Literal["multidiffusion", "stochastic"] = "multidiffusion",
    together: bool = False,
    record: bool = False,
    **listening: Any,
) -> Sampled[X]:
    """Integrate ``velocity`` from noise (t = 1) to data (t = 0).

    Args:
        velocity: the network.
        noise: one item per sample.
        cond: tokens per item, or one row for all; a list of such for several pictures of one
            object.
        config: steps and guidance.
        negative: tokens of the negative branch; zeros by default.
        images: how several pictures are used: the mean of their velocities, or one per step in
            turn (which needs at least as many steps as pictures).
        together: evaluate both branches of the guidance in one call of twice the batch.
        record: keep states and estimates.
        **listening: ``progress`` hears of every step and may raise to cancel; ``stage`` names what
            is being done; ``renew`` returns new noise like ``noise`` (jumps of several steps).

    Raises:
        ShapeError: ``sampler.wrong_condition`` (rows do not match the items).
        ConfigError: ``sampler.bad_config`` (jumps of several steps without ``renew``).
    """
    progress, stage, renew = _listener(**listening)
    if renew is None and config.student == "jump" and config.steps > 1:
        _refuse("jumps of several steps need new noise")
    batch = noise.shape[0]
    conds = [cond] if isinstance(cond, Tensor) else list(cond)
    conds = [_rows(tokens, batch) for tokens in conds]
    none = _rows(torch.zeros_like(conds[0]) if negative is None else negative, batch)
    out, times = Sampled(noise), config.times()
    report(progress, stage, 0, config.steps)
    for i, (t, t_next) in enumerate(pairwise(times)):
        used = [conds[i % len(conds)]] if images == "stochastic" else conds
        end = t_next if config.student == "flow_map" else None
        v = _Step(velocity, out.x, t, end, together).guided(used, none, config, out)
        s = config.sigma_min
        if record:
            out.estimates.append(out.x * (1 - s) - v * (s + (1 - s) * t))
        if config.student == "jump" and renew is not None and t_next > 0:
            out.x = (out.x - v * t) * (1 - t_next) + renew() * (s + (1 - s) * t_next)
        else:
            out.x = out.x - v * (t - t_next)
        if record:
            out.trajectory.append(out.x)
        report(progress, stage, i + 1, config.steps, t=t_next)
    return out


def from_upstream(name: str, params: Mapping[str, Any], sigma_min: float = 1e-5) -> SamplerConfig:
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


def to_upstream(config: SamplerConfig) -> dict[str, Any]:
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


def strength_to_scale(w: float) -> float:
    """Convert TRELLIS's guidance strength to a guidance scale."""
    return 1.0 + w


def scale_to_strength(g: float) -> float:
    """Convert a guidance scale to TRELLIS's guidance strength."""
    # Rounded: the strength 0.1 makes the scale 1.1, which is 0.1 and some dust above 1.
    return round(g - 1.0, 12)


@dataclass
class _Step(Generic[X]):
    velocity: Velocity[X]
    x: X
    t: float
    end: float | None
    """Of a flow map's step."""
    together: bool

    def guided(
        self, conds: list[Tensor], none: Tensor, config: SamplerConfig, out: Sampled[X]
    ) -> X:
        """Return the velocity, guided where the time is in the interval."""
        if not config.guided(self.t):
            return _mean(self.each(conds, out))
        *found, u = self.each([*conds, none], out)
        w = (config.guidance_scale or 1.0) - 1
        return _mean(found) * (1 + w) - u * w

    def each(self, conds: list[Tensor], out: Sampled[X]) -> list[X]:
        """Return the velocity under each condition."""
        if self.together and len(conds) > 1:
            out.calls += 1
            joined = _repeat(self.x, len(conds))
            v = self.velocity(joined, *self._times(joined), torch.cat(conds))
            return _split(v, len(conds), self.x)
        out.calls += len(conds)
        times = self._times(self.x)
        return [self.velocity(self.x, *times, tokens) for tokens in conds]

    def _times(self, x: X) -> list[Tensor]:
        told = [self.t] if self.end is None else [self.t, self.end]
        rows = [torch.full((x.shape[0],), t, dtype=torch.float64) for t in told]
        return [time_to_steps(t).to(device=x.device, dtype=torch.float32) for t in rows]


def _listener(
    progress: ProgressCallback = ignore_progress,
    stage: str = "sampling",
    renew: Callable[[], Any] | None = None,
) -> tuple[ProgressCallback, str, Callable[[], Any] | None]:
    return progress, stage, renew


def _mean(found: list[X]) -> X:
    total = found[0]
    for v in found[1:]:
        total = total + v
    return total if len(found) == 1 else total * (1 / len(found))


def _repeat(x: X, times: int) -> X:
    """Return a batch of ``times`` copies of every item, copy after copy."""
    if isinstance(x, SparseTensor):
        # The joined grid is kept, and with it the neighbours of its voxels.
        grid = x.grid.once(("repeated", times), lambda: join_items([x] * times).grid)
        return SparseTensor(torch.cat([x.feats] * times), grid)
    return torch.cat([x] * times)


def _split(v: X, parts: int, like: X) -> list[X]:
    if isinstance(v, SparseTensor):
        grid = cast(SparseTensor, like).grid
        return [SparseTensor(feats, grid) for feats in v.feats.split(len(grid))]
    return list(v.chunk(parts))


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


def _refuse(reason: str) -> None:
    raise ConfigError("sampler.bad_config", f"The sampler cannot run: {reason}.", "")
