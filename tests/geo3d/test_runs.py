"""Run folders: complete, resumable after a kill, cancelled from outside."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from geo3d import provenance, runs
from geo3d.errors import Cancelled, InputError
from geo3d.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    steps: int = 3


def code_of(call: object, *args: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.code


def start(tmp_path: Path, **kwargs: object) -> runs.Run:
    return runs.start_run("match", "Cat / Dog", Settings(), root=tmp_path, **kwargs)  # type: ignore[arg-type]


def test_a_run_from_start_to_manifest(tmp_path: Path) -> None:
    source = tmp_path / "in.off"
    source.write_text("OFF")
    with start(tmp_path, seed=5, device="cpu", inputs=[source], argv=["geo3d", "match"]) as run:
        assert run.path.parent == tmp_path / "match"
        assert run.path.name.startswith("cat-dog-2") and len(run.path.name.split("-")[-1]) == 6
        assert runs.run_state(run.path)["status"] == "running" and not run.is_done
        (run.outputs / "map.txt").write_text("0\n")
        run.log_metrics({"step": 1, "error": np.float32(0.5)})
        logging.getLogger("geo3d.test").info("half way")
        manifest = json.loads(
            run.finish({"error": np.float64(0.25)}, backends=["torch"]).read_text()
        )
    assert run.is_done and runs.run_state(run.path)["status"] == "done"
    assert manifest["seed"] == 5 and manifest["metrics"] == {"error": 0.25}
    assert manifest["argv"] == ["geo3d", "match"] and manifest["backends"] == ["torch"]
    assert manifest["inputs"][0]["sha256"] == sha256_file(source)
    assert [o["path"] for o in manifest["outputs"]] == ["outputs/map.txt"]
    assert {"geo3d", "python", "numpy", "torch"} <= manifest["versions"].keys()
    assert runs.read_metrics(run.path) == [{"step": 1, "error": 0.5}]
    assert "half way" in (run.path / "log.txt").read_text()
    assert runs.open_run(run.path).load_config(Settings) == Settings()
    assert runs.open_run(run.path).is_done


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    assert len({start(tmp_path).path for _ in range(5)}) == 5


def test_the_log_handler_goes_away(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    with start(tmp_path):
        assert len(logging.getLogger().handlers) == len(before) + 1
    assert logging.getLogger().handlers == before


def test_failures_and_cancels_are_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError), start(tmp_path) as failed:
        raise InputError("mesh.bad", "The mesh is bad.")
    state = runs.run_state(failed.path)
    assert state["status"] == "failed" and "mesh.bad" in state["message"]
    assert "The mesh is bad." in (failed.path / "log.txt").read_text()
    assert "Traceback" not in (failed.path / "log.txt").read_text()
    with pytest.raises(ZeroDivisionError), start(tmp_path) as broken:
        raise ZeroDivisionError
    assert "Traceback" in (broken.path / "log.txt").read_text()
    out, err = capfd.readouterr()
    assert out == err == ""
    with pytest.raises(Cancelled), start(tmp_path) as cancelled:
        (cancelled.path / "cancel").touch()
        assert cancelled.cancel_requested
        cancelled.check_cancelled()
    assert runs.run_state(cancelled.path)["status"] == "cancelled"
    again = runs.open_run(cancelled.path)
    assert not again.cancel_requested and again.status == "running"


def test_not_a_run(tmp_path: Path) -> None:
    assert code_of(runs.open_run, tmp_path) == "run.not_a_run"
    for text in ("", "[]", "{}", '{"status": 1}', "3", "\x00"):
        (tmp_path / "state.json").write_text(text)
        assert code_of(runs.open_run, tmp_path) == "run.not_a_run"


def test_changed_inputs_are_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "in.off", tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("1")
    source.write_text("OFF")
    run = start(tmp_path, inputs=[source, folder])
    runs.open_run(run.path)
    source.write_text("OFF ")
    assert code_of(runs.open_run, run.path) == "run.inputs_changed"
    runs.open_run(run.path, False)
    source.write_text("OFF")
    (folder / "b").write_text("2")
    assert code_of(runs.open_run, run.path) == "run.inputs_changed"
    source.unlink()
    assert code_of(runs.open_run, run.path) == "run.inputs_changed"


def test_a_torn_line_and_leftovers_are_tidied(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log_metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "err')
    (run.outputs / ".tmp-1234.png").touch()
    assert runs.read_metrics(run.path) == [{"step": 1}]
    again = runs.open_run(run.path)
    again.log_metrics({"step": 2})
    assert runs.read_metrics(run.path) == [{"step": 1}, {"step": 2}]
    assert not list(run.outputs.iterdir())
    assert runs.read_metrics(tmp_path) == []


CHILD = """
import sys, time
from geo3d.runs import start_run
with start_run("match", "x", root=sys.argv[1]) as run:
    print(run.path, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process the POSIX way")
def test_a_killed_job_is_recognised_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        path = Path(child.stdout.readline().strip())
        assert runs.run_state(path)["status"] == "running"
        assert code_of(runs.open_run, path) == "run.busy"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert runs.run_state(path)["status"] == "interrupted"
    assert runs.open_run(path).status == "running"


def edit_state(run: runs.Run, **changes: object) -> None:
    file = run.path / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_reused_process_id_does_not_count_as_alive(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("start times are read from /proc")
    run = start(tmp_path)
    edit_state(run, pid=os.getppid(), pid_started="1")
    assert runs.run_state(run.path)["status"] == "interrupted"


def test_jobs_elsewhere_are_judged_by_their_heartbeat(tmp_path: Path) -> None:
    run = start(tmp_path)
    edit_state(run, host="elsewhere")
    assert runs.run_state(run.path)["status"] == "running"
    edit_state(run, host="elsewhere", heartbeat=time.time() - 2 * runs.STALE_SECONDS)
    assert runs.run_state(run.path)["status"] == "interrupted"


def test_heartbeats_are_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path)
    edit_state(run, heartbeat=0.0)
    run.beat()
    assert runs.run_state(run.path)["heartbeat"] == 0.0
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.0)
    run.check_cancelled()
    assert runs.run_state(run.path)["heartbeat"] > 0.0


def test_git_state_is_none_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "geo3d" / "provenance.py"))
    assert provenance.git_state() is None
    (tmp_path / ".git").mkdir()
    assert provenance.git_state() is None
