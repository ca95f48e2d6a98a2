"""Functional maps between the members of one generated creature's family.

Notation: member i of a family has vertices of its own or the creature's; ``template_ids`` sends its
vertices to the creature's, ``vertex_ids`` the creature's to its own.  The map of a pair is
C_ij = Phi_j^T M_j Phi_i[p2p_ji] with p2p_ji = vertex_ids_i[template_ids_j], on shapes of unit area.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch

from geo3d.config import require
from geo3d.errors import NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from geo3d.synth.creatures import KINDS, generate_creature, pose, remeshed, vary_proportions
from geo3d.synth.creatures.generate import FEWEST_VERTICES, Creature
from shape_matching.prior.map_shards import MapBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PriorDataConfig:
    """Settings of a folder of maps; together with the number of a creature they fix its maps."""

    creatures: int = 1500
    """How many families."""
    seed: int = 0
    """Decides everything."""
    members: int = 5
    """Shapes per family; each ordered pair of them gives a map."""
    vertices: int = 1800
    """Vertices of the shapes that keep the creature's own."""
    k: int = 64
    """Size of the maps."""
    amplitude: tuple[float, float] = (0.2, 0.7)
    """Range of the poses' amplitudes (see `geo3d.synth.creatures.pose`)."""
    amount: tuple[float, float] = (0.0, 0.16)
    """Range of the relatives' amounts (see `geo3d.synth.creatures.vary_proportions`)."""
    relatives: float = 0.6
    """Share of members with other proportions; the rest are poses of the creature itself."""
    remeshed: float = 0.4
    """Share of members with vertices and triangles of their own."""
    remeshed_vertices: tuple[int, int] = (1000, 3000)
    """Range of their number of vertices."""
    laplacian: Literal["auto", "cotan", "robust"] = "auto"
    """See `geo3d.mesh.operators.laplacian`."""

    def __post_init__(self) -> None:
        require(self.creatures >= 1, "creatures", "at least 1")
        require(self.seed >= 0, "seed", "0 or more")
        require(2 <= self.members <= 100, "members", "2 to 100")
        require(self.vertices >= FEWEST_VERTICES, "vertices", f"at least {FEWEST_VERTICES}")
        require(1 <= self.k <= 400, "k", "1 to 400")
        require(0 <= self.amplitude[0] <= self.amplitude[1] <= 2, "amplitude", "a range in 0..2")
        require(0 <= self.amount[0] <= self.amount[1] <= 0.5, "amount", "a range in 0..0.5")
        require(0 <= self.relatives <= 1, "relatives", "a share in 0..1")
        require(0 <= self.remeshed <= 1, "remeshed", "a share in 0..1")
        low, high = self.remeshed_vertices
        require(max(500, self.k + 2) <= low <= high, "remeshed_vertices", "a range above 500")


@dataclass(frozen=True, eq=False)
class Member:
    """A shape of a family and its correspondence to the creature."""

    mesh: Mesh
    template_ids: np.ndarray
    vertex_ids: np.ndarray
    amplitude: float
    amount: float
    is_remeshed: bool


COLUMNS = {
    "creature": np.int32,
    "kind": np.int8,
    "source": np.int8,
    "target": np.int8,
    "amplitude_source": np.float32,
    "amplitude_target": np.float32,
    "amount_source": np.float32,
    "amount_target": np.float32,
    "remeshed_source": np.bool_,
    "remeshed_target": np.bool_,
    "vertices_source": np.int32,
    "vertices_target": np.int32,
}
"""Provenance of each map: number of the creature, index into KINDS, the two members."""


def family(config: PriorDataConfig, number: int) -> tuple[Creature, list[Member]]:
    """Return creature ``number`` and the members of its family, each of unit area.

    Raises:
        NumericalError: ``creature.no_surface``.
    """
    rng = np.random.default_rng([*b"prior-data", config.seed, number])
    kind = KINDS[int(rng.integers(len(KINDS)))]
    creature = generate_creature(kind, _seed(rng), config.vertices)
    return creature, [_member(creature, config, rng) for _ in range(config.members)]


def family_maps(config: PriorDataConfig, number: int) -> MapBatch:
    """Return the maps of all ordered pairs of members of family ``number``.

    Raises:
        NumericalError: as `family`; ``spectral.eigen_failed``.
    """
    creature, members = family(config, number)
    bases = [eigenbasis(m.mesh, config.k, config.laplacian, cache=False) for m in members]
    rows = list(permutations(range(len(members)), 2))
    fmaps = [_fmap(members[i], members[j], bases[i], bases[j]) for i, j in rows]
    kind = KINDS.index(creature.kind)
    evals = np.stack([basis.evals.numpy() for basis in bases]).astype(np.float32)
    sources, targets = np.array(rows).T
    return MapBatch(
        np.stack(fmaps).astype(np.float16),
        evals[sources],
        evals[targets],
        _columns([(number, kind, i, j, members[i], members[j]) for i, j in rows]),
    )


def empty_batch(k: int) -> MapBatch:
    """Return no maps, with the dtypes and columns of `family_maps`."""
    evals = np.zeros((0, k), np.float32)
    return MapBatch(np.zeros((0, k, k), np.float16), evals, evals, _columns([]))


def _member(creature: Creature, config: PriorDataConfig, rng: np.random.Generator) -> Member:
    # all numbers are drawn for every member: a share changes nothing but its own choice
    is_relative, is_remeshed = rng.uniform(size=2) < [config.relatives, config.remeshed]
    amplitude, amount = rng.uniform(*config.amplitude), rng.uniform(*config.amount)
    n_vertices = int(rng.integers(config.remeshed_vertices[0], config.remeshed_vertices[1] + 1))
    seeds = _seed(rng), _seed(rng), _seed(rng)
    if not is_relative:
        amount = 0.0
    who = vary_proportions(creature, seeds[0], amount) if is_relative else creature
    mesh = pose(who, seeds[1], amplitude)
    member = _own_vertices(mesh, amplitude, amount)
    if is_remeshed:
        try:
            found = remeshed(who, mesh, n_vertices, seeds[2])
        except NumericalError as error:
            # one pose in a hundred folds too sharply to be collapsed; it stays as it is
            logger.info("creature %d: not remeshed (%s)", creature.seed, error.code)
            return member
        ids = found.template_ids, found.vertex_ids
        member = Member(normalized(found.mesh), *ids, amplitude, amount, True)
    return member


def _own_vertices(mesh: Mesh, amplitude: float, amount: float) -> Member:
    ids = np.arange(mesh.n_vertices)
    return Member(normalized(mesh), ids, ids, amplitude, amount, False)


def _fmap(one: Member, two: Member, basis_1: Basis, basis_2: Basis) -> np.ndarray:
    p2p_21 = one.vertex_ids[two.template_ids]
    return p2p_to_fmap(torch.from_numpy(p2p_21), basis_1, basis_2).numpy()


def _columns(rows: list[tuple[int, int, int, int, Member, Member]]) -> dict[str, np.ndarray]:
    table = [
        (
            *row[:4],
            *(m.amplitude for m in row[4:]),
            *(m.amount for m in row[4:]),
            *(m.is_remeshed for m in row[4:]),
            *(m.mesh.n_vertices for m in row[4:]),
        )
        for row in rows
    ]
    values = list(zip(*table, strict=True)) if table else [()] * len(COLUMNS)
    return {
        name: np.array(value, dtype)
        for (name, dtype), value in zip(COLUMNS.items(), values, strict=True)
    }


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
