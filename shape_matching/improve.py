"""The chosen map made better for the pair at hand, with the spectral prior.

Notation as in `geo3d.spectral.fmap`.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.errors import MeshError
from geo3d.progress import ProgressCallback
from geo3d.spectral.nearest import nearest
from shape_matching.config import MatchConfig
from shape_matching.coupled import refine_coupled
from shape_matching.prepare import Prepared
from shape_matching.prior import load_prior
from shape_matching.starts import K_START
from shape_matching.zero_shot import optimise

K_BETWEEN = 80
"""Size up to which a map is refined between two rounds."""
OnMap = Callable[[str, Tensor], None]
"""Gets the name of a stage and fmap_12 (k2, k1) of that moment."""


def ignore_map(stage: str, fmap_12: Tensor) -> None:
    """Do nothing."""


def improved(
    fmap_12: Float[Tensor, "k k"],
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    progress: ProgressCallback,
    on_map: OnMap,
) -> tuple[Float[Tensor, "m m"], tuple[str, ...]]:
    """Return the map that `zero_shot.optimise` makes of it, of the size of the prior's maps.

    Between two rounds the map is refined a little, so that the second sees better coordinates.
    Shapes too small for all that keep their map; then there is a note.
    """
    large = max(one.mesh.n_vertices, two.mesh.n_vertices) > config.refine_vertices
    samples = (one.samples, two.samples) if large else None
    for left in reversed(range(config.rounds)):
        initial = fmap_12, _reverse(fmap_12, one, two)
        try:
            fmap_12 = _optimised(one, two, config, initial, progress, on_map)
        except MeshError as error:
            if error.code != "zero_shot.too_small":
                raise
            return fmap_12, (f"The map was not optimised: {error.message}",)
        if left:
            k = min(K_BETWEEN, one.basis.k, two.basis.k)
            fmap_12 = refine_coupled(fmap_12, one, two, k, samples=samples, progress=progress)[0]
            on_map("refined", fmap_12)
    return fmap_12, ()


def feature_map(
    one: Prepared, two: Prepared, config: MatchConfig, progress: ProgressCallback, on_map: OnMap
) -> Float[Tensor, "1 k k"]:
    """Return the zero-shot map of shapes that stand alike: positions as they are, no other start.

    The leading part that all starts have in common.
    """
    fmap_12 = _optimised(one, two, config, None, progress, on_map)
    return fmap_12[None, :K_START, :K_START]


def _optimised(
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    initial: tuple[Tensor, Tensor] | None,
    progress: ProgressCallback,
    on_map: OnMap,
) -> Tensor:
    settings = config.zero_shot
    found = optimise(
        one,
        two,
        load_prior(config.prior or None, str(one.rows.device)) if settings.needs_prior else None,
        settings,
        initial_fmaps=initial,
        generator=item_generator(config.seed, 0),
        progress=progress,
        on_step=lambda step, fmap, losses: on_map(f"step {step}", fmap),
    )
    return found.fmap_12


def _reverse(fmap_12: Float[Tensor, "k k"], one: Prepared, two: Prepared) -> Float[Tensor, "k k"]:
    """Return the functional map of the other direction, by the vertex map that 12 implies."""
    k2, k1 = fmap_12.shape
    p2p_12 = nearest(one.basis.evecs[:, :k1] @ fmap_12.T, two.basis.evecs[:, :k2])
    return one.basis.project(two.basis.evecs[p2p_12, :k2])[:k1]
