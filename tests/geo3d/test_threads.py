"""Threads: waiting ones sleep, the user's own settings stay, a quota limits them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geo3d.threads import COUNTS, PASSIVE, cpu_quota, settle_threads

KEEP = {k: v for k, v in os.environ.items() if k not in (*COUNTS, *PASSIVE)}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(KEEP))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr("geo3d.threads.cpu_quota", lambda: float("inf"))


def test_waiting_threads_sleep_and_their_number_is_left_to_the_libraries() -> None:
    settle_threads()
    assert PASSIVE.items() <= os.environ.items()
    assert not any(name in os.environ for name in COUNTS)


def test_the_users_environment_wins() -> None:
    mine = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}
    os.environ.update(mine)
    settle_threads()
    assert mine.items() <= os.environ.items()
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_number_that_is_asked_for_holds_for_every_library() -> None:
    os.environ["OMP_NUM_THREADS"] = "3"
    settle_threads(2)
    assert [os.environ[name] for name in COUNTS] == ["2", "2", "2"]


@pytest.mark.parametrize(("quota", "threads"), [(0.5, "1"), (1.0, "1"), (1.5, "2"), (64, None)])
def test_a_quota_below_the_cores_limits_the_threads(
    quota: float, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geo3d.threads.cpu_quota", lambda: quota)
    monkeypatch.setattr("geo3d.threads._cores", lambda: 8)
    settle_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu.max": "nonsense"}, float("inf")),
    ],
)
def test_quota_of_both_kinds_of_control_groups(
    files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_the_command_line_settles_them_before_torch_is_loaded() -> None:
    code = """
import json, os, sys
from apps.cli import main
assert "torch" not in sys.modules and "numpy" not in sys.modules
main(["check", "no-such-file", "--json"])
print(json.dumps({**os.environ}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=KEEP, capture_output=True, text=True, check=True
    )
    assert PASSIVE.items() <= json.loads(done.stdout.splitlines()[-1]).items()
