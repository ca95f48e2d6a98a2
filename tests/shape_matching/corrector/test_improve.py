"""Improving the chosen map: nearer to the truth, shown as it goes, honest where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation
from torch import Tensor

from geo3d.config import load_config
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ignore_progress
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.config import MatchConfig
from shape_matching.corrector.improve import ignore_map, improved
from shape_matching.search.prepare import Prepared, prepare

WITHOUT_PRIOR = ("zero_shot.w_sds=0", "zero_shot.steps=15", "zero_shot.network_eigenpairs=60")


def ready(mesh: Mesh) -> Prepared:
    return prepare(mesh, 80, 400, "auto", torch.device("cpu"))


@pytest.fixture(scope="module")
def pair() -> tuple[Prepared, Prepared, np.ndarray]:
    source = bumpy_sphere(3)
    target, order = permuted(moved(source, rotation(4)))
    return ready(source), ready(target), order


def true_map(one: Prepared, two: Prepared, order: np.ndarray, k: int = 60) -> Tensor:
    return p2p_to_fmap(torch.from_numpy(order), one.basis.truncate(k), two.basis.truncate(k))


def test_a_disturbed_map_comes_nearer_to_the_truth(
    pair: tuple[Prepared, Prepared, np.ndarray],
) -> None:
    one, two, order = pair
    truth = true_map(one, two, order)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    start = truth + 0.3 * noise / len(truth) ** 0.5
    stages: list[str] = []
    config = load_config(
        MatchConfig, overrides=[*WITHOUT_PRIOR, "improvements=[optimise, optimise]"]
    )
    found, notes = improved(
        start, one, two, config, ignore_progress, lambda stage, fmap: stages.append(stage)
    )
    assert found.shape == (30, 30) and notes == ()
    error = (found - truth[:30, :30]).norm()
    assert error < 0.5 * (start - truth)[:30, :30].norm()
    # once refined, between the two rounds
    assert stages.count("refined") == 1 and stages[0] == "step 0"
    again, _ = improved(start, one, two, config, ignore_progress, ignore_map)
    torch.testing.assert_close(again, found, atol=1e-4, rtol=1e-3)


def test_shapes_too_small_keep_their_map(pair: tuple[Prepared, Prepared, np.ndarray]) -> None:
    one, two, order = pair
    start = true_map(one, two, order, 30)
    config = load_config(
        MatchConfig,
        overrides=[*WITHOUT_PRIOR, "zero_shot.zoomout_size=300", "improvements=[optimise]"],
    )
    found, notes = improved(start, one, two, config, ignore_progress, ignore_map)
    assert found is start
    assert len(notes) == 1 and "not improved" in notes[0]
