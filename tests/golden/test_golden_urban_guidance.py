"""Golden cases of the teacher of street scenes, made by running the published code.

Found by listing the folder GEO3D_GOLDEN (default: the shared one beside the checkout).  A file of
these folders that is not understood is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import cases_urban_guidance as cases

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden")) / "urban"
KINDS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("weights", ".safetensors"): cases.check_weights,
    ("lgvsd", ".npz"): cases.check_lgvsd,
    ("resample", ".npz"): cases.check_resample,
}
READ_WITH_ANOTHER = (("weights", ".json"),)


def golden_files() -> list[Path]:
    """List the cases of the teacher."""
    folders = sorted({folder for folder, _ in KINDS})
    found = [p for folder in folders for p in sorted((SHARED / folder).glob("*"))]
    return [p for p in found if (p.parent.name, p.suffix) not in READ_WITH_ANOTHER]


def parameters() -> list[Any]:
    """Return the cases; refining runs networks on 512 x 512 images many times."""
    return [
        pytest.param(
            path,
            id=f"{path.parent.name}-{path.stem}",
            marks=pytest.mark.slow if path.parent.name == "resample" else (),
        )
        for path in golden_files()
    ]


@pytest.mark.golden
@pytest.mark.parametrize("path", parameters())
def test_golden_case(path: Path) -> None:
    kind = KINDS.get((path.parent.name, path.suffix))
    assert kind is not None, f"{path.name}: not understood"
    kind(path)
