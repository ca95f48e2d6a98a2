"""Settings of a street scene, and presets from a laptop to the published size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geo3d.errors import ConfigError
from geo3d.fields.hashgrid import HashGridConfig

Constrain = Literal["segments", "hull", "none"]


@dataclass(frozen=True)
class FieldConfig:
    """One field: a hash grid and small networks on top."""

    levels: int = 8
    features: int = 2
    base: int = 16
    """Resolution of the coarsest level across a cell."""
    finest: int = 512
    """Resolution of the finest level."""
    log2_rows: int = 14
    """Logarithm of the most rows a level may have."""
    hidden: int = 32
    """Width of the density network."""
    bottleneck: int = 16
    """Numbers it hands to the colour layer."""
    density_shift: float = 1.0
    """Added before the softplus: untrained matter has softplus(shift) per metre."""

    def grid(self) -> HashGridConfig:
        """Return the settings of the hash grid."""
        return HashGridConfig(
            self.levels,
            self.features,
            self.base,
            self.finest,
            self.log2_rows,
            convention="gridencoder",
        )


@dataclass(frozen=True)
class SceneConfig:
    """A street scene.  The defaults are the small preset for a processor.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    cell: float = 32.0
    """Side of a cell in metres."""
    band: float = 6.0
    """Width in which neighbouring cells blend, metres."""
    stuff: FieldConfig = field(default_factory=FieldConfig)
    """Fields of cells."""
    objects: FieldConfig = field(
        default_factory=lambda: FieldConfig(levels=6, finest=128, log2_rows=12)
    )
    """Fields of movable primitives, in their unit boxes."""
    samples: int = 24
    """Intervals per ray."""
    constrain: Constrain = "segments"
    """Where rays are sampled: inside primitives, from the first surface to the last, everywhere."""
    falloff: float | None = 0.5
    """Depth in metres behind a surface at which samples lie twice as far apart; None: evenly."""
    empty_background: bool = True
    """Whether rays that meet no primitive show the sky and nothing else."""
    near: float = 0.5
    """Start of rays without constraint, metres."""
    far: float = 200.0
    """End of rays, metres."""
    multisample: bool = False
    """Six points per interval, weighted by the cone's width, against aliasing; six times dearer."""
    semantics: int = 0
    """Number of classes each field predicts; 0 for none."""
    sky: Literal["mlp", "grid"] = "mlp"
    """A network, or the release's grid of colours."""
    sky_hidden: int = 64
    """Width of the sky's network."""
    chunk: int = 16384
    """Rays rendered at once without gradients."""
    resident: int = 24
    """Blocks kept in memory."""
    seed: int = 0
    """Decides every field's first parameters."""
    compat: bool = False
    """Whether to do as the released code does, its defects included."""

    def __post_init__(self) -> None:
        if self.samples < 2 or self.chunk < 1 or not 0 <= self.near < self.far:
            raise ConfigError(
                "config.bad_value",
                "A scene needs two samples a ray, a chunk of rays, and near before far.",
                f"samples {self.samples}, chunk {self.chunk}, near {self.near}, far {self.far}.",
            )


_PUBLISHED_FIELD = {"levels": 10, "features": 4, "finest": 8192, "hidden": 64, "bottleneck": 128}

PRESETS: dict[str, SceneConfig] = {
    "demo": SceneConfig(
        cell=32.0,
        stuff=FieldConfig(levels=6, finest=256, log2_rows=13, hidden=16),
        samples=16,
    ),
    "cpu": SceneConfig(),
    "gpu": SceneConfig(
        cell=100.0,
        stuff=FieldConfig(12, 2, 16, 4096, 19, 64, 16),
        objects=FieldConfig(8, 2, 16, 512, 15, 64, 16),
        samples=32,
        multisample=True,
    ),
    "published": SceneConfig(
        cell=400.0,
        band=0.0,
        stuff=FieldConfig(log2_rows=21, density_shift=-1.0, **_PUBLISHED_FIELD),
        objects=FieldConfig(log2_rows=14, density_shift=-1.0, **_PUBLISHED_FIELD),
        samples=32,
        constrain="hull",
        falloff=None,
        empty_background=False,
        sky="grid",
        multisample=True,
        compat=True,
    ),
}
"""Scenes by size; "published" repeats the release, its defects included."""
