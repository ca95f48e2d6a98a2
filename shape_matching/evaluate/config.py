"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from geo3d.config import require, require_at_least
from geo3d.work.slurm import EngineName, SlurmConfig
from shape_matching.config import MatchConfig
from shape_matching.evaluate.scoring import GeodesicKind


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation, complete: a run is resumed from them alone.

    Raises:
        ConfigError: ``config.bad_value``.
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
    engine: EngineName = "local"
    """Processes of this machine, or jobs of a cluster."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """What to ask the cluster for."""
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
        require_at_least(self, 1, "workers")
        require_at_least(self, 0, "worst")
        positive = self.pair_timeout is None or self.pair_timeout > 0
        require(positive, "pair_timeout", "a number of seconds above 0")
