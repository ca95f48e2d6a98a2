"""The evaluation engine: parallel, failing pairs recorded, resumable with equal bytes."""

from __future__ import annotations

import csv
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_helpers import make_spheres, nearest, noisy, troubled

from geo3d.errors import Cancelled, ConfigError, InputError
from geo3d.work.pool import Limits, Task, run_pool
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import open_dataset
from shape_matching.evaluate.evaluate import evaluate
from shape_matching.evaluate.pairs import JobSetup, find_method, make_pair_job, shape_as_seen
from shape_matching.evaluate.protocols import protocol_pairs

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("per_pair.csv", "summary.json", "curve.png", "worst.png")


@pytest.fixture(scope="module")
def spheres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six shuffled copies of one shape (15 pairs)."""
    return make_spheres(tmp_path_factory.mktemp("spheres"), 6)


def evaluated(
    data: Path, out: Path, method: Callable[..., Any] = nearest, **settings: Any
) -> dict[str, Any]:
    dataset = open_dataset(data)
    pairs = protocol_pairs(dataset, "all")[1]
    config = EvaluationConfig(data=str(data), **{"worst": 2, **settings})
    return evaluate(dataset, pairs, config, out, method=method, protocol="all")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "per_pair.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def right(spheres: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished evaluation of right maps."""
    out = tmp_path_factory.mktemp("right")
    evaluated(spheres, out, workers=2, save_maps=True)
    return out


def test_right_maps_score_zero_and_everything_is_written(right: Path) -> None:
    summary = json.loads((right / "summary.json").read_text())
    assert (summary["pairs"], summary["scored"], summary["failed"]) == (15, 15, 0)
    assert summary["error"] == 0 and summary["auc_0.25"] == pytest.approx(1)
    assert summary["coverage"] == pytest.approx(1) and summary["bijectivity"] == 0
    table = rows(right)
    assert [row["status"] for row in table] == ["ok"] * 15
    assert (table[0]["source"], table[0]["target"]) == ("ball_0", "ball_1")
    for name in ("curve.png", "worst.png"):
        assert (right / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((right / "timings.json").read_text())["match_seconds_per_pair"] >= 0
    numbers = (right / "maps" / "00000.txt").read_text().split()
    assert len(numbers) == 42 and set(map(int, numbers)) == set(range(42))


@pytest.mark.slow
def test_number_of_workers_does_not_matter(spheres: Path, tmp_path: Path) -> None:
    evaluated(spheres, tmp_path / "one", noisy, workers=1)
    evaluated(spheres, tmp_path / "three", noisy, workers=3, cache_geodesics=True)
    for name in TABLES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert float(rows(tmp_path / "one")[0]["error"]) > 0


def test_pairs_that_fail_hang_or_kill_are_recorded(spheres: Path, tmp_path: Path) -> None:
    summary = evaluated(spheres, tmp_path, troubled, workers=2, pair_timeout=1.0)
    codes = {(row["target"], row["code"]) for row in rows(tmp_path)}
    assert codes == {
        ("ball_1", "work.unexpected"),
        ("ball_2", "work.worker_died"),
        ("ball_3", "work.timeout"),
        ("ball_4", "map.wrong_length"),
        ("ball_5", ""),
    }
    assert summary["scored"] == 5 and summary["failed"] == 10
    assert summary["failures"]["work.worker_died"] == 2 and summary["error"] == 0
    assert "KeyError" in rows(tmp_path)[0]["message"]


def test_nothing_scored_is_still_a_report(spheres: Path, tmp_path: Path) -> None:
    dataset = open_dataset(spheres)
    config = EvaluationConfig(data=str(spheres))
    pairs = [("ball_0", "ball_1")]
    summary = evaluate(dataset, pairs, config, tmp_path, method=troubled)
    assert summary["error"] is None and summary["scored"] == 0
    assert not (tmp_path / "curve.png").exists()


def test_failures_of_the_machine_are_tried_again(spheres: Path, tmp_path: Path) -> None:
    dataset = open_dataset(spheres)
    config = EvaluationConfig(data=str(spheres), worst=0)
    pairs = [("ball_0", "ball_2"), ("ball_0", "ball_4")]
    first = evaluate(dataset, pairs, config, tmp_path, method=troubled)
    assert set(first["failures"]) == {"work.worker_died", "map.wrong_length"}
    second = evaluate(dataset, pairs, config, tmp_path, method=nearest)
    assert second["failures"] == {"map.wrong_length": 1} and second["scored"] == 1


def test_another_evaluation_is_not_continued(spheres: Path, right: Path) -> None:
    with pytest.raises(InputError, match="geodesics") as caught:
        evaluated(spheres, right, geodesics="exact")
    assert caught.value.code == "work.other_folder"


def test_progress_counts_up_and_may_cancel(spheres: Path, tmp_path: Path) -> None:
    dataset = open_dataset(spheres)
    pairs = protocol_pairs(dataset, "all")[1]
    config = EvaluationConfig(data=str(spheres), worst=0)
    seen: list[int] = []

    def listen(event: Mapping[str, Any]) -> None:
        assert event["stage"] == "pairs" and event["total"] == 15
        seen.append(event["step"])
        if event["step"] == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluate(dataset, pairs, config, tmp_path, method=nearest, progress=listen)
    assert sorted(set(seen)) == [0, 1, 2, 3, 4] and seen == sorted(seen)
    assert len(list((tmp_path / "pairs").glob("*.json"))) == 4
    seen.clear()
    done = evaluate(dataset, pairs, config, tmp_path, method=nearest, progress=seen_only(seen))
    assert done["scored"] == 15 and seen[0] == 4 and seen[-1] == 15


def seen_only(seen: list[int]) -> Callable[[Mapping[str, Any]], None]:
    return lambda event: seen.append(event["step"])


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"worst": -1}, {"pair_timeout": 0.0}, {"pair_timeout": -1.0}]
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        EvaluationConfig(**settings)
    assert caught.value.code == "config.bad_value"


