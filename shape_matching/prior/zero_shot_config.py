"""What can be set when a functional map is optimised for one pair with a spectral prior.

Map sizes count eigenfunctions, points are vertices, noise levels are in units of map entries.
The notation is that of `shape_matching.prior.zero_shot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from geo3d.config import require, require_at_least

Input = Literal["xyz", "wks", "hks", "xyz+wks", "coordinates", "coordinates+wks"]
SdsForm = Literal["released", "corrected"]
Mask = Literal["none", "laplacian", "resolvent", "diffusion", "posterior", "static"]


@dataclass(frozen=True)
class ZeroShotConfig:
    """Settings of `shape_matching.prior.zero_shot.optimise`; the defaults are the preset "cpu"."""

    input: Input = "coordinates"
    """What the network sees: positions in space ("xyz", which must be aligned), descriptors, or the
    source's smooth positions carried to the target by the initial map ("coordinates", which depends
    on no rotation and needs an initial map)."""
    n_points: int | None = 1000
    """Points per shape on which features are computed; None means all vertices."""
    features: int = 128
    """Features per point."""
    width: int = 64
    """Channels inside the network."""
    blocks: int = 4
    """Blocks of the network."""
    network_eigenpairs: int = 96
    """Eigenpairs used for diffusion inside the network."""
    dropout: bool = False
    """Whether half of the network's inner activations are switched off at random, at every step."""
    map_size: int = 30
    """Size of the functional maps; that of the prior."""
    mask: Mask = "none"
    """Penalty of the regularised map: see `shape_matching.prior.masks` and
    `geo3d.spectral.fmap`."""
    mask_weight: float = 1e-3
    """Weight of the penalty (lambda)."""
    mask_probes: int = 16
    """Noisy copies of the map given to the prior for one mask."""
    mask_sigma: float = 1.0
    """Their noise level."""
    mask_of: Literal["raw", "regularised"] = "regularised"
    """Which map is probed: the raw one of this step, or the regularised one of the step before (at
    first the initial map)."""
    mask_every: int = 4
    """Steps between two new masks."""
    loss_map: Literal["raw", "regularised"] = "raw"
    """Which map the losses look at and the result is taken from."""
    steps: int = 20
    """Optimiser steps at most."""
    rate: float = 1e-3
    """Learning rate of Adam (betas 0.9 and 0.99)."""
    w_proper: float = 1.0
    """Weight of the distance to the map refined by ZoomOut."""
    w_sds: float = 1e-3
    """Weight of score distillation."""
    sds_form: SdsForm = "corrected"
    """The formula of the paper, or of its released code (see
    `shape_matching.prior.zero_shot.sds_loss`)."""
    sds_probes: int = 8
    """Noise levels per step."""
    sds_sigma: tuple[float, float] = (0.02, 0.3)
    """Range from which they are drawn evenly."""
    sds_shared_noise: bool = True
    """Whether all levels share one noise matrix."""
    w_orthogonal: float = 0.0
    """Weight of |C^T C - I|^2, which asks for preserved areas."""
    w_bijective: float = 0.0
    """Weight of |C_12 C_21 - I|^2, which asks the two directions to be inverse."""
    w_laplacian: float = 0.0
    """Weight of the Laplacian commutativity, which asks for an isometry."""
    zoomout_size: int = 40
    """Map size up to which ZoomOut refines the regularised map in the loop."""
    zoomout_step: int = 5
    """Growth per pass."""
    zoomout_points: int | None = 1000
    """Samples per shape looked at; None means all vertices."""
    patience: int = 20
    """Steps without a better proper loss after which it stops; 0 means never."""
    plateau: float = 0.01
    """Part of the best proper loss by which a better one must be lower."""
    keep: Literal["best", "last"] = "best"
    """Which map is returned: that of the lowest proper loss, or the last."""
    show_every: int = 5
    """Steps between two calls of ``on_step``."""

    def __post_init__(self) -> None:
        require_at_least(
            self,
            1,
            "features width blocks map_size mask_probes "
            "mask_every steps sds_probes zoomout_step show_every",
        )
        require_at_least(self, 0, "mask_weight w_proper w_sds w_orthogonal w_bijective")
        require(self.w_laplacian >= 0, "w_laplacian", "0 or more")
        require(self.patience >= 0, "patience", "0 or more")
        require(0 <= self.plateau < 1, "plateau", "in [0, 1)")
        require(self.rate > 0 and self.mask_sigma > 0, "rate and mask_sigma", "above 0")
        low, high = self.sds_sigma
        require(0 < low <= high, "sds_sigma", "two levels above 0 in rising order")
        require(self.zoomout_size >= self.map_size, "zoomout_size", "at least map_size")
        least = 2 * max(self.zoomout_size, self.network_eigenpairs)
        for name in ("n_points", "zoomout_points"):
            count = getattr(self, name)
            require(count is None or count >= least, name, f"None or at least {least}")

    @property
    def needs_prior(self) -> bool:
        """Whether mask or losses ask the prior."""
        return self.mask in ("diffusion", "posterior", "static") or self.w_sds > 0


SINGLE: Mapping[str, Any] = {
    "input": "xyz",
    "mask": "posterior",
    "steps": 80,
    "sds_sigma": (0.01, 1.01),
}
PUBLISHED: Mapping[str, Any] = {
    "input": "xyz",
    "n_points": None,
    "width": 128,
    "network_eigenpairs": 128,
    "dropout": True,
    "mask": "diffusion",
    "mask_weight": 0.1,
    "mask_probes": 200,
    "mask_of": "raw",
    "mask_every": 1,
    "steps": 300,
    "sds_sigma": (0.01, 1.01),
    "w_sds": 1.0,
    "sds_form": "released",
    "sds_probes": 32,
    "zoomout_step": 1,
    "zoomout_points": None,
    "patience": 0,
    "keep": "last",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cpu": {},
    "single": SINGLE,
    "published": PUBLISHED,
    "paper": {**PUBLISHED, "mask_weight": 1e-3, "steps": 1000, "w_sds": 0.1},
}
"""Named differences from the defaults, which improve a map that is nearly right; "single" starts
from nothing on shapes that stand alike; "published" and "paper" are the configurations sds and
sds_slow of the released code."""
