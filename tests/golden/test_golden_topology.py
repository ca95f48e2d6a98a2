"""Golden cases of the topology part, made by running the published TopoMortar code.

Found like the other cases, by listing the folder GEO3D_GOLDEN (default: the shared one beside the
checkout); there is no copy in the repository yet.  A file that is neither understood nor listed as
belonging to a part to come is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from golden import (
    cases_discrete,
    cases_overlap,
    cases_persistence,
    cases_segmentation,
    cases_tables,
    cases_topology,
)

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))


def each(*checks: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a check that runs several on the same file."""

    def check(path: Path) -> None:
        for one in checks:
            one(path)

    return check


KINDS: dict[str, Callable[[Path], None]] = {
    "betti_masks.npz": cases_topology.check_betti_masks,
    "skeletons.npz": cases_topology.check_skeletons,
    "loss_[!v]*.npz": each(
        cases_topology.check_loss_maps,
        cases_overlap.check_gradients,
        cases_discrete.check_gradients,
        cases_persistence.check_gradients,
    ),
    "loss_values.json": each(
        cases_overlap.check_values,
        cases_discrete.check_values,
        cases_persistence.check_values,
    ),
    "soft_targets.npz": each(
        cases_overlap.check_soft_targets,
        cases_discrete.check_soft_targets,
        cases_persistence.check_soft_targets,
    ),
    "betti_matching.npz": cases_persistence.check_matching,
    "deep_supervision.npz": each(cases_overlap.check_deep_supervision),
    "extras.npz": each(cases_overlap.check_worst_neighbours, cases_discrete.check_critical_maps),
    "metrics_train_labels.csv": cases_topology.check_metrics_of_labels,
    "metrics_edge_cases.csv": cases_topology.check_edge_cases,
    "randhue.npz": cases_segmentation.check_randhue,
    "preprocess.json": cases_segmentation.check_preprocess,
    "lr_schedule.json": cases_segmentation.check_learning_rates,
    "reference_results.csv": cases_tables.check_published,
    "reference_results_by_group.csv": cases_tables.check_by_group,
    "reference_results_by_seed.csv": cases_tables.check_by_seed,
}
"""Which function checks which file."""

READ_WITH_ANOTHER = (
    "betti_masks.csv",
    "betti_matching.json",
    "soft_targets.json",
    "deep_supervision.json",
    "extras.json",
    "randhue.json",
    "results",
)
"""Expected numbers that the check of another file reads."""

LEVELS = ("cpu_baseline.csv",)
"""What one small training reached, for comparison: no result to reproduce."""


def golden_files() -> list[Path]:
    """List the cases of topology that can be checked."""
    folder = SHARED / "topomortar"
    found = [p for p in sorted(folder.glob("*")) if p.suffix != ".md"]
    others = (*READ_WITH_ANOTHER, *LEVELS)
    return [p for p in found if not any(fnmatch(p.name, pattern) for pattern in others)]


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_files(), ids=lambda p: p.name)
def test_golden_case(path: Path) -> None:
    kinds = [check for pattern, check in KINDS.items() if fnmatch(path.name, pattern)]
    assert len(kinds) == 1, f"{path.name}: not understood"
    kinds[0](path)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.golden
def test_metrics_of_every_label_pair() -> None:
    path = SHARED / "topomortar" / "metrics_train_labels.csv"
    if not path.is_file() or not cases_topology.DATA.is_dir():
        pytest.skip("the images or their numbers are not here")
    for row in cases_topology.read_rows(path):
        cases_topology.check_row(row)