def test_unknown_method_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="nearest") as caught:
        find_method("oracle")
    assert caught.value.code == "evaluate.unknown_method"


def test_pool_keeps_groups_together_and_answers_everything(spheres: Path) -> None:
    setup = JobSetup(open_dataset(spheres), nearest, None)
    pairs = protocol_pairs(setup.dataset, "all")[1]
    tasks = [Task(str(i), pair, pair[0]) for i, pair in enumerate(pairs)]
    outcomes = list(run_pool(tasks, functools.partial(make_pair_job, setup), Limits(1)))
    # with one worker, pairs of one source follow each other
    assert [int(o.task.name) for o in outcomes] == list(range(15))
    assert all(o.error is None for o in outcomes)


KILLED_RUN = """
import sys
from pathlib import Path
from evaluation_helpers import noisy
from shape_matching.evaluate.datasets import open_dataset
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.evaluate import evaluate
from shape_matching.evaluate.protocols import protocol_pairs

if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    dataset = open_dataset(data)
    pairs = protocol_pairs(dataset, "all")[1]
    config = EvaluationConfig(data=str(data), workers=2, worst=2)
    evaluate(dataset, pairs, config, out, method=noisy, protocol="all")
"""


def start(script: Path, data: Path, out: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(script), str(data), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def kill_and_resume(data: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill an evaluation ``kills`` times when a random number of pairs is done, then compare."""
    script = folder / "run.py"
    script.write_text(KILLED_RUN)
    assert start(script, data, folder / "whole").wait(600) == 0
    rng = random.Random(seed)
    total = len(rows(folder / "whole"))
    done = 0
    for _ in range(kills):
        # killed during start-up, between pairs, in a pair, or while the report is written
        done = min(total, done + rng.randrange(0, max(2, 2 * (total - done) // kills + 1)))
        process = start(script, data, folder / "killed")
        limit = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < limit:
            if len(list((folder / "killed").glob("pairs/*.json"))) >= done:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for file in (folder / "killed").glob("*.json"):
            json.loads(file.read_text())
    assert start(script, data, folder / "killed").wait(600) == 0
    for name in TABLES:
        whole, killed = folder / "whole" / name, folder / "killed" / name
        assert whole.read_bytes() == killed.read_bytes(), name


@pytest.mark.slow
def test_killed_and_resumed_is_equal(spheres: Path, tmp_path: Path) -> None:
    kill_and_resume(spheres, tmp_path, kills=1, seed=0)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_equal(tmp_path: Path) -> None:
    data = make_spheres(tmp_path / "data", 9)
    kill_and_resume(data, tmp_path, kills=20, seed=1)


def test_random_rotations_turn_both_shapes_and_are_repeatable(
    spheres: Path, right: Path, tmp_path: Path
) -> None:
    mesh = open_dataset(spheres).file("ball_0").load().mesh
    first, again = shape_as_seen(mesh, 3, 0), shape_as_seen(mesh, 3, 0)
    np.testing.assert_array_equal(first.vertices, again.vertices)
    others = [shape_as_seen(mesh, seed, side) for seed, side in ((3, 1), (4, 0))]
    for turned in (first, *others):
        assert np.abs(turned.vertices - mesh.vertices).max() > 0.1
        np.testing.assert_allclose(
            turned.vertices @ turned.vertices.T, mesh.vertices @ mesh.vertices.T, atol=1e-6
        )
        assert (turned.faces == mesh.faces).all()
    assert np.abs(first.vertices - others[0].vertices).max() > 0.1
    assert shape_as_seen(mesh, None, 0) is mesh
    # positions alone do not survive it, and the run remembers that it was asked for
    assert evaluated(spheres, tmp_path, random_rotations=True, worst=0)["error"] > 0
    with pytest.raises(InputError, match=r"work\.other_folder"):
        evaluated(spheres, right, random_rotations=True)
