"""Pairwise maps of many shapes made consistent on all their vertices.

The functional maps of the pairs place every shape in one latent space
(`geo3d.spectral.collections`); the consistent maps are nearest neighbours there, between all pairs,
those too that were not matched.  Of files of several parts the largest part takes part; the other
vertices follow their nearest neighbour.

Notation: a pair of names (a, b) has ``p2p_21`` (vb,), a vertex of a for each of b, and ``p2p_12``
(va,).  Distances are straight, over the root of the area, x100.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csgraph
from torch import Tensor

from geo3d.device import pick_device
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.spectral.basis import Basis
from geo3d.spectral.collections import agreement, latent_basis
from geo3d.spectral.fmap import nearest, p2p_to_fmap
from shape_matching.config import MatchConfig
from shape_matching.correspondence import filled
from shape_matching.search.prepare import prepare
from shape_matching.search.sound import FEWEST_VERTICES, Part, sound

K_AGREEMENT = 20
"""Size at which maps are told apart: right ones agree, mirror images and turned ones do not."""
K_MOST, VERTICES_PER_FUNCTION, ROWS_MOST = 150, 6, 6000
"""Size of the maps that are made consistent: at most so many functions, so many vertices for each,
and so many functions of all shapes together, since their cost grows with the cube."""
LATENT_SHARE = 0.8
"""Latent functions over eigenfunctions; with all of them the noise of the last ones counts."""
MOST_TRIPLES = 3000
"""Cycles of three shapes that are looked at."""
FEW_SAMPLES = 100
"""Shapes are prepared with; nothing here looks at samples."""
Names = tuple[str, str]
"""Source and target of a pair."""


class PairMaps(NamedTuple):
    """Vertex maps of a pair, both ways."""

    p2p_21: Int64[np.ndarray, " v2"]
    p2p_12: Int64[np.ndarray, " v1"]


@dataclass(frozen=True, eq=False)
class Consistent:
    """The result of `make_consistent`."""

    names: tuple[str, ...]
    """Shapes that take part: those that maps connect with the most others."""
    maps: dict[Names, PairMaps]
    """Of all pairs of them, in the order of the names."""
    pairs: dict[Names, dict[str, float]]
    """Of each pair that was matched: ``agreement``, 1 where the pairwise map fits the others, 0
    where it counts for nothing; ``moved``, from the pairwise to the consistent map."""
    cycle_before: float | None
    """Mean distance from a vertex to where cycles of three pairwise maps lead; None without any."""
    cycle_after: float | None


@dataclass(frozen=True, eq=False)
class _Shape:
    mesh: Mesh
    part: Part
    """The largest."""
    basis: Basis
    """Of that part, at unit area."""


def make_consistent(
    meshes: Mapping[str, Mesh],
    pairs: Mapping[Names, PairMaps],
    config: MatchConfig,
    device: str = "auto",
) -> Consistent:
    """Return consistent maps of the shapes that ``pairs`` connect.

    Args:
        meshes: by name; all have vertices of their files.
        pairs: maps of whole shapes, -1 for vertices without counterpart.
    """
    shapes = _shapes(meshes, config, pick_device(device))
    edges: dict[Names, PairMaps] = {}
    for pair, maps in pairs.items():
        on_parts = _on_parts(shapes, pair, maps)
        if on_parts is not None:
            edges[pair] = on_parts
    names = _largest_component(list(meshes), list(edges))
    edges = {pair: maps for pair, maps in edges.items() if pair[0] in names}
    if not edges:
        return Consistent((), {}, {}, None, None)
    chosen = {name: shapes[name] for name in names}
    embedded, weights = _embedded(chosen, edges)
    found: dict[Names, PairMaps] = {}
    for one, two in itertools.combinations(names, 2):
        rows_1, rows_2 = embedded[one], embedded[two]
        maps = (nearest(rows_2, rows_1), nearest(rows_1, rows_2))
        found[one, two] = _on_files(
            chosen[one], chosen[two], PairMaps(*(p.cpu().numpy() for p in maps))
        )
    before = {pair: pairs[pair] for pair in edges}
    numbers = {
        pair: {"agreement": weights[pair], "moved": _moved(meshes, pair, before[pair], found)}
        for pair in edges
    }
    errors = cycle_error(meshes, before), cycle_error(meshes, found)
    return Consistent(tuple(names), found, numbers, *errors)


def cycle_error(meshes: Mapping[str, Mesh], maps: Mapping[Names, PairMaps]) -> float | None:
    """Return the mean distance from a vertex to where a cycle of three maps leads it, x100.

    Of more than 3,000 triples of shapes so many are drawn.  None where no three shapes have all
    their maps.
    """
    images: dict[Names, np.ndarray] = {}
    for (one, two), both in maps.items():
        # Where there is no image, that of the neighbour.
        images[one, two] = filled(both.p2p_21, meshes[two].vertices)
        images[two, one] = filled(both.p2p_12, meshes[one].vertices)
    names = sorted({name for pair in maps for name in pair})
    triples = [
        triple
        for triple in itertools.combinations(names, 3)
        if all(pair in images for pair in itertools.permutations(triple, 2))
    ]
    if not triples:
        return None
    if len(triples) > MOST_TRIPLES:
        drawn = np.random.default_rng(0).choice(len(triples), MOST_TRIPLES, replace=False)
        triples = [triples[i] for i in drawn]
    errors = []
    for a, b, c in itertools.chain.from_iterable(map(itertools.permutations, triples)):
        back = images[a, c][images[c, b][images[b, a]]]
        errors.append(_distance(meshes[a], back, np.arange(len(back))))
    return float(np.mean(errors))


def _shapes(
    meshes: Mapping[str, Mesh], config: MatchConfig, place: torch.device
) -> dict[str, _Shape]:
    """Return the shapes that are large enough, with bases of one size."""
    parts = {name: sound(mesh).parts[0] for name, mesh in meshes.items()}
    parts = {name: p for name, p in parts.items() if p.mesh.n_vertices >= FEWEST_VERTICES}
    if not parts:
        return {}
    fewest = min(part.mesh.n_vertices for part in parts.values())
    k = max(K_AGREEMENT, min(K_MOST, fewest // VERTICES_PER_FUNCTION, ROWS_MOST // len(parts)))
    settings = (k, FEW_SAMPLES, config.laplacian, place, config.cache)
    return {
        name: _Shape(meshes[name], part, prepare(part.mesh, *settings).basis)
        for name, part in parts.items()
    }


def _on_parts(shapes: Mapping[str, _Shape], pair: Names, maps: PairMaps) -> PairMaps | None:
    """Return the maps between the largest parts; None where one has no image on the other."""
    if any(name not in shapes for name in pair):
        return None
    one, two = (shapes[name].part for name in pair)
    found = []
    for start, end, p2p in ((two, one, maps.p2p_21), (one, two, maps.p2p_12)):
        images = p2p[start.to_file]
        images = filled(np.where(images >= 0, end.from_file[images], -1), start.mesh.vertices)
        if (images < 0).all():
            return None
        found.append(images)
    return PairMaps(*found)


def _on_files(one: _Shape, two: _Shape, maps: PairMaps) -> PairMaps:
    """Carry maps of the parts to the vertices of the files."""
    found = []
    for start, end, p2p in ((two, one, maps.p2p_21), (one, two, maps.p2p_12)):
        own = start.part.from_file
        images = np.where(own >= 0, end.part.to_file[p2p[own]], -1)
        found.append(filled(images, start.mesh.vertices))
    return PairMaps(*found)


def _largest_component(names: Sequence[str], pairs: Sequence[Names]) -> list[str]:
    """Return the names that are connected with the most others, in their order."""
    place = {name: i for i, name in enumerate(names)}
    links = np.array([[place[a], place[b]] for a, b in pairs]).reshape(-1, 2)
    graph = sp.coo_matrix((np.ones(len(links)), links.T), (len(names), len(names)))
    label = csgraph.connected_components(graph, directed=False)[1]
    largest = np.bincount(label).argmax()
    return [name for name, i in zip(names, label, strict=True) if i == largest]


def _embedded(
    shapes: Mapping[str, _Shape], pairs: Mapping[Names, PairMaps]
) -> tuple[dict[str, Float[Tensor, "v m"]], dict[Names, float]]:
    """Return the latent embedding of every shape, and how well each pair agrees with the others."""
    place = {name: i for i, name in enumerate(shapes)}
    bases = {name: shape.basis for name, shape in shapes.items()}
    edges, fmaps = [], []
    for (one, two), maps in pairs.items():
        for start, end, p2p in ((one, two, maps.p2p_21), (two, one, maps.p2p_12)):
            images = torch.from_numpy(p2p.copy()).to(bases[start].evecs.device)
            edges.append((place[start], place[end]))
            fmaps.append(p2p_to_fmap(images, bases[start], bases[end]))
    table, ends = torch.stack(fmaps), torch.tensor(edges, device=fmaps[0].device)
    few = table[:, :K_AGREEMENT, :K_AGREEMENT]
    weights = agreement(few, ends, len(shapes))
    k = table.shape[-1]
    latent = latent_basis(table, ends, weights, len(shapes), max(1, int(LATENT_SHARE * k)))
    rows = {name: bases[name].evecs @ latent[i] for name, i in place.items()}
    both = weights.reshape(-1, 2).amin(dim=1).tolist()
    return rows, {pair: round(value, 3) for pair, value in zip(pairs, both, strict=True)}


def _moved(
    meshes: Mapping[str, Mesh], pair: Names, before: PairMaps, found: Mapping[Names, PairMaps]
) -> float:
    """Return the mean distance on the source between old and new images."""
    after = found[pair].p2p_21 if pair in found else found[pair[1], pair[0]].p2p_12
    old = filled(before.p2p_21, meshes[pair[1]].vertices)
    return round(_distance(meshes[pair[0]], old, after), 3)


def _distance(mesh: Mesh, first: Int64[np.ndarray, " n"], second: Int64[np.ndarray, " n"]) -> float:
    gap = np.linalg.norm(mesh.vertices[first] - mesh.vertices[second], axis=1)
    # The extent of a cloud stands for the root of its area, as in matching by position.
    size = np.sqrt(total_area(mesh)) or float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    return 100 * float(gap.mean()) / size
