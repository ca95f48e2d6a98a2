"""Golden cases of distillation, made by running the released MDT-dist and TRELLIS trainers.

Found by listing the folders ``mdt_dense``, ``mdt_sparse`` and ``optim`` of GEO3D_GOLDEN/mdt
(default: the shared one beside the checkout).  A file that is not understood is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from golden import cases_mdt_training as cases

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GEO3D_GOLDEN", HERE.parents[2] / "shared" / "golden")) / "mdt"
FOLDERS = ("mdt_dense", "mdt_sparse", "optim")
KINDS: dict[str, Callable[[Path], None]] = {
    "mdt_*/discrete_*.safetensors": cases.check_losses,
    "mdt_*/continuous_*.safetensors": cases.check_losses,
    "mdt_*/cm_*.safetensors": cases.check_losses,
    "mdt_sparse/repaired_*.safetensors": cases.check_losses,
    "mdt_sparse/upstream_cm_*.safetensors": cases.check_losses,
    "mdt_*/cases.json": cases.check_failed_upstream,
    "mdt_*/t_sampling*.safetensors": cases.check_times,
    "mdt_*/train_*.json": cases.check_steps,
    "optim/*.json": cases.check_clipper,
}
READ_WITH_ANOTHER = (
    "*.weights.safetensors",
    "*/data.safetensors",
    "*/model.json",
    "*/train_*.safetensors",
    "optim/*.safetensors",
)


def golden_files() -> list[str]:
    """List the cases."""
    found = [f"{f}/{p.name}" for f in FOLDERS for p in sorted((SHARED / f).glob("*"))]
    return [n for n in found if not any(fnmatch(n, pattern) for pattern in READ_WITH_ANOTHER)]


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_files())
def test_golden_case(name: str) -> None:
    checks = [check for pattern, check in KINDS.items() if fnmatch(name, pattern)]
    assert len(checks) == 1, f"{name}: not understood"
    checks[0](SHARED / name)
