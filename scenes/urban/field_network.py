"""One field of a scene: points of a box become density, colour and, if asked for, classes.

hash grid -> h = W2 relu(W1 f), density = softplus(h_0 + shift), colour = sigmoid(W3 h), slightly
stretched so that black and white are reached.  No view direction.
Source: Urban Architect, released code; Zip-NeRF for the weights of spread-out points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.fields.hashgrid import HashGrid, grid_levels
from geo3d.render.rays import POINTS, contract, scale_weights
from scenes.urban.scene_config import FieldConfig, SceneConfig

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

    def __init__(self, config: FieldConfig, scene: SceneConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.shift = config.density_shift
        self.contracts = scene.compat
        self.encoder = HashGrid(config.grid(), generator)
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
