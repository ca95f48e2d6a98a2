"""Maps that exchange front and back, begun anew with normals."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import KDTree

from geo3d.mesh.geodesic import graph_distances
from geo3d.spectral.fmap import fmap_to_p2p, p2p_to_fmap
from geo3d.synth.creatures import generate_creature, pose
from shape_matching.search.initial_maps import appraise
from shape_matching.search.outwards import outwards
from shape_matching.search.prepare import prepare

K = 56


def test_front_and_back_are_put_right() -> None:
    biped = generate_creature("biped", 7, 1500)
    one, two = (
        prepare(pose(biped, seed), K, 600, "auto", torch.device("cpu"), False) for seed in (1, 2)
    )
    rest = biped.rest.vertices
    exchanged = KDTree(rest).query(rest * [1, 1, -1])[1]
    start = p2p_to_fmap(torch.from_numpy(exchanged), one.basis, two.basis)[None]
    found = outwards(start, one, two, 600)
    orientation = [float(appraise(f, one, two, 600).orientation[0]) for f in (start, found)]
    assert orientation[0] < 0 and orientation[1] > 0.7
    ids = np.arange(0, len(rest), 15)
    distances = graph_distances(one.mesh, ids)
    errors = []
    for fmap in (start[0], found[0]):
        p2p_21 = fmap_to_p2p(fmap, one.basis.evecs, two.basis.evecs).numpy()
        errors.append(distances[np.arange(len(ids)), p2p_21[ids]].mean())
    assert errors[0] > 0.08 and errors[1] < 0.04
