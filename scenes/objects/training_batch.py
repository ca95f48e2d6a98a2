"""Batches of latents, dense or sparse, and networks as velocities over them.

The objectives see plain tensors and `Items`; here the grid of voxels is put around them and taken
off again.  A student with two times is the network of the teacher with one more embedding, of the
length t - s of its jump, added to that of t; it begins at zero, so it begins as the teacher.

Notation: b items, n voxels of all items, c channels, l tokens of a condition with k channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.distill.flow import Items, Velocity, path_velocity, perturb
from geo3d.distill.flow_maps import MeanVelocity
from geo3d.distill.flow_objectives import Place, sample_at
from geo3d.distill.guidance import guided_velocity
from geo3d.distill.levels import flow_times
from scenes.objects.embeddings import TimestepEmbedder, time_to_steps
from scenes.objects.sparse import SparseTensor, VoxelGrid

BIAS = "t_embedder.mlp.2.bias"
"""The parameter that a constant span can be added to."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Clean latents of a batch, and the conditions."""

    values: Float[Tensor, "n ..."]
    """(b, c, r, r, r), or (n, c) with a grid."""
    condition: Float[Tensor, "b l k"]
    grid: VoxelGrid | None = None
    """Voxels of sparse latents, items one after the other."""

    @property
    def items(self) -> Items:
        """Rows of the batch."""
        if self.grid is None:
            return Items(len(self.values))
        return Items(self.grid.batch_size, self.grid.batch_index.long())

    def to(self, device: torch.device) -> Latents:
        """Return the batch on ``device``."""
        grid = self.grid
        if grid is not None and grid.coords.device != device:
            grid = VoxelGrid(grid.coords.to(device), grid.batch_size)
        return Latents(self.values.to(device), self.condition.to(device), grid)


def join(batch: Sequence[Latents]) -> Latents:
    """Return batches of the same kind as one."""
    values = torch.cat([part.values for part in batch])
    condition = torch.cat([part.condition for part in batch])
    grids = [part.grid for part in batch if part.grid is not None]
    if not grids:
        return Latents(values, condition)
    rows, count = [], 0
    for grid in grids:
        shifted = grid.coords.clone()
        shifted[:, 0] += count
        rows.append(shifted)
        count += grid.batch_size
    return Latents(values, condition, VoxelGrid(torch.cat(rows), count))


