"""Golden cases: expected numbers made by running the published code.

Cases are found by listing the folder GEO3D_GOLDEN (default: the shared one beside the checkout
if it is there, else the smaller copy in tests/golden).  A file that no kind understands is a
failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from golden import cases_evaluation, cases_spectral

HERE = Path(__file__).parent

KINDS: dict[str, Callable[[Path], None]] = {
    "operators_*.npz": cases_spectral.check_operators,
    "descriptors_*.npz": cases_spectral.check_descriptors,
    "pyfm_mesh.npz": cases_spectral.check_pyfm_mesh,
    "pyfm_fit.npz": cases_spectral.check_pyfm_fit,
    "fm_layer.npz": cases_spectral.check_fm_layer,
    "zoomout*.npz": cases_spectral.check_zoomout,
    "geodesic_error.npz": cases_evaluation.check_geodesic_error,
}
"""Which function checks which file."""

LEARNED_PRIOR = (
    "dit_*",
    "losses.npz",
    "train_schedule.npz",
    "sds*.npz",
    "diffusionnet_*",
    "softmap.npz",
)
"""Cases of the learned prior and its feature network, which the product does not have yet."""


def golden_files() -> list[Path]:
    """List the cases of functional maps."""
    shared = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))
    folder = (shared if shared.is_dir() else HERE) / "diffumatch"
    found = [p for p in sorted(folder.iterdir()) if p.suffix != ".md"]
    return [p for p in found if not any(fnmatch(p.name, pattern) for pattern in LEARNED_PRIOR)]


@pytest.mark.parametrize("path", golden_files(), ids=lambda p: p.name)
def test_golden_case(path: Path) -> None:
    kinds = [check for pattern, check in KINDS.items() if fnmatch(path.name, pattern)]
    assert len(kinds) == 1, f"{path.name}: not understood"
    kinds[0](path)
