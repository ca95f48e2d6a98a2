"""DiffusionNet: features per point that do not depend on how a surface is meshed.

Notation: b shapes, p points, k eigenpairs, c channels.  A block diffuses its channels as heat, each
for its own learned time, pairs the tangential gradients of the result with learned rotations and
scalings of themselves, and mixes everything per point.  Diffusion is spectral,
u -> Phi exp(-t Lambda) pull u, with ``pull`` = Phi^T M on all vertices; hence the gradient of a
diffused function is (grad Phi) exp(-t Lambda) pull u, exactly, and needs the derivatives of the
eigenfunctions at the points only.  The same network thus runs on all vertices or on samples.

Source: Sharp et al. 2022 (DiffusionNet).  Parameter names are those of the published code, so that
its weights load.  `soft_map`: Jiang et al. 2023 (SNK).

What the feature network sees of a prepared shape: operators and input functions at points.

Notation: p points (all vertices, or the leading samples of `Prepared`), k eigenpairs, c channels,
X vertex positions.  On samples, spectral coefficients are read off by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.spectral.descriptors import hks, unit_norm, wks
from shape_matching.prior.zero_shot_config import Input
from shape_matching.search.prepare import Prepared

SHORTEST_TIME = 1e-8
"""Diffusion times are kept at or above this; the published networks start at 0."""
DROPOUT = 0.5


@dataclass(frozen=True, eq=False)
class Surface:
    """What the network knows of one shape or of several with equally many points."""

    evals: Float[Tensor, "*b k"]
    evecs: Float[Tensor, "*b p k"]
    """Eigenfunctions at the points."""
    pull: Float[Tensor, "*b k p"]
    """Takes values at the points to spectral coefficients."""
    gradients: tuple[Float[Tensor, "*b p k"], Float[Tensor, "*b p k"]] | None
    """Derivatives of the eigenfunctions along both tangent axes; None without tangent frames."""


def stack_surfaces(surfaces: Sequence[Surface]) -> Surface:
    """Put shapes with equally many points and eigenpairs side by side.

    Raises:
        ShapeError: ``feature_network.unequal_shapes``.
    """
    if len({surface.evecs.shape for surface in surfaces}) != 1:
        shapes = [tuple(surface.evecs.shape) for surface in surfaces]
        raise ShapeError(
            "feature_network.unequal_shapes",
            f"Shapes of different sizes {shapes} cannot go through the network as one batch.",
            "Sample equally many points, or pass them one by one.",
        )
    pairs = [surface.gradients for surface in surfaces if surface.gradients is not None]
    complete = len(pairs) == len(surfaces)
    axes = [torch.stack(axis) for axis in zip(*pairs, strict=True)] if complete else []
    return Surface(
        torch.stack([surface.evals for surface in surfaces]),
        torch.stack([surface.evecs for surface in surfaces]),
        torch.stack([surface.pull for surface in surfaces]),
        (axes[0], axes[1]) if complete else None,
    )


class DiffusionNet(nn.Module):
    """Maps ``channels_in`` values per point to ``channels_out`` features per point."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int = 128,
        blocks: int = 4,
        *,
        gradient_features: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.first_lin = nn.Linear(channels_in, width)
        self.last_lin = nn.Linear(width, channels_out)
        self.n_blocks = blocks
        for i in range(blocks):
            self.add_module(f"block_{i}", _Block(width, gradient_features))
        if generator is not None:
            self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew: uniform within 1/sqrt(fan in), diffusion times 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                for parameter in module.parameters(recurse=False):
                    drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
                    parameter.copy_(drawn * bound)
            elif isinstance(module, _Diffusion):
                module.diffusion_time.zero_()

    @torch.no_grad()
    def constrain(self) -> None:
        """Move diffusion times back to the allowed range; to be called after an optimiser step."""
        for module in self.modules():
            if isinstance(module, _Diffusion):
                module.diffusion_time.clamp_(min=SHORTEST_TIME)

    def forward(
        self,
        values: Float[Tensor, "*b p i"],
        surface: Surface,
        dropout: torch.Generator | None = None,
    ) -> Float[Tensor, "*b p o"]:
        """Return features; dropout is on exactly if a generator to draw it from is given.

        Raises:
            ShapeError: ``feature_network.bad_input`` when values and surface do not fit.
        """
        if values.shape[:-1] != surface.evecs.shape[:-1]:
            raise ShapeError(
                "feature_network.bad_input",
                f"Values {tuple(values.shape)} do not lie on the points of a surface with "
                f"eigenfunctions {tuple(surface.evecs.shape)}.",
                "Both list the same points in the same order.",
            )
        hidden = self.first_lin(values)
        for i in range(self.n_blocks):
            hidden = self.get_submodule(f"block_{i}")(hidden, surface, dropout)
        return self.last_lin(hidden)


