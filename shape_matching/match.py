"""Dense correspondence between two near-isometric shapes without training or alignment.

Files with defects and shapes of several parts are taken apart first and matched part by part
(`shape_matching.search.sound`, `shape_matching.search.parts`).  Many initial functional maps are
refined side by side on samples and ranked by orientation and residual
(`shape_matching.search.initial_maps`); the best one is refined on all vertices
(`shape_matching.search.coupled`, or ZoomOut).  With ``config.improve`` it is first improved with
what was learned from other shapes (`shape_matching.corrector.improve`).  Pieces, cut or scanned,
go another way (`shape_matching.partial`).  Notation as in
`geo3d.spectral.fmap`: 1 is the source, 2 the target.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geo3d.device import pick_device
from geo3d.mesh.decimate import decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import vertex_normals
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.fmap import icp, nearest
from geo3d.spectral.precise import precise_map
from geo3d.spectral.zoomout import zoomout
from shape_matching.anatomy.across import BY_PLACES, far_from_isometric, with_places
from shape_matching.anatomy.network import ANATOMY
from shape_matching.confidence.calibrate import calibrated, put_right
from shape_matching.config import MatchConfig, Start
from shape_matching.corrector.improve import OnMap, feature_map, ignore_map, improved
from shape_matching.correspondence import Correspondence, cycle_confidence, filled
from shape_matching.evaluate.metrics import orientation
from shape_matching.partial.match_partial import match_partial, wants_partial
from shape_matching.search.choice import (
    AMBIGUITY_MARGIN,
    Choice,
    different,
    lead,
    ranked,
    taken,
)
from shape_matching.search.coupled import fine_representatives, refine_coupled, upsample
from shape_matching.search.initial_maps import (
    K_START,
    check_initial_map,
    check_landmarks,
    from_landmarks,
    from_p2p,
    initial_maps,
)
from shape_matching.search.parts import Known, match_parts
from shape_matching.search.points import is_coarse, match_points
from shape_matching.search.prepare import Prepared, prepare
from shape_matching.search.sound import sound
from shape_matching.starts import FunctionalStart, start_p2p

MIRRORED_POINTS = -0.3
"""Orientation below which the map of a cloud, whose normals are estimated, is a mirror image."""


def match(
    source: Mesh,
    target: Mesh,
    config: MatchConfig = MatchConfig(),  # noqa: B008  (frozen)
    *,
    landmarks: np.ndarray | None = None,
    initial_map: np.ndarray | FunctionalStart | None = None,
    device: str = "auto",
    progress: ProgressCallback = ignore_progress,
    on_map: OnMap = ignore_map,
) -> Correspondence:
    """Find the correspondence between ``source`` and ``target``.

    Args:
        landmarks: (p, 2) rows (source vertex, target vertex), at least 3; replaces the search for
            a start and holds in the result.
        initial_map: a map to refine, which replaces the search for a start: p2p_21 (n2,), in which
            -1 takes the image of the nearest vertex that has one; or a functional map or
            descriptors.  Pieces keep the map unless a clearly better one is found.
        device: see `geo3d.device.pick_device`.
        on_map: called with a stage and the functional map of that moment, some ten to fifty times.

    Raises:
        InputError: ``landmarks.bad``, ``match.bad_start``, ``match.partial_cloud``; MeshError:
            ``match.too_small`` and what the mesh operators raise; ShapeError: ``fmap.bad_p2p``;
            Cancelled: from ``progress``.
    """
    found = match_uncalibrated(
        source,
        target,
        config,
        landmarks=landmarks,
        initial_map=initial_map,
        device=device,
        progress=progress,
        on_map=on_map,
    )
    if initial_map is not None:
        return calibrated(found)
    return put_right(found, None if landmarks is None else np.asarray(landmarks, np.int64))


def match_uncalibrated(
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
    *,
    landmarks: np.ndarray | None = None,
    initial_map: np.ndarray | FunctionalStart | None = None,
    device: str = "auto",
    progress: ProgressCallback = ignore_progress,
    on_map: OnMap = ignore_map,
) -> Correspondence:
    """Do what `match` does, but for the confidence, which is that of the roundtrip."""
    if landmarks is not None:
        landmarks = check_landmarks(landmarks, source.n_vertices, target.n_vertices)
    initial_p2p_21 = _vertex_map(initial_map, source, target, config)
    whole = partial(_match_whole, config=config, device=device, progress=progress, on_map=on_map)
    one, two = sound(source), sound(target)
    if one.is_whole and two.is_whole:
        found = whole(source, target, landmarks=landmarks, initial_p2p_21=initial_p2p_21)
    else:
        by_parts = match_points if is_coarse(one) or is_coarse(two) else match_parts
        found = by_parts(one, two, Known(landmarks, initial_p2p_21), whole)
    found = found if landmarks is None else found.through(landmarks)
    return found.without_uncovered()


def _vertex_map(
    initial_map: np.ndarray | FunctionalStart | None,
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
) -> np.ndarray | None:
    """Return what is given as a vertex map without gaps."""
    if initial_map is None:
        return None
    if isinstance(initial_map, FunctionalStart):
        return start_p2p(initial_map, source, target, config.laplacian)
    checked = check_initial_map(initial_map, source.n_vertices, target.n_vertices)
    return filled(checked, target.vertices)


def _match_whole(
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
    *,
    landmarks: np.ndarray | None = None,
    initial_p2p_21: np.ndarray | None = None,
    device: str,
    progress: ProgressCallback,
    on_map: OnMap,
) -> Correspondence:
    """Match two shapes of one part each; what is known has been checked."""
    if wants_partial(source, target, config.partial):
        known: dict[str, Any] = {"landmarks": landmarks, "initial_p2p_21": initial_p2p_21}
        return match_partial(source, target, **known, progress=progress)
    if max(source.n_vertices, target.n_vertices) > config.max_vertices:
        return _match_coarse(
            source,
            target,
            config,
            landmarks,
            initial_p2p_21,
            device=device,
            progress=progress,
            on_map=on_map,
        )
    place = pick_device(device)
    one, two = _prepared(source, target, config, place, progress)
    starts = _starts(one, two, config, landmarks, initial_p2p_21, progress, on_map)
    is_given = landmarks is not None or initial_p2p_21 is not None
    choices = ranked(starts, one, two, config, progress, anew=not is_given)
    ahead = lead(different(choices, one, two))
    if initial_p2p_21 is None and _may_differ_in_kind(choices[0], config):
        marks = None if landmarks is None else torch.from_numpy(landmarks).to(place)
        network = ANATOMY.load(config.anatomy or None, str(place))
        choices = with_places(choices, one, two, marks, network)
    chosen, other = taken(different(choices, one, two), config.choose)
    fmap_12, scores = chosen.fmap_12, {**chosen.scores, "lead": min(ahead, 1e3)}
    on_map("chosen", fmap_12)
    notes: tuple[str, ...] = ()
    if chosen.p2p_12 is not None:
        p2p_21, p2p_12, notes = chosen.p2p_21, chosen.p2p_12, (BY_PLACES,)
    else:
        if config.improve:
            fmap_12, notes = improved(fmap_12, one, two, config, progress, on_map)
        fmap_12, p2p_21, p2p_12 = _refine(fmap_12, one, two, config, progress)
    on_map("refined", fmap_12)
    maps = p2p_21.cpu().numpy(), p2p_12.cpu().numpy()
    ambiguous = ahead < AMBIGUITY_MARGIN
    return Correspondence(
        source,
        target,
        *maps,
        fmap_12.double().cpu().numpy(),
        cycle_confidence(two.mesh, *maps, area=1.0),
        scores,
        ambiguous,
        one.notes + two.notes + notes + _doubts(ambiguous, _is_mirrored(scores, one, two, maps[0])),
        alternative_21=None if other is None else other.p2p_21.cpu().numpy(),
    )


def _prepared(
    source: Mesh, target: Mesh, config: MatchConfig, place: torch.device, progress: ProgressCallback
) -> tuple[Prepared, Prepared]:
    # A pair can only use as many eigenfunctions as its smaller shape carries.  The search needs
    # those of its first stage and the two more with which the second begins (`finalists`).
    k = min(config.k_final, (min(source.n_vertices, target.n_vertices) - 2) // 2)
    k = max(k, K_START + 2)
    shapes = []
    for i, mesh in enumerate((source, target)):
        report(progress, "eigenbasis", i, 2)
        shapes.append(prepare(mesh, k, config.n_samples, config.laplacian, place, config.cache))
    report(progress, "eigenbasis", 2, 2)
    return shapes[0], shapes[1]


def _starts(
    one: Prepared,
    two: Prepared,
    config: MatchConfig,
    landmarks: np.ndarray | None,
    initial_p2p_21: np.ndarray | None,
    progress: ProgressCallback,
    on_map: OnMap,
) -> Tensor:
    place = one.rows.device
    if initial_p2p_21 is not None:
        return from_p2p(one, two, torch.from_numpy(initial_p2p_21).to(place))
    if landmarks is not None:
        return from_landmarks(one, two, torch.from_numpy(landmarks).to(place))
    report(progress, "hypotheses", 0, 3)
    families: list[Start] = [name for name in config.starts if name != "features"]
    found = [initial_maps(one, two, families)] if families else []
    if "features" in config.starts:
        found.append(feature_map(one, two, config, progress, on_map))
    return torch.cat(found)


def _may_differ_in_kind(best: Choice, config: MatchConfig) -> bool:
    return config.kinds == "yes" or (config.kinds == "auto" and far_from_isometric(best))


def _refine(
    fmap_12: Tensor, one: Prepared, two: Prepared, config: MatchConfig, progress: ProgressCallback
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the final functional map, p2p_21 and p2p_12."""
    if config.icp_iterations:
        fmap_12 = icp(fmap_12, one.basis, two.basis, config.icp_iterations)
    k = min(config.k_final, one.basis.k, two.basis.k)
    samples = _final_samples(one, two, k)
    if config.refinement == "coupled":
        small = max(one.mesh.n_vertices, two.mesh.n_vertices) <= config.refine_vertices
        samples = None if small else samples
        fmap_12, p2p_21, p2p_12 = refine_coupled(
            fmap_12, one, two, k, samples=samples, progress=progress
        )
    else:
        fmap_12, p2p_21 = zoomout(
            fmap_12,
            one.basis,
            two.basis,
            max(k, fmap_12.shape[0]),
            config.step_final,
            samples=samples,
            progress=progress,
        )
        k2, k1 = fmap_12.shape
        p2p_12 = nearest(one.basis.evecs[:, :k1], two.basis.evecs[:, :k2] @ fmap_12)
    if config.precise and not one.mesh.is_point_cloud:
        faces = torch.from_numpy(one.mesh.faces.copy()).to(fmap_12.device)
        points = precise_map(fmap_12, one.basis.evecs, two.basis.evecs, faces)
        p2p_21 = points.nearest_vertices(faces)
    return fmap_12, p2p_21, p2p_12


