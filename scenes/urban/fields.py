"""The networks of a scene: fields, and the sky behind them.

A field turns points of a box into density, colour and, if asked for, classes:

hash grid -> h = W2 relu(W1 f), density = softplus(h_0 + shift), colour = sigmoid(W3 h), slightly
stretched so that black and white are reached.  No view direction.
The sky is a colour by direction: a small network on sines of the direction (the paper's text), or
the release's grid of colours on the cube, kept for comparison only: near the axes half of its
neighbours lie outside and it darkens.

Source: Urban Architect, released code; Zip-NeRF for the weights of spread-out points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.fields.hashgrid import HashGrid
from geo3d.fields.levels import grid_levels
from geo3d.render.rays import POINTS, contract, scale_weights
from scenes.urban.config import FieldConfig, FieldsConfig

_STRETCH = 0.001


class Matter(NamedTuple):
    """What is at points."""

    density: Float[Tensor, " p"]
    """Per metre."""
    rgb: Float[Tensor, "p 3"]
    classes: Float[Tensor, "p k"]
    """Logits; k = 0 without semantics."""


class Field(nn.Module):
    """A hash grid with its networks.

    Args:
        config: of this field.
        scene: of the scene.
        generator: draws the first parameters.
    """

    def __init__(
        self, config: FieldConfig, scene: FieldsConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shift = config.density_shift
        self.contracts = scene.compat
        self.encoder = HashGrid(config.grid(scene.convention), generator, scene.backend)
        width = self.encoder.config.width
        self.hidden = linear(width, config.hidden, generator)
        self.mix = linear(config.hidden, config.bottleneck, generator)
        self.colour = linear(config.bottleneck, 3, generator)
        self.classes = (
            linear(config.bottleneck, scene.semantics, generator) if scene.semantics else None
        )
        sizes = [float(level.resolution) for level in grid_levels(self.encoder.config)]
        self.register_buffer("_sizes", torch.tensor(sizes), persistent=False)

    def forward(
        self, points: Float[Tensor, "*m 3"], spread: Float[Tensor, "*m"] | None = None
    ) -> Matter:
        """Return what is at points of the box [-1, 1]^3.

        Args:
            points: (p, 3), or (p, 6, 3) for the six points of a cone.
            spread: of the points, in the same units; with six points only.
        """
        if self.contracts:
            points, spread = contract(points, spread)
            points = points / 2
            spread = None if spread is None else spread / 2
        features = self.encoder(((points + 1) / 2).reshape(-1, 3))
        if spread is not None:
            config = self.encoder.config
            weights = scale_weights(spread, self.get_buffer("_sizes"))
            features = features.view(-1, POINTS, config.levels, config.features)
            features = (features * weights[..., None]).mean(dim=1).flatten(1)
        mixed = self.mix(torch.relu(self.hidden(features)))
        density = nn.functional.softplus(mixed[:, 0] + self.shift)
        rgb = torch.sigmoid(self.colour(mixed)) * (1 + 2 * _STRETCH) - _STRETCH
        classes = mixed[:, :0] if self.classes is None else self.classes(mixed)
        return Matter(density, rgb, classes)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with torch's usual first weights, drawn from a generator."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        nn.init.uniform_(layer.weight, -bound, bound, generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator)
    return layer


OCTAVES = 4


class Sky(nn.Module):
    """Colour of the sky in a direction."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        width = 3 + 6 * OCTAVES
        self.layers = nn.ModuleList([linear(n, hidden, generator) for n in (width, hidden, hidden)])
        self.out = linear(hidden, 3, generator)

    def forward(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Return colours in [0, 1]; directions of any length."""
        unit = nn.functional.normalize(directions, dim=-1)
        waves = [wave(unit * 2.0**k) for k in range(OCTAVES) for wave in (torch.sin, torch.cos)]
        x = torch.cat([unit, *waves], dim=-1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.out(x))


class SkyGrid(nn.Module):
    """The release's sky: a cube of colours read at the unit direction."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.ones(1, 3, 100, 100, 100))

    def forward(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Return colours in [0, 1]; directions of any length."""
        unit = nn.functional.normalize(directions, dim=-1).flip(-1)
        found = nn.functional.grid_sample(
            self.grid, unit[None, None, None], align_corners=False, padding_mode="zeros"
        )
        return found[0, :, 0, 0].T.clamp(0, 1)
