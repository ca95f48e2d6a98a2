"""What the model of confidence learns from: errors of maps."""

from __future__ import annotations

import numpy as np
from helpers import icosphere

from geo3d.mesh.ops import total_area
from shape_matching.confidence.data import true_errors
from shape_matching.confidence.defects import Shape, seams
from shape_matching.correspondence import Correspondence


def test_seams_are_no_obstacle_to_errors() -> None:
    whole = Shape(icosphere(3), np.arange(642))
    torn = seams(whole, np.random.default_rng(0))
    assert torn.mesh.n_vertices > 642
    last_of = np.zeros(642, np.int64)
    last_of[torn.template_ids] = np.arange(len(torn.template_ids))
    # every vertex is sent to the double of its true image, or to a neighbour's
    neighbour = np.zeros(642, np.int64)
    neighbour[whole.mesh.faces] = whole.mesh.faces[:, [1, 2, 0]]
    first_of = np.unique(torn.template_ids, return_index=True)[1]
    for images, most in ((last_of, 0.0), (last_of[neighbour], 0.1)):
        found = Correspondence(torn.mesh, whole.mesh, images, first_of, None, np.ones(642))
        unit = float(np.sqrt(total_area(whole.mesh)))
        errors = true_errors(found, np.arange(642), first_of, unit)
        assert errors.max() <= most
