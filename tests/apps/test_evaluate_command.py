"""The verb ``geo3d evaluate``: from flags to tables, JSON, resume and exit codes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_helpers import make_spheres

from apps.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def spheres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three shuffled copies of one shape (3 pairs)."""
    return make_spheres(tmp_path_factory.mktemp("spheres"), 3)


def test_json_run_and_resume(
    spheres: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(spheres), "--method", "nearest", "--out", str(tmp_path)]
    assert main(["evaluate", *flags, "--max-pairs", "2", "--json", "--workers", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = Path(found["run"])
    assert found["scored"] == 2 and found["method"] == "nearest" and found["error"] >= 0
    assert (run / "manifest.json").is_file() and (run / "outputs" / "per_pair.csv").is_file()
    assert (run / "previews" / "curve.png").is_file()
    assert "max_pairs: 2" in (run / "config.yaml").read_text()
    # a killed run has no manifest and has lost pairs
    before = (run / "outputs" / "summary.json").read_bytes()
    (run / "manifest.json").unlink()
    (run / "outputs" / "pairs" / "00001.json").unlink()
    assert main(["evaluate", "--resume", str(run)]) == 0
    assert (run / "outputs" / "summary.json").read_bytes() == before
    assert (run / "manifest.json").is_file()
    assert "mean geodesic error" in capsys.readouterr().out
    assert main(["evaluate", "--resume", str(run), "--json"]) == 0


@pytest.mark.parametrize(
    ("flags", "exit_code", "error_code"),
    [
        ([], 2, "run.no_flag"),
        (["--data", "DATA", "--method", "oracle"], 2, "evaluate.unknown_method"),
        (["--data", "DATA", "--protocol", "faust_r"], 3, "protocol.missing_shapes"),
        (["--data", "DATA", "--protocol", "fuast"], 2, "protocol.unknown"),
        (["--data", "/nowhere"], 3, "folder.missing"),
        (["--data", "DATA", "--max-pairs", "0"], 2, "protocol.bad_max_pairs"),
        (["--data", "DATA", "--workers", "0"], 2, "config.bad_value"),
        (["--data", "DATA", "--pairs", "/nowhere"], 3, "file.missing"),
        (["--resume", "/nowhere"], 3, "run.not_a_run"),
        (["--resume", "/nowhere", "--data", "DATA"], 2, "run.resume_is_complete"),
    ],
)
def test_mistakes_leave_no_run_behind(
    spheres: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    exit_code: int,
    error_code: str,
) -> None:
    flags = [str(spheres) if flag == "DATA" else flag for flag in flags]
    assert main(["evaluate", *flags, "--out", str(tmp_path), "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == error_code
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_command_resumes_to_the_same_tables(tmp_path: Path) -> None:
    data = make_spheres(tmp_path / "data", 7)
    whole, _ = _command(tmp_path / "whole", "--data", str(data), "--method", "nearest")
    assert whole.wait(300) == 0
    process, started = _command(tmp_path / "cut", "--data", str(data), "--method", "nearest")
    rng = random.Random(0)
    for done in (0, 3, 8, 15, 21):
        _kill_after(process, started, done, rng.random() * 0.2)
        run = next((tmp_path / "cut" / "evaluate").iterdir())
        process, started = _command(None, "--resume", str(run))
    assert process.wait(300) == 0
    expected = next((tmp_path / "whole" / "evaluate").iterdir())
    for name in ("outputs/per_pair.csv", "outputs/summary.json", "previews/worst.png"):
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    assert (run / "manifest.json").is_file() and not list(run.rglob(".tmp-*"))


def _command(out: Path | None, *flags: str) -> tuple[subprocess.Popen[bytes], Path]:
    where = [] if out is None else ["--out", str(out)]
    command = [sys.executable, "-m", "apps.cli", "evaluate", *flags, *where, "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    return process, Path(flags[1]) if out is None else out


def _kill_after(process: subprocess.Popen[bytes], folder: Path, pairs: int, seconds: float) -> None:
    """Kill once the run folder exists, ``pairs`` are done and ``seconds`` more have passed."""
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        if list(folder.rglob("state.json")) and len(list(folder.rglob("pairs/*.json"))) >= pairs:
            break
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()
