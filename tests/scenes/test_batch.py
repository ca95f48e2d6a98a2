"""Batches of scenes: what is asked for, failures, retries, kills, tables, clusters."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import batch_builds
import pytest
from PIL import Image

from apps.cli import main
from geo3d.errors import BackendUnavailable, Cancelled, ConfigError
from geo3d.runs import read_metrics, run_state
from geo3d.synth.streets.generate import generate_street
from geo3d.work import slurm
from geo3d.work.pool import Handler, Limits, Outcome, Task, answer
from scenes.batch import run_batch
from scenes.batch_item import ItemSetup, run_item
from scenes.batch_plan import BatchConfig, LayoutEntry, expand, open_layout, read_batch
from scenes.urban.layout_json import save_layout

ROOT = Path(__file__).resolve().parents[2]
SHORT = LayoutEntry(kind="straight", length=20.0)
SMALL = BatchConfig(layouts=(SHORT,), preset="smoke", device="cpu", retries=0, workers=2)


def write(folder: Path, text: str) -> Path:
    path = folder / "batch.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def made(folder: Path) -> dict[str, Any]:
    rows = json.loads((folder / "outputs" / "scenes.json").read_text("utf-8"))["rows"]
    return {row["item"]: row for row in rows}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make scenes in this process: starting others takes seconds."""

    def run_inline(
        tasks: Sequence[Task],
        make_handler: Callable[[], Handler],
        limits: Limits,
        idle: Callable[[], None],
    ) -> Iterator[Outcome]:
        for task in tasks:
            idle()
            yield Outcome(task, *answer(make_handler(), task.payload))

    monkeypatch.setattr(slurm, "run_pool", run_inline)


def test_a_batch_is_layouts_times_words_times_seeds(tmp_path: Path) -> None:
    save_layout(generate_street(20, 1), tmp_path / "mine.json")
    text = """
    layouts: [crossing, mine.json, {kind: curved, length: 40}]
    prompts: [brick]
    styles: [sunny, night]
    seeds: [3, 4]
    preset: smoke
    settings: {fit: {rounds: 2}, views: {spacing: 9.5, turns_deg: [0.0, 10.0]}}
    """
    config = read_batch(write(tmp_path, text), {"workers": 3}, ["fit.rays=99"])
    items = expand(config)
    assert len(items) == 12 and len({item.name for item in items}) == 12
    assert [item.seed for item in items[:4]] == [3, 4, 3, 4]
    assert items[2].prompt == "brick, night" and items[2].name == "002-crossing-brick-night-3"
    assert config.workers == 3 and config.layouts[1].file == str(tmp_path / "mine.json")
    from scenes.batch_plan import scene_config

    settings = scene_config(config, items[1])
    assert (settings.fit.rounds, settings.fit.rays, settings.seed) == (2, 99, 4)
    assert settings.views.turns_deg == (0.0, 10.0) and settings.prompt == "brick, sunny"
    for item in items:
        assert open_layout(item.layout, item.seed).primitives
    shapes = [len(open_layout(items[i].layout, items[i].seed).primitives) for i in (8, 9, 10)]
    assert shapes[0] == shapes[2] != shapes[1]