def _final_samples(one: Prepared, two: Prepared, k: int) -> tuple[Tensor, Tensor] | None:
    """Return the samples if they determine maps of size ``k``; small shapes use all vertices."""
    enough = min(len(one.samples), len(two.samples)) >= 4 * k
    return (one.samples, two.samples) if enough else None


def _match_coarse(
    source: Mesh,
    target: Mesh,
    config: MatchConfig,
    landmarks: np.ndarray | None,
    initial_p2p_21: np.ndarray | None,
    *,
    device: str,
    progress: ProgressCallback,
    on_map: OnMap,
) -> Correspondence:
    """Decimate, match, and carry the map back to all vertices."""
    coarse = []
    for i, mesh in enumerate((source, target)):
        report(progress, "decimation", i, 2)
        coarse.append(decimate(mesh, min(config.coarse_vertices, mesh.n_vertices)))
    one, two = coarse
    if landmarks is not None:
        first, second = landmarks.T
        landmarks = np.stack([one.nearest_coarse()[first], two.nearest_coarse()[second]], axis=1)
    if initial_p2p_21 is not None:
        initial_p2p_21 = one.nearest_coarse()[initial_p2p_21[fine_representatives(two, target)]]
    found = _match_whole(
        one.mesh,
        two.mesh,
        # decimation may miss the asked number by a little
        replace(config, max_vertices=2 * config.coarse_vertices),
        landmarks=landmarks,
        initial_p2p_21=initial_p2p_21,
        device=device,
        progress=progress,
        on_map=on_map,
    )
    return upsample(found, source, target, one, two, progress)


def _is_mirrored(
    scores: dict[str, float], one: Prepared, two: Prepared, p2p_21: np.ndarray
) -> bool:
    """Return whether the map turns the surface over, by its coarse shape and by its triangles: a
    coarse map from few landmarks may seem to where it is only wrong."""
    if one.mesh.is_point_cloud or two.mesh.is_point_cloud:
        return scores["orientation"] < MIRRORED_POINTS
    if scores["orientation"] >= 0:
        return False
    return orientation(vertex_normals(one.mesh), one.mesh, two.mesh, p2p_21) < 0


def _doubts(ambiguous: bool, mirrored: bool) -> tuple[str, ...]:
    notes = []
    if ambiguous:
        notes.append(
            "A clearly different map explains the shapes nearly as well (a symmetry?); "
            "three landmarks settle it."
        )
    if mirrored:
        notes.append(
            "The best map reverses orientation: one shape is the mirror image of the other, or the "
            "faces of one are inside out (`geo3d check` tells)."
        )
    return tuple(notes)
