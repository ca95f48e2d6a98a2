"""Golden cases of sparse layers, latent flows, decoders and extraction, from the published code.

Found by listing GEO3D_GOLDEN/mdt (default: the shared one beside the checkout) and the copy in
this repository.  A file of these folders that is not understood is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from golden import cases_mdt_sparse as cases

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))
KINDS: dict[str, Callable[[Path], None] | None] = {
    "sparse_ops/*.safetensors": cases.check_ops,
    "slat_flow/*.io.safetensors": cases.check_flow,
    "slat_dec/gs_*.io.safetensors": cases.check_gaussians,
    "slat_dec/rf_*.io.safetensors": cases.check_radiance,
    "slat_dec/mesh_*.io.safetensors": cases.check_mesh_decoder,
    "flexicubes/sparse2mesh_*.safetensors": cases.check_features_to_mesh,
    "flexicubes/*.safetensors": cases.check_flexicubes,
    # Read with the case of the same name.
    "*/*.weights.safetensors": None,
    "*/*.json": None,
}
FOLDERS = ("sparse_ops", "slat_flow", "slat_dec", "flexicubes")
FOUND = [
    path
    for root in (SHARED / "mdt", HERE / "mdt")
    for folder in FOLDERS
    for path in sorted((root / folder).glob("*"))
]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_case(path: Path) -> None:
    name = f"{path.parent.name}/{path.name}"
    kinds = [check for pattern, check in KINDS.items() if fnmatch(name, pattern)]
    assert kinds, f"{name} is not understood"
    if kinds[0] is not None:
        kinds[0](path)