def test_one_value_stands_for_a_list(tmp_path: Path) -> None:
    config = read_batch(write(tmp_path, "layouts: straight\nseeds: 2\nstyles: sunny\n"))
    assert [(i.prompt, i.seed) for i in expand(config)] == [("sunny", 2)]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("layouts: [straight]\nsedes: [1]", "config.unknown_key", "'seeds'"),
        ("layouts: [{kind: curved, lenght: 3}]", "config.unknown_key", r"layouts\[0\].*'length'"),
        ("layouts: [strait]", "batch.unknown_layout", "'straight'"),
        ("layouts: [{kind: zigzag}]", "config.bad_value", "zigzag"),
        ("layouts: [{kind: curved, name: crossing}]", "batch.bad_layout", "gives 2"),
        ("layouts: [3]", "batch.bad_layout", "3"),
        ("styles: [sunny]", "batch.no_items", "layouts"),
        ("layouts: [straight]\nseeds: []", "batch.no_items", "seeds"),
        ("layouts: [straight]\nworkers: 0", "config.bad_value", "workers"),
        ("layouts: [straight]\npreset: smok", "config.unknown_preset", "'smoke'"),
        ("layouts: [straight]\nsettings: {fit: {roundz: 2}}", "config.unknown_key", "rounds"),
        ("layouts: [straight]\nslurm: {gpu: 1}", "config.unknown_key", "gpus"),
    ],
)
def test_bad_batches_are_refused(tmp_path: Path, text: str, code: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_batch(write(tmp_path, text))
    assert caught.value.code == code


def test_a_scene_may_kill_its_process(tmp_path: Path) -> None:
    config = replace(SMALL, prompts=("crash", "fine"), workers=1)
    summary = run_batch(config, tmp_path, build=batch_builds.build)
    assert summary["done"] == 1 and summary["failed"] == 1
    assert summary["failures"][0]["code"] == "work.worker_died"
    assert "exit code 9" in summary["failures"][0]["message"]


def test_a_failed_scene_never_stops_the_others(tmp_path: Path, inline: None) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    broken = LayoutEntry(file=str(tmp_path / "broken.json"))
    prompts = ("fine", "poison", "once", "defect")
    config = replace(SMALL, layouts=(SHORT, broken), prompts=prompts, retries=1)
    summary = run_batch(config, tmp_path / "run", build=batch_builds.build)
    rows = made(tmp_path / "run")
    found = {row["prompt"]: row for row in rows.values() if row["layout"] == SHORT.label}
    assert (summary["scenes"], summary["done"], summary["failed"]) == (8, 2, 6)
    assert {p: (r["status"], r["code"], r["attempts"]) for p, r in found.items()} == {
        "fine": ("done", "", 1),
        "poison": ("failed", "layout.no_ground", 1),
        "once": ("done", "", 2),
        "defect": ("failed", "work.unexpected", 2),
    }
    codes = {row["code"] for row in rows.values() if row["layout"] == "broken"}
    assert codes == {"layout_file.not_json"}
    assert found["fine"]["metrics"]["adherence.depth"] == 0.25
    lines = list(csv.DictReader((tmp_path / "run/outputs/scenes.csv").read_text().splitlines()))
    assert len(lines) == 8 and lines[0]["primitives"] == str(found["fine"]["metrics"]["primitives"])
    table = (tmp_path / "run/outputs/scenes.md").read_text("utf-8").splitlines()
    assert len(table) == 10 and "one \\| two" in "".join(table)
    with Image.open(tmp_path / "run/previews/contact.png") as sheet:
        assert sheet.size == (960, 380) and sheet.getpixel((80, 80)) == (0, 128, 0)
    # again: nothing is open but what may have been the machine's fault
    run_batch(config, tmp_path / "run", build=batch_builds.build)
    again = {row["prompt"]: row["attempts"] for row in list(made(tmp_path / "run").values())[:4]}
    assert again == {"fine": 1, "poison": 1, "once": 2, "defect": 4}


def test_a_repaired_layout_is_made_on_request(tmp_path: Path, inline: None) -> None:
    file = tmp_path / "street.json"
    config = replace(SMALL, layouts=(LayoutEntry(file=str(file)),))
    (item,) = expand(config)
    assert run_batch(config, tmp_path, build=batch_builds.build)["failed"] == 1
    save_layout(generate_street(20, 1), file)
    assert run_batch(config, tmp_path, build=batch_builds.build)["failed"] == 1
    summary = run_batch(config, tmp_path, build=batch_builds.build, retry_failed=True)
    assert summary["done"] == 1 and made(tmp_path)[item.name]["attempts"] == 2


def test_a_finished_scene_is_only_read(tmp_path: Path) -> None:
    setup = ItemSetup(SMALL, tmp_path, batch_builds.build)
    (item,) = expand(SMALL)
    first, second = run_item(setup, item), run_item(setup, item)
    assert first["run"] == second["run"] and first["metrics"] == second["metrics"]
    assert (Path(first["run"]) / "built.txt").read_text() == "built\n"


def test_cancelling_stops_the_batch(tmp_path: Path, inline: None) -> None:
    def cancel(event: Any) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_batch(SMALL, tmp_path, build=batch_builds.build, progress=cancel)
    assert json.loads((tmp_path / "outputs/scenes.json").read_text())["open"] == 1


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
import batch_builds
from scenes.batch import run_batch
from scenes.batch_plan import BatchConfig, LayoutEntry

if __name__ == "__main__":
    config = BatchConfig(
        layouts=(LayoutEntry(kind="straight", length=20.0),),
        prompts=("fine", "poison"),
        seeds=tuple(range(int(sys.argv[2]))),
        preset="smoke", device="cpu", workers=2,
    )
    run_batch(config, Path(sys.argv[1]), build=batch_builds.build)
"""


def ended(run: Path) -> list[Path]:
    return [*run.glob("items/*.json"), *run.glob("failures/*.json")]


def kill_and_resume(folder: Path, seeds: int, kill_at: int) -> None:
    script = folder / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(script), str(folder / "run"), str(seeds)]
    child = subprocess.Popen(command, env=environment)
    try:
        while len(ended(folder / "run")) < kill_at:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    before = {p: p.read_bytes() for p in ended(folder / "run")}
    assert kill_at <= len(before) < 2 * seeds
    assert subprocess.run(command, env=environment, check=True).returncode == 0
    for path, content in before.items():
        assert path.read_bytes() == content
    rows = made(folder / "run")
    assert len(rows) == 2 * seeds and all(row["attempts"] == 1 for row in rows.values())
    for row in rows.values():
        runs = list((folder / "run/items" / row["item"] / "scene").iterdir())
        assert [run_state(run)["status"] for run in runs] == [row["status"]]
        assert row["status"] == ("failed" if row["prompt"] == "poison" else "done")
        assert read_metrics(runs[0]) == []


@pytest.mark.slow
def test_killed_and_resumed_all_is_done_once(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seeds=2, kill_at=1)


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [5, 10])
def test_twenty_scenes_killed_and_resumed(tmp_path: Path, kill_at: int) -> None:
    kill_and_resume(tmp_path, seeds=10, kill_at=kill_at)


class FakeJob:
    def __init__(self, function: Any, items: list[Any], fails: bool) -> None:
        self.job_id = f"7_{items[0].index}"
        self.looks, self.cancelled = 0, False
        self._answer = None if fails else function(items)

    def done(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def exception(self) -> Exception | None:
        return None if self._answer else RuntimeError("out of\n memory")

    def result(self) -> Any:
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True


class FakeExecutor:
    made: ClassVar[list[FakeExecutor]] = []

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self.cluster = folder, cluster
        self.parameters: dict[str, Any] = {}
        self.jobs: list[FakeJob] = []
        FakeExecutor.made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def map_array(self, function: Any, parcels: list[list[Any]]) -> list[FakeJob]:
        self.jobs = [FakeJob(function, items, items[0].prompt == "dies") for items in parcels]
        return self.jobs


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[FakeExecutor]:
    FakeExecutor.made = []
    fake = types.SimpleNamespace(AutoExecutor=FakeExecutor)
    monkeypatch.setattr(slurm, "require", lambda name: fake)
    monkeypatch.setattr(slurm, "POLL_S", 0.001)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    return FakeExecutor


def test_on_a_cluster(tmp_path: Path, cluster: type[FakeExecutor]) -> None:
    config = replace(SMALL, prompts=("fine", "dies"), engine="slurm")
    summary = run_batch(config, tmp_path, build=batch_builds.build)
    (executor,) = cluster.made
    assert executor.parameters["slurm_array_parallelism"] == 2
    assert (
        executor.parameters["timeout_min"] == 120 and "slurm_partition" not in executor.parameters
    )
    assert summary["done"] == 1
    (failure,) = summary["failures"]
    assert failure["code"] == "work.worker_died" and "out of memory" in failure["message"]


def test_a_cancelled_batch_cancels_its_jobs(tmp_path: Path, cluster: type[FakeExecutor]) -> None:
    seen = []

    def cancel(event: Any) -> None:
        seen.append(event)
        if len(seen) > 1:
            raise Cancelled

    config = replace(SMALL, seeds=(0, 1), engine="slurm")
    with pytest.raises(Cancelled):
        run_batch(config, tmp_path, build=batch_builds.build, progress=cancel)
    assert all(job.cancelled for job in cluster.made[0].jobs)


def test_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, engine="slurm")
    monkeypatch.setattr(slurm, "require", lambda name: types.SimpleNamespace())
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable) as caught:
        run_batch(config, tmp_path, build=batch_builds.build)
    assert caught.value.code == "work.no_slurm"


def test_the_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inline: None,
) -> None:
    monkeypatch.setitem(run_batch.__kwdefaults__, "build", batch_builds.build)
    # the stand-in for a builder takes its orders from the prompt
    monkeypatch.setattr("scenes.urban.teachers.choice.check_words", lambda config, words: None)
    file = write(tmp_path, "layouts: {kind: straight, length: 20}\nprompts: [fine, poison]\n")
    assert main(["scenes", str(file), "--list", "--quiet"]) == 0
    assert "2 scenes" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    given = ["--preset", "smoke", "--set", "fit.rays=77", "--out", str(tmp_path / "runs")]
    assert main(["scenes", str(file), *given, "--json"]) == 3
    first = json.loads(capsys.readouterr().out)
    assert (first["done"], first["failed"]) == (1, 1)
    assert main(["scenes", "--resume", first["run"]]) == 3
    assert "[layout.no_ground]" in capsys.readouterr().out
    assert main(["scenes", "--resume", first["run"], "--retry-failed", "--json"]) == 3
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["attempts"] for row in rows] == [1, 2]
    assert "rays: 77" in (Path(first["run"]) / rows[0]["run"] / "config.yaml").read_text()
    assert main(["scenes"]) == 2 and main(["scenes", "--resume", first["run"], "--set", "a=1"]) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("layouts: [none.json, street.json, also-none.npy]", "batch.missing_layout"),
        ("layouts: [street.json, ./street.json]", "batch.duplicate"),
        ("layouts: [street.json]\nseeds: [1, 2]", ""),
        ("layouts: [street.json, street.json]", "batch.duplicate"),
        ("layouts: [straight]\nstyles: [sunny, sunny]", "batch.duplicate"),
        ("layouts: [straight]\nseeds: [1, 2, 1]", "batch.duplicate"),
        ("layouts: [straight]\nstyles: [sunny, grotesque]", "styles.unknown"),
        ("layouts: [straight]\nprompts: [a nice street]", "styles.unknown"),
        ("layouts: [straight]\nsettings: {teacher: /nowhere}", "teacher.no_folder"),
    ],
)
@pytest.mark.parametrize("flags", [["--list"], []], ids=["list", "run"])
def test_what_cannot_be_made_is_told_before_anything_starts(
    tmp_path: Path, text: str, code: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if not flags and not code:
        return
    save_layout(generate_street(20, 1), tmp_path / "street.json")
    given = ["scenes", str(write(tmp_path, text)), *flags, "--out", str(tmp_path / "runs")]
    assert main(given) == (0 if not code else 2 if code.startswith(("batch.d", "st")) else 3)
    assert code in capsys.readouterr().err and not (tmp_path / "runs").exists()
