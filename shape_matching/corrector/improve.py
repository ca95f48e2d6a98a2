"""The chosen map made better with what was learned from other shapes.

Notation as in `geo3d.spectral.fmap`.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from geo3d.device import item_generator
from geo3d.errors import MeshError
from geo3d.progress import ProgressCallback, report
from shape_matching.config import Improvement, MatchConfig
from shape_matching.corrector.corrector import CORRECTOR, corrected, reverse
from shape_matching.prior.prior import load_prior
from shape_matching.prior.zero_shot import optimise
from shape_matching.search.coupled import refine_coupled
from shape_matching.search.initial_maps import K_START
from shape_matching.search.prepare import Prepared

K_BETWEEN = 80
"""Size up to which a map is refined between two steps."""
TOO_LITTLE = ("zero_shot.too_small", "corrector.too_small", "corrector.no_surface")
"""What a step may refuse; the map is kept then."""
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
    """Return the map that ``config.improvements`` make of it.

    Between two steps the map is refined a little, so that the second sees better coordinates.
    Shapes on which a step cannot work keep their map; then there is a note.
    """
    large = max(one.mesh.n_vertices, two.mesh.n_vertices) > config.refine_vertices
    samples = (one.samples, two.samples) if large else None
    for i, step in enumerate(config.improvements):
        if i:
            k = min(K_BETWEEN, one.basis.k, two.basis.k)
            fmap_12 = refine_coupled(fmap_12, one, two, k, samples=samples, progress=progress)[0]
            on_map("refined", fmap_12)
        report(progress, "improvement", i, len(config.improvements), kind=step)
        try:
            fmap_12 = _improved_once(step, fmap_12, one, two, config, progress, on_map)
        except MeshError as error:
            if error.code not in TOO_LITTLE:
                raise
            return fmap_12, (f"The map was not improved: {error.message}",)
    return fmap_12, ()


def feature_map(
    one: Prepared, two: Prepared, config: MatchConfig, progress: ProgressCallback, on_map: OnMap
) -> Float[Tensor, "1 k k"]:
    """Return the zero-shot map of shapes that stand alike: positions as they are, no other start.

    The leading part that all starts have in common.
    """
    fmap_12 = _optimised(one, two, config, None, progress, on_map)
    return fmap_12[None, :K_START, :K_START]


def _improved_once(
    step: Improvement,
    fmap_12: Tensor,
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    progress: ProgressCallback,
    on_map: OnMap,
) -> Tensor:
    if step == "optimise":
        initial = fmap_12, reverse(fmap_12, one, two)
        return _optimised(one, two, config, initial, progress, on_map)
    network = CORRECTOR.load(config.corrector or None, str(one.rows.device))
    fmap_12 = corrected(fmap_12, one, two, network)
    on_map("corrected", fmap_12)
    return fmap_12


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
