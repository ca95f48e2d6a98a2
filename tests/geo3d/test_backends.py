"""Backends: presence is told with version or reason, absence with the cure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from geo3d import backends
from geo3d.errors import BackendUnavailable, ConfigError


def test_torch_is_here() -> None:
    import torch

    found = backends.available("torch")
    # metadata may leave out the local part ("+cu130") that torch itself tells
    assert found.is_available
    assert found.version.split("+")[0] == torch.__version__.split("+")[0]
    assert backends.require("torch") is torch


def test_every_backend_answers_and_absence_comes_with_reason_and_cure() -> None:
    for name in backends.BACKENDS:
        found = backends.available(name)
        assert found.is_available or (found.reason and found.install_line), name


def test_unknown_backend_lists_the_known() -> None:
    with pytest.raises(ConfigError) as caught:
        backends.available("tensorflow")
    assert caught.value.code == "backend.unknown" and "torch" in caught.value.hint


def broken(folder: Path, name: str, error: str) -> None:
    """Make a library whose import raises ``error``."""
    (folder / f"{name}.py").write_text(f"raise {error}\n")


@pytest.mark.parametrize("error", ["OSError('needs CUDA 13.')", "ImportError('no libGL')"])
def test_a_library_that_is_installed_and_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    broken(tmp_path, "half_here", error)
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = backends.Backend(
        "testing", "reinstall it", "half-here", "half_here", backends._probe_import("half_here")
    )
    monkeypatch.setattr(backends, "BACKENDS", {"half": backend})
    found = backends.available("half")
    assert not found.is_available
    assert found.reason in ("needs CUDA 13", "no libGL")
    with pytest.raises(BackendUnavailable) as caught:
        backends.require("half")
    assert caught.value.code == "backend.unavailable" and "reinstall it" in caught.value.hint
    assert "half_here" not in sys.modules


def test_require_catches_what_an_unprobed_import_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, "late_failure", "OSError('too late')")
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = backends.Backend("testing", "reinstall it", "late", "late_failure")
    monkeypatch.setattr(backends, "BACKENDS", {"late": backend})
    assert backends.available("late").is_available
    with pytest.raises(BackendUnavailable, match="too late"):
        backends.require("late")


def test_tinycudann_is_not_touched_without_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geo3d.device import why_not_cuda

    if why_not_cuda() is None:
        pytest.skip("this machine has CUDA")
    broken(tmp_path, "tinycudann", "SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert backends.available("tinycudann").reason == why_not_cuda()


def test_the_browser_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "browser"
    monkeypatch.setenv("GEO3D_CHROMIUM", str(program))
    assert not backends.available("chromium").is_available
    program.touch()
    assert backends.chromium_path() == program


def test_report_is_json_and_text() -> None:
    report = backends.doctor_report()
    assert set(report["backends"]) == set(backends.BACKENDS)
    assert report["cpu_count"] >= 1 and report["disk_free_bytes"] > 0
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report))
    text = backends.format_report(report)
    for name, found in report["backends"].items():
        assert name in text
        assert found["is_available"] or found["install_line"] in text


def test_report_copes_with_unknown_memory() -> None:
    report = {**backends.doctor_report(), "memory_bytes": None, "assets": []}
    assert "unknown memory" in backends.format_report(report)
