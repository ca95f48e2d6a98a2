"""The example shapes that ship with the package, in the folder layout of the matching literature.

    off/<kind><i>.off       shape i of a kind; y is up, the creature looks along +z
    corres/<kind><i>.vts    line j: the 1-based vertex that shows body point j
    corres/<kind><i>.sym.vts    the same for the mirror image of body point j
    pairs.txt               pairs worth matching, "source target" per line

Shapes 1 and 2 of a kind are poses with the creature's own vertices (vertex i is body point i);
shape 3 is a third pose, 4 and 5 are relatives with other proportions, and these three have vertices
and triangles of their own.  To make the shipped folder again:

    from geo3d.synth.creatures.examples import make_example_shapes
    make_example_shapes("assets/shapes")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from geo3d.files import atomic_write_text
from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.synth.creatures.generate import (
    KINDS,
    Creature,
    generate_creature,
    pose,
    remeshed,
    vary_proportions,
)

EXAMPLE_SEED = 0
_OWN_VERTICES = 1800
_DECIMALS = 4
# shape number: (relative, 0 for the creature itself; vertices after remeshing, 0 for its own)
_SHAPES = {1: (0, 0), 2: (0, 0), 3: (0, 1500), 4: (1, 2100), 5: (2, 1700)}
_PAIRS = ((1, 2), (1, 3), (3, 2), (1, 4), (4, 5))


def make_example_shapes(out: str | Path, seed: int = EXAMPLE_SEED) -> list[Path]:
    """Write shapes, correspondences and ``pairs.txt`` below ``out``; return the mesh files.

    Raises:
        NumericalError: ``creature.no_surface``, ``decimate.failed``.
    """
    out = Path(out)
    written = []
    for kind in KINDS:
        for mesh, corr, symmetry in example_family(kind, seed):
            path = out / "off" / f"{mesh.name}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(save_mesh(mesh, path))
            for ending, ids in ((".vts", corr), (".sym.vts", corr[symmetry])):
                text = "".join(f"{i + 1}\n" for i in ids)
                atomic_write_text(out / "corres" / f"{mesh.name}{ending}", text)
    lines = [f"{kind}{a} {kind}{b}\n" for kind in KINDS for a, b in _PAIRS]
    atomic_write_text(out / "pairs.txt", "".join(lines))
    return written


def example_family(
    kind: str, seed: int
) -> Iterator[tuple[Mesh, Int[np.ndarray, " i"], Int[np.ndarray, " i"]]]:
    """Yield each shape of a kind with the vertex of every body point, and the points' mirror."""
    creature = generate_creature(kind, seed, _OWN_VERTICES)
    for number, (relative, n_vertices) in _SHAPES.items():
        who = vary_proportions(creature, relative, 0.15) if relative else creature
        mesh, corr = _example(who, pose(who, number, 0.45), n_vertices, number)
        yield _rounded(mesh, f"{kind}{number}"), corr, creature.symmetry


def _example(
    creature: Creature, posed: Mesh, n_vertices: int, seed: int
) -> tuple[Mesh, Int[np.ndarray, " i"]]:
    if n_vertices == 0:
        return posed, np.arange(posed.n_vertices)
    found = remeshed(creature, posed, n_vertices, seed)
    return found.mesh, found.vertex_ids


def _rounded(mesh: Mesh, name: str) -> Mesh:
    """Keep four decimals: a tenth of a millimetre on a creature of a metre and a half."""
    return replace(mesh, vertices=np.round(mesh.vertices, _DECIMALS), name=name)