def parts_of_equal_load(loads: Sequence[int], count: int) -> list[list[int]]:
    """Share items among ``count`` parts: the largest first, each to the lightest part.

    Returns:
        Ascending item numbers of each part; parts that got nothing are left out.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    weights = [0] * count
    for item in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        lightest = weights.index(min(weights))
        parts[lightest].append(item)
        weights[lightest] += max(loads[item], 1)
    return [sorted(part) for part in parts if part]


def as_velocity(network: nn.Module, grid: VoxelGrid | None) -> Velocity:
    """Return the network as v(x, t, condition) over the voxels of ``grid``, or over dense x."""

    def velocity(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        if grid is None:
            return network(x, time_to_steps(t), condition)
        return network(SparseTensor(x, grid), time_to_steps(t), condition).feats

    return velocity


def as_mean_velocity(student: TwoTimes, grid: VoxelGrid | None) -> MeanVelocity:
    """Return the student as u(x, t, s, condition)."""

    def mean(x: Tensor, t: Tensor, s: Tensor, condition: Tensor) -> Tensor:
        with student.spanning(t - s):
            return as_velocity(student.network, grid)(x, t, condition)

    return mean


class TwoTimes(nn.Module):
    """A flow network that is also told how far its jump goes.

    Args:
        network: a dense or sparse flow network; it is used, not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        last = network.get_parameter(BIAS)
        self.span_embedder = TimestepEmbedder(len(last))
        # Begins as the network it is given: the last layer says nothing yet.
        for name, parameter in self.span_embedder.named_parameters():
            if name == "mlp.0.weight":
                nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
            else:
                nn.init.zeros_(parameter)
        self.span_embedder.to(last.device)
        self._span: Tensor | None = None
        embedder = network.get_submodule("t_embedder")
        embedder.register_forward_hook(self._add_span)

    def forward(
        self,
        x: Tensor | SparseTensor,
        t: Float[Tensor, " b"],
        end: Float[Tensor, " b"],
        condition: Float[Tensor, "b l k"],
    ) -> Tensor | SparseTensor:
        """Return the mean velocity from ``t`` to ``end``, both 1000 times [0, 1].

        This is what `scenes.objects.samplers.sample` asks of a flow map.
        """
        with self.spanning((t - end) / 1000):
            return self.network(x, t, condition)

    @contextmanager
    def spanning(self, span: Float[Tensor, " b"]) -> Iterator[None]:
        """Let the network take its jumps to have this length inside a ``with`` block."""
        self._span = span
        try:
            yield
        finally:
            self._span = None

    @torch.no_grad()
    def folded(self, span: float) -> dict[str, Tensor]:
        """Return weights of the plain network for jumps of one length, as in even steps 1/n."""
        weights = dict(self.network.state_dict())
        device = weights[BIAS].device
        code = self.span_embedder(time_to_steps(torch.full((1,), span, device=device)))[0]
        return weights | {BIAS: weights[BIAS] + code}

    def _add_span(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if self._span is None:
            return output
        return output + self.span_embedder(time_to_steps(self._span))


@dataclass(frozen=True, eq=False)
class Roles:
    """The networks of a training."""

    student: nn.Module
    """A flow network, or `TwoTimes` around one."""
    teacher: nn.Module | None = None
    tracker: nn.Module | None = None
    """Learns the velocity of the student's samples."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch."""

    noise: Float[Tensor, "n ..."]
    raw: Float[Tensor, " b"]
    """What the timestep distribution makes t of."""
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


@dataclass(eq=False)
class Batch:
    """What an objective is made of: networks as velocities, clean latents, draws, times."""

    roles: Roles
    latents: Latents
    """Clean; objectives without data use their shapes and conditions only."""
    draws: Draws
    t: Float[Tensor, " b"]
    """Times, which an objective of two times orders."""
    condition: Float[Tensor, "b l k"]
    """The student's; some are dropped."""
    sigma_min: float
    """Noise left in data."""
    warmth: float = 1.0
    """Share of scm's warm-up that is over."""

    def velocity(self, role: Literal["student", "teacher", "tracker"]) -> Velocity:
        """Return a network's velocity."""
        network = getattr(self.roles, role)
        if network is None:
            raise TypeError(f"this objective needs a {role}")
        return as_velocity(network, self.latents.grid)

    def mean_velocity(self) -> MeanVelocity:
        """Return the velocity of a student with two times."""
        if not isinstance(self.roles.student, TwoTimes):
            raise TypeError("this objective needs a student with two times")
        return as_mean_velocity(self.roles.student, self.latents.grid)

    def field(self, guidance_scale: float, interval: tuple[float, float]) -> Velocity:
        """Return the teacher's velocity, guided.

        Its condition is the batch's own: drops are for the student.
        """
        whole, items = self.latents.condition, self.latents.items
        teacher = guided_velocity(
            self.velocity("teacher"), torch.zeros_like(whole), guidance_scale, items, interval
        )
        return lambda x, t, condition: teacher(x, t, whole)

    def path(self) -> Float[Tensor, "n ..."]:
        """Return the velocity of the straight path from the data to the noise."""
        return path_velocity(self.latents.values, self.draws.noise, self.sigma_min)

    def place(self, clean: Float[Tensor, "n ..."] | None = None) -> Place:
        """Return the data, or other items, perturbed to t."""
        clean = self.latents.values if clean is None else clean
        x = perturb(clean, self.draws.noise, self.t, self.latents.items, self.sigma_min)
        return Place(x, self.t, self.condition, self.latents.items)

    def start(self) -> Place:
        """Return pure noise at t = 1."""
        return Place(self.draws.start, torch.ones_like(self.t), self.condition, self.latents.items)

    def own_sample(self, count: int) -> Float[Tensor, "n ..."]:
        """Return the student's sample after one of its ``count`` steps, chosen at random."""
        step = min(int(float(self.draws.uniform[0]) * count), count - 1)
        times = tuple(flow_times(count)[:-1])
        return sample_at(self.velocity("student"), self.start(), times, step)
