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
from golden import cases_evaluation, cases_prior, cases_spectral, cases_zero_shot

HERE = Path(__file__).parent


def check_fm_layer(path: Path) -> None:
    """Compare the layer with the masks of the spectra, then with those of the prior."""
    cases_spectral.check_fm_layer(path)
    cases_zero_shot.check_diffusion_masks(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "operators_*.npz": cases_spectral.check_operators,
    "descriptors_*.npz": cases_spectral.check_descriptors,
    "pyfm_mesh*.npz": cases_spectral.check_pyfm_mesh,
    "pyfm_fit*.npz": cases_spectral.check_pyfm_fit,
    "fm_layer*.npz": check_fm_layer,
    "diffusionnet_*.safetensors": cases_zero_shot.check_diffusionnet_weights,
    "diffusionnet_*.npz": cases_zero_shot.check_diffusionnet,
    "sds*.npz": cases_zero_shot.check_sds,
    "softmap*.npz": cases_zero_shot.check_soft_map,
    "zoomout*.npz": cases_spectral.check_zoomout,
    "geodesic_error*.npz": cases_evaluation.check_geodesic_error,
    "dit_*.safetensors": cases_prior.check_weights,
    "dit_forward*.npz": cases_prior.check_forward,
    "dit_*_layout.npz": cases_prior.check_layout,
    "losses*.npz": cases_prior.check_losses,
    "train_schedule*.npz": cases_prior.check_schedule,
}
"""Which function checks which file."""


def golden_files() -> list[Path]:
    """List the cases of functional maps."""
    shared = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))
    folder = (shared if shared.is_dir() else HERE) / "diffumatch"
    return [p for p in sorted(folder.iterdir()) if p.suffix != ".md"]


@pytest.mark.parametrize("path", golden_files(), ids=lambda p: p.name)
def test_golden_case(path: Path) -> None:
    kinds = [check for pattern, check in KINDS.items() if fnmatch(path.name, pattern)]
    assert len(kinds) == 1, f"{path.name}: not understood"
    kinds[0](path)
