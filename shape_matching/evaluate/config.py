"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo3d.errors import ConfigError
from shape_matching.config import MatchConfig
from shape_matching.evaluate.scoring import GeodesicKind


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation, complete: a run is resumed from them alone.

    Raises:
        ConfigError: ``evaluate.bad_setting``.
    """

    data: str = ""
    """Folder of shapes."""
    protocol: str = "auto"
    """Name of the pair list (see `shape_matching.evaluate.protocols`)."""
    pairs: str | None = None
    """File with "SOURCE TARGET" per line, instead of a protocol."""
    max_pairs: int | None = None
    """Evaluate at most this many, drawn without replacement."""
    pair_seed: int = 0
    """Seed of that draw."""
    shared_ground_truth: bool | None = None
    """Whether shapes of different families list the same body points; null decides by content."""
    method: str = "axiomatic"
    """Name in `shape_matching.methods.METHODS`."""
    device: str = "auto"
    """Where the method computes (see `geo3d.device.pick_device`)."""
    geodesics: GeodesicKind = "heat"
    """How errors are measured: heat as in the literature, or exact."""
    cache_geodesics: bool = False
    """Keep distance tables in the cache folder (100 MB per shape of 5,000 vertices)."""
    workers: int = 1
    """Processes; the processor's cores are divided among them."""
    pair_timeout: float | None = None
    """Seconds after which a pair is stopped and recorded as failed."""
    save_maps: bool = False
    """Write each map as text, one 0-based source vertex per target vertex."""
    random_rotations: bool = False
    """Whether every shape is turned at random first (seed: ``pair_seed`` and its name)."""
    ablation: bool = False
    """Whether all methods of `shape_matching.evaluate.ablation` are evaluated, not only
    ``method``."""
    worst: int = 6
    """Pairs shown in the gallery of the worst."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Settings of the method."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("worst", 0)):
            if getattr(self, name) < least:
                raise _bad_setting(name, getattr(self, name), f"{least} or more")
        if self.pair_timeout is not None and not self.pair_timeout > 0:
            raise _bad_setting("pair_timeout", self.pair_timeout, "a number of seconds above 0")


def _bad_setting(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError("evaluate.bad_setting", f"{name} is {value}.", f"Give {wanted}.")
