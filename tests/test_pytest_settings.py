"""The suite starts whatever plugins of other packages are installed beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = '''
import pytest

@pytest.mark.tryfirst
def pytest_addhooks(pluginmanager):
    """An old plugin, as dash's: pytest 9 warns about the mark."""
'''


def test_a_plugin_with_old_hooks_does_not_stop_the_suite(tmp_path: Path) -> None:
    """Such as open3d brings (case `pytest_with_open3d`)."""
    (tmp_path / "old_plugin.py").write_text(PLUGIN)
    about = tmp_path / "old_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: old-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pytest11]\nold = old_plugin\n")
    here = tmp_path / "test_here.py"
    here.write_text("def test_loaded(pytestconfig):\n"
                    "    assert pytestconfig.pluginmanager.has_plugin('old')\n")  # fmt: skip
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), str(here)],
        env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
