"""One helper opens, resumes and records the runs of all verbs."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apps import cli
from apps.running import Beginning, remember, request_of, run_verb, settings, with_engine
from geo3d.errors import ConfigError, Geo3dError, InputError
from geo3d.progress import ProgressCallback, report
from geo3d.runs import Run, start_run


@dataclass(frozen=True)
class Nested:
    text: str = ""


@dataclass(frozen=True)
class Settings:
    word: str = "a"
    path: Path = Path()
    seed: int = 7
    share: float = 0.5
    below: Nested = Nested()


PRESETS = {"loud": {"word": "LOUD", "share": 0.25}}


def flags(tmp_path: Path, **given: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {"config": None, "preset": None, "set": [], "seed": None}
    usual |= {"device": "cpu", "out": str(tmp_path / "runs"), "resume": None}
    return argparse.Namespace(**{**usual, "json": False, "quiet": True, **given})


def code_of(*call: Any, **more: Any) -> str:
    with pytest.raises(Geo3dError) as caught:
        run_verb(*call, **more)
    return caught.value.code


# Text that means something else in YAML, in a shell or to `--set`.
HARD = (
    "a: b",
    "'x'",
    '"x"',
    "=",
    "a=b",
    "[1]",
    "{x}",
    "null",
    "3",
    "1e3",
    "# no",
    " x ",
    "ä\n",
    "*",
)


@pytest.mark.parametrize("text", HARD)
def test_values_of_flags_arrive_as_they_are(text: str, tmp_path: Path) -> None:
    args = flags(tmp_path)
    found = settings(args, Settings, {"word": text, "path": text, "below.text": text})
    assert (found.word, found.path, found.below.text) == (text, Path(text), text)
    run = run_verb(args, "v", lambda: Beginning("x", found), lambda run, _: run.finish({}))
    assert run.load_config(Settings) == found


def test_order_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("word: file\nseed: 3\n")
    args = flags(tmp_path, config=str(file), set=["word=set"])
    assert settings(args, Settings, {"word": "flag"}, "loud") == Settings("set", seed=3, share=0.25)
    args = flags(tmp_path, config=str(file), seed=9)
    assert settings(args, Settings, {"word": "flag", "path": None}) == Settings("flag", seed=9)
    assert settings(flags(tmp_path, preset="loud"), Settings).word == "LOUD"


def test_a_run_is_begun_worked_on_and_shown_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def begin() -> Beginning:
        return Beginning("My name", Settings(), [__file__, None], remember({"what": "ever"}))

    def work(run: Run, progress: ProgressCallback) -> None:
        calls.append(request_of(run)["what"])
        report(progress, "working", 1, 1)
        run.finish({"n": 1})

    done = run_verb(flags(tmp_path), "verb", begin, work)
    assert done.numbers == {"n": 1} and done.path.parent.name == "verb"
    assert (done.record["seed"], done.record["device"]) == (7, "cpu")
    assert [Path(entry["path"]) for entry in done.record["inputs"]] == [Path(__file__)]
    events = (done.path / "progress.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["stage"] == "working"
    again = run_verb(flags(tmp_path, resume=str(done.path)), "verb", begin, work)
    assert again.path == done.path and calls == ["ever"]
    run_verb(flags(tmp_path, resume=str(done.path)), "verb", begin, work, redo=True)
    assert calls == ["ever", "ever"]


def test_a_slip_leaves_nothing_behind(tmp_path: Path) -> None:
    def begin() -> Beginning:
        raise InputError("mesh.bad", "Bad.")

    assert code_of(flags(tmp_path), "verb", begin, pytest.fail) == "mesh.bad"
    bad = flags(tmp_path, device="warp")
    assert code_of(bad, "verb", lambda: Beginning("x"), pytest.fail) == "device.unknown"
    assert list(tmp_path.iterdir()) == []


def test_what_a_resumed_run_refuses(tmp_path: Path) -> None:
    run = start_run("verb", "x", None, tmp_path)

    def refused(verb: str = "verb", **given: Any) -> str:
        args = flags(tmp_path, **{"resume": str(run.path), "data": None, **given})
        return code_of(args, verb, pytest.fail, pytest.fail, "data")

    for given in ({"data": "x"}, {"preset": "x"}, {"config": "x"}, {"set": ["a=1"]}):
        assert refused(**given) == "run.resume_is_complete"
    assert refused("other") == "run.cannot_resume"
    assert refused(resume=str(tmp_path)) == "run.not_a_run"
    assert code_of(flags(tmp_path, resume=str(run.path)), "verb", pytest.fail, _read_request) == (
        "run.cannot_resume"
    )


def _read_request(run: Run, progress: ProgressCallback) -> None:
    request_of(run)


def test_a_preset_of_another_class_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(flags(tmp_path, preset="quiet"), Settings)
    assert caught.value.code == "config.unknown_preset"


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_ends_with_one_message(
    tmp_path: Path,
    kind: type[Exception],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = os.strerror(errno.ENOSPC)
    full = OSError(errno.ENOSPC, said) if kind is OSError else kind(f"I/O error: {said}")

    def refuse(*_: object, **__: object) -> None:
        raise full

    class Full:
        write = flush = close = refuse

    class Module:
        @staticmethod
        def run(args: argparse.Namespace) -> int:
            with start_run("scene", "full", None, tmp_path) as run:
                # from here on nothing can be written
                monkeypatch.setattr(run._handler, "stream", Full())
                monkeypatch.setattr("geo3d.runs.atomic_write_json", refuse)
                logging.getLogger("geo3d").info("a line that does not fit")
                raise full

    assert cli._run(Module, argparse.Namespace(json=False)) == 1
    shown = capfd.readouterr().err
    assert shown.count("\n") == 2 and "[system.disk_full]" in shown and "Traceback" not in shown


def test_the_engine_of_a_verb_comes_from_its_flags() -> None:

    from geo3d.work.slurm import SlurmConfig
    from shape_matching.evaluate.config import EvaluationConfig

    config = EvaluationConfig(slurm=SlurmConfig(partition="old", cpus=2))
    flags = argparse.Namespace(engine="slurm", slurm=["minutes=60", "gpus=1"], workers=3)
    changed = with_engine(flags, config)
    assert (changed.engine, changed.workers) == ("slurm", 3)
    assert changed.slurm == SlurmConfig(partition="old", cpus=2, minutes=60, gpus=1)
    nothing = argparse.Namespace(engine=None, slurm=None, workers=None)
    assert with_engine(nothing, config) == config
    with pytest.raises(ConfigError) as caught:
        with_engine(argparse.Namespace(engine=None, slurm=["gpu=1"]), config)
    assert caught.value.code == "config.unknown_key" and "gpus" in str(caught.value)
