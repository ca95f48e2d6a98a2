"""Golden cases of the evaluation; collected by tests/golden/test_golden.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from golden.reading import shape_beside, weights_for

from geo3d.mesh.geodesic import heat_distances
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from shape_matching.evaluate.scoring import SourceScorer
from shape_matching.evaluate.truth import PairTruth


def check_geodesic_error(path: Path) -> None:
    """Compare heat distances and the errors of two stored maps (rtol 1e-3)."""
    case = np.load(path)
    maps = np.load(weights_for(path, "zoomout*.npz"))
    # ZoomOut's map takes shape 1 to shape 2, whose masses it keeps; errors are measured on shape 1.
    operators = sorted(path.parent.glob("operators_*.npz"))
    target = shape_beside(path, "mass", maps["mass2"])
    size = case["heat_dist"].shape[1]
    sources = [p for p in operators if p != target and len(np.load(p)["verts"]) == size]
    source = (sources or [target])[0]
    shape = np.load(source)
    mesh = Mesh(shape["verts"].astype(np.float64), shape["faces"], name=str(shape["shape_name"]))
    other = Mesh(np.load(target)["verts"].astype(np.float64), np.load(target)["faces"])
    np.testing.assert_allclose(np.sqrt(total_area(mesh)), case["sqrt_area_normalised"], rtol=1e-5)
    distances = heat_distances(mesh, case["sources"])
    scale = case["heat_dist"].max()
    np.testing.assert_allclose(distances, case["heat_dist"], rtol=1e-3, atol=1e-6 * scale)
    truth = PairTruth(maps["p_gt"].astype(np.int64), np.arange(len(maps["p_gt"])))
    scorer = SourceScorer(mesh)
    for kind, p2p in (("final", maps["p2p_final"]), ("init", maps["p_init"])):
        # the error depends on the source alone
        score, errors = scorer.score(other, truth, p2p.astype(np.int64))
        np.testing.assert_allclose(errors, case[f"err_{kind}"], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(score.error / 100, case[f"err_{kind}_mean"], rtol=1e-3)
