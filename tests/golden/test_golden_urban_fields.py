"""Golden cases of the fields of street scenes, made by running the published code.

Found by listing `hash`, `volume` and `scene_grid` of the shared folder GEO3D_GOLDEN (default: the
one beside the checkout) and of the copy in the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from golden import cases_urban_fields as cases

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden"))
KINDS = {
    "hash": cases.check_hash,
    "volume": cases.check_volume,
    "scene_grid": cases.check_scene,
}
"""Which function checks the files of which folder."""


def golden_files() -> list[Path]:
    """List the cases, the shared ones first; a copy of a shared one is not listed again."""
    found: dict[tuple[str, str], Path] = {}
    for root in (SHARED / "urban", HERE / "urban"):
        for kind in KINDS:
            for path in sorted((root / kind).glob("*")):
                found.setdefault((kind, path.name), path)
    return list(found.values())


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_files(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_golden_case(path: Path) -> None:
    assert path.suffix == ".npz", f"{path.name}: not understood"
    KINDS[path.parent.name](path)
