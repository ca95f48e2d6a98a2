"""A flow whose maps are known: from normal noise to one normal law, or a mixture, per axis.

Along t the noisy items follow N((1 - t) m, S(t)^2), S(t)^2 = (1 - t)^2 w^2 + a(t)^2; the flow of a
single normal law keeps (x - mean) / S, and that of any law on a line keeps the rank of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geo3d.distill.flow import SIGMA_MIN, Velocity, path_velocity
from geo3d.distill.flow_maps import MeanVelocity
from geo3d.distill.flow_objectives import Pair, Place


def noise_share(t: Tensor) -> Tensor:
    """Return a(t), the factor of the noise."""
    return SIGMA_MIN + (1 - SIGMA_MIN) * t


def spread_of(t: Tensor, width: float) -> Tensor:
    """Return S(t)."""
    return ((1 - t).square() * width**2 + noise_share(t).square()).sqrt()


def mean_to(student: MeanVelocity, s: Tensor) -> Velocity:
    """Return u(x, t, s) for a fixed end: a student with one time."""
    return lambda x, t, condition: student(x, t, s, condition)


def flow_matching(
    student: Velocity, clean: Tensor, noise: Tensor, place: Place, sigma_min: float
) -> Pair:
    """Return the student's velocity and that of the straight path."""
    return Pair(place.see(student), path_velocity(clean, noise, sigma_min))


@dataclass(frozen=True)
class Line:
    """A mixture of normal laws on a line; every entry of a batch is one independent item."""

    centres: Sequence[float] = (0.6,)
    widths: Sequence[float] = (0.5,)
    shares: Sequence[float] = (1.0,)

    def velocity(self, x: Tensor, t: Tensor, condition: object = None) -> Tensor:
        """Return E[(1 - sigma) eps - x_0 | x_t = x] for x (b, c), t (b,)."""
        t = t[:, None].expand_as(x)
        logs, slopes = [], []
        for m, w, share in zip(self.centres, self.widths, self.shares, strict=True):
            spread = spread_of(t, w)
            z = (x - (1 - t) * m) / spread
            logs.append(-0.5 * z.square() - spread.log() + torch.tensor(share).log())
            # the posterior means of the item and the noise, given x and the component
            clean = m + (1 - t) * w**2 / spread * z
            noise = noise_share(t) / spread * z
            slopes.append((1 - SIGMA_MIN) * noise - clean)
        weights = torch.softmax(torch.stack(logs), dim=0)
        return (weights * torch.stack(slopes)).sum(dim=0)

    def rank(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the probability of less than ``x`` at time ``t``, in float64."""
        x, t = x.double(), t.double()[:, None]
        parts = zip(self.centres, self.widths, self.shares, strict=True)
        return sum(s * torch.special.ndtr((x - (1 - t) * m) / spread_of(t, w)) for m, w, s in parts)  # type: ignore[return-value]

    def map(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return X_{t->s}(x), by bisection on the rank."""
        wanted = self.rank(x, t)
        low, high = torch.full_like(wanted, -20.0), torch.full_like(wanted, 20.0)
        for _ in range(60):
            middle = (low + high) / 2
            is_low = self.rank(middle, s) < wanted
            low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
        return ((low + high) / 2).to(x.dtype)

    def draw(self, n: int, channels: int, generator: torch.Generator) -> Tensor:
        """Return ``n`` clean items (n, channels)."""
        shape = (n, channels)
        chosen = torch.multinomial(
            torch.tensor(self.shares), n * channels, replacement=True, generator=generator
        ).reshape(shape)
        unit = torch.randn(shape, generator=generator)
        return torch.tensor(self.centres)[chosen] + torch.tensor(self.widths)[chosen] * unit


@dataclass(frozen=True)
class NormalLaw:
    """One normal law, with its mean velocity in closed form (and so with every derivative)."""

    centre: float = 0.6
    width: float = 0.5

    @property
    def line(self) -> Line:
        """The same law as a mixture of one."""
        return Line((self.centre,), (self.width,), (1.0,))

    def velocity(self, x: Tensor, t: Tensor, condition: object = None) -> Tensor:
        """Return v(x, t)."""
        return self.line.velocity(x, t)

    def mean(self, x: Tensor, t: Tensor, s: Tensor, condition: object = None) -> Tensor:
        """Return u(x, t, s), s < t."""
        t, s = t[:, None], s[:, None]
        ratio = spread_of(s, self.width) / spread_of(t, self.width)
        arrived = (1 - s) * self.centre + (x - (1 - t) * self.centre) * ratio
        return (x - arrived) / (t - s)

    def mean_to_data(self, x: Tensor, t: Tensor, condition: object = None) -> Tensor:
        """Return u(x, t, 0)."""
        return self.mean(x, t, torch.zeros_like(t))


class TinyStudent(torch.nn.Module):
    """An MLP u(x, t, s) over (b, 1); with its inputs it can turn a normal law into a mixture."""

    def __init__(self, seed: int, hidden: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(9, hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(hidden, hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(hidden, hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(hidden, 1),
            )

    def forward(self, x: Tensor, t: Tensor, s: Tensor, condition: object = None) -> Tensor:
        """Return the mean velocity from t to s."""
        t, s = t[:, None].expand_as(x), s[:, None].expand_as(x)
        waves = [t, s, t - s, (3 * t).sin(), (3 * s).sin(), t * x, s * x, (2 * x).tanh()]
        return self.layers(torch.cat([x, *waves], dim=1))