class _Block(nn.Module):
    def __init__(self, width: int, gradient_features: bool) -> None:
        super().__init__()
        self.diffusion = _Diffusion(width)
        self.gradient_features = _GradientFeatures(width) if gradient_features else None
        self.mlp = _PointMLP([(3 if gradient_features else 2) * width, width, width, width])

    def forward(self, values: Tensor, surface: Surface, dropout: torch.Generator | None) -> Tensor:
        coefficients = self.diffusion(surface.pull @ values, surface.evals)
        parts = [values, surface.evecs @ coefficients]
        if self.gradient_features is not None:
            parts.append(self.gradient_features(coefficients, surface))
        return values + self.mlp(torch.cat(parts, dim=-1), dropout)


class _Diffusion(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.diffusion_time = nn.Parameter(torch.zeros(width))

    def forward(self, coefficients: Tensor, evals: Tensor) -> Tensor:
        # a time at the bound still gets a gradient, as in the published code
        lift = (SHORTEST_TIME - self.diffusion_time.detach()).clamp(min=0)
        times = self.diffusion_time + lift
        return coefficients * torch.exp(-evals[..., None] * times)


class _GradientFeatures(nn.Module):
    """tanh <g, R g> per channel, R a learned complex matrix acting on the tangent vectors g."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.A_re = nn.Linear(width, width, bias=False)
        self.A_im = nn.Linear(width, width, bias=False)

    def forward(self, coefficients: Tensor, surface: Surface) -> Tensor:
        if surface.gradients is None:
            raise ShapeError(
                "feature_network.no_gradients",
                "The network uses gradients, but the surface has no tangent frames.",
                "Build the network with gradient_features=False for point clouds.",
            )
        x, y = (axis @ coefficients for axis in surface.gradients)
        turned_x = self.A_re(x) - self.A_im(y)
        turned_y = self.A_re(y) + self.A_im(x)
        return torch.tanh(x * turned_x + y * turned_y)


class _PointMLP(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.n_layers = len(widths) - 1
        for i in range(self.n_layers):
            self.add_module(f"miniMLP_mlp_layer_{i:03d}", nn.Linear(widths[i], widths[i + 1]))

    def forward(self, values: Tensor, dropout: torch.Generator | None) -> Tensor:
        for i in range(self.n_layers):
            if i > 0:
                values = _dropped(torch.relu(values), dropout)
            values = self.get_submodule(f"miniMLP_mlp_layer_{i:03d}")(values)
        return values


def _dropped(values: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return values
    kept = torch.empty(values.shape, dtype=values.dtype, device=generator.device)
    kept.bernoulli_(1 - DROPOUT, generator=generator)
    return values * kept.to(values.device) / (1 - DROPOUT)


def soft_map(
    features_1: Float[Tensor, "n c"],
    features_2: Float[Tensor, "p c"],
    sharpness: float = 1 / 0.07,
    kind: Literal["product", "distance"] = "product",
) -> Float[Tensor, "n p"]:
    """Return the soft correspondence of SNK: softmax over the points of 2, one row per point of 1.

    ``product`` compares features by their inner product, ``distance`` by their Euclidean distance.

    Raises:
        ConfigError: ``feature_network.unknown_soft_map``.
    """
    if kind == "product":
        return torch.softmax(sharpness * (features_1 @ features_2.T), dim=-1)
    if kind == "distance":
        return torch.softmax(-sharpness * torch.cdist(features_1, features_2), dim=-1)
    raise ConfigError(
        "feature_network.unknown_soft_map",
        f"Unknown soft map '{kind}'.",
        "Known are product and distance.",
    )


N_CURVATURES = 3
CURVATURE_SCALE = 3.0
"""Brings curvatures of unit norm to values around 1."""
N_DESCRIPTORS = 128
DESCRIPTOR_EIGENPAIRS = 128
RIDGE = 1e-5
"""Added to the unit diagonal of the least squares on samples: some roundings of float32."""


@lru_cache(maxsize=8)
def surface(shape: Prepared, k: int, n_points: int | None) -> Surface:
    """Return the operators on the leading ``n_points`` samples, or on all vertices."""
    basis = shape.basis.truncate(k)
    if n_points is None:
        return Surface(
            basis.evals, basis.evecs, (basis.mass[:, None] * basis.evecs).T, _gradients(shape, k)
        )
    rows = shape.rows[:n_points, :k]
    along_x, along_y = (axis[:n_points, :k] for axis in shape.gradients)
    return Surface(basis.evals, rows, least_squares(rows), (along_x, along_y))


def descriptors(
    shape: Prepared, k: int, signatures: int, n_points: int | None
) -> Float[Tensor, "p c"]:
    """Return curvatures and wave kernel signatures of the leading samples, or of all vertices, of a
    shape with a surface; neither knows of pose or rotation."""
    chosen = slice(None) if n_points is None else shape.samples[:n_points]
    basis = shape.basis.truncate(k)
    values = unit_norm(wks(basis, signatures), basis.mass)[chosen]
    return torch.cat([CURVATURE_SCALE * shape.curvature[chosen], values], dim=1)


def input_values(
    shape: Prepared, kind: Input, n_points: int | None, coordinates: Float[Tensor, "k 3"] | None
) -> Float[Tensor, "p c"]:
    """Return the network's input at the points.

    Args:
        coordinates: spectral coefficients of the positions for the "coordinates" inputs.

    Raises:
        InputError: ``zero_shot.no_initial_map`` when they are needed and not given.
    """
    parts = [
        _positions(shape, coordinates) if name == "coordinates" else _functions(shape, name)
        for name in kind.split("+")
    ]
    values = torch.cat(parts, dim=-1)
    return values if n_points is None else values[shape.samples[:n_points]]


def canonical(positions: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    """Turn spectral coefficients of positions into principal axes, so that no rotation is left.

    In each axis the coefficient of largest magnitude is positive, which may mirror the shape.
    """
    _, _, axes = torch.linalg.svd(positions[1:].double(), full_matrices=False)
    turned = positions.double() @ axes.T
    peaks = turned[1:].gather(0, turned[1:].abs().argmax(dim=0, keepdim=True))
    return (turned * torch.where(peaks < 0, -1.0, 1.0)).to(positions)


def _positions(shape: Prepared, coordinates: Tensor | None) -> Tensor:
    if coordinates is None:
        raise InputError(
            "zero_shot.no_initial_map",
            "The input 'coordinates' carries positions by an initial map, and none is given.",
            "Pass initial_fmaps, or choose the input xyz (aligned shapes) or wks.",
        )
    return shape.basis.evecs[:, : len(coordinates)] @ coordinates


def _functions(shape: Prepared, name: str) -> Tensor:
    if name == "xyz":
        return torch.from_numpy(shape.mesh.vertices.copy()).to(shape.rows)
    descriptor = {"wks": wks, "hks": hks}[name]
    basis = shape.basis.truncate(DESCRIPTOR_EIGENPAIRS)
    return unit_norm(descriptor(basis, N_DESCRIPTORS), basis.mass)


def _gradients(shape: Prepared, k: int) -> tuple[Tensor, Tensor]:
    return shape.slopes[0][:, :k], shape.slopes[1][:, :k]


def least_squares(rows: Float[Tensor, "p k"]) -> Float[Tensor, "k p"]:
    """Return the matrix that takes values at the points to spectral coefficients."""
    wide = rows.double()
    gram = wide.T @ wide
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram, wide.T).to(rows)
