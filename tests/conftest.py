"""Fixtures and folders shared by all tests.

geo3d must not be imported at the top of this file: pytest loads it before the run-time type checks
are installed.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Tests share a busy machine, so no example has a deadline; CI tries the same examples each time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the browser's journeys, few and long, so that no process ends alone with them."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the session its own cache folder, so that tests neither use nor fill the user's."""
    base = tmp_path_factory.getbasetemp() / "geo3d-cache"
    monkeypatch.setenv("GEO3D_CACHE", str(base))


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Return the folder of golden cases, or skip."""
    return _folder("GEO3D_GOLDEN", ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real data sets, or skip."""
    return _folder("GEO3D_DATA", ROOT.parent / "shared" / "data")


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable}")
    return folder
