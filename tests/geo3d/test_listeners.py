"""Listeners: bar, file, viewer, cancel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geo3d.errors import Cancelled
from geo3d.listeners import (
    cancel_listener,
    chain,
    jsonl_listener,
    tqdm_listener,
)
from geo3d.progress import report
from geo3d.runs import start_run


def test_chain_tells_all_in_order() -> None:
    heard: list[str] = []
    both = chain(lambda e: heard.append("a"), lambda e: heard.append("b"))
    report(both, "x", 1)
    assert heard == ["a", "b"]


def test_cancel_stops_at_the_next_event(tmp_path: Path) -> None:
    run = start_run("match", "x", root=tmp_path)
    listener = cancel_listener(run)
    report(listener, "x", 1)
    (run.path / "cancel").touch()
    with pytest.raises(Cancelled):
        report(listener, "x", 2)


def test_jsonl(tmp_path: Path) -> None:
    listener = jsonl_listener(tmp_path / "p.jsonl")
    report(listener, "zoomout", 1, 3, error=0.5)
    report(listener, "zoomout", 2, 3)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["metrics"] == {"error": 0.5}
    assert all(line["stage"] == "zoomout" and line["time"] > 0 for line in lines)


def test_jsonl_leaves_out_steps_that_come_too_fast(tmp_path: Path) -> None:
    listener = jsonl_listener(tmp_path / "p.jsonl", every_s=60.0)
    for step in range(5):
        report(listener, "train", step, 4)
    report(listener, "measure", 1)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(e["stage"], e["step"]) for e in lines] == [("train", 0), ("train", 4), ("measure", 1)]


def test_tqdm_draws_one_bar_per_stage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    listener = tqdm_listener(delay=0.0)
    for step in range(1, 4):
        report(listener, "spectra", step, 3)
    report(listener, "zoomout", 1, 2, error=0.5)
    report(listener, "zoomout", 2, 2, error=0.25)
    out, err = capsys.readouterr()
    assert out == "" and "spectra" in err and "zoomout" in err and "3/3" not in out
    assert listener._bar is None


def test_tqdm_hides_what_is_quick_or_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    for listener in (tqdm_listener(delay=60.0), tqdm_listener(delay=0.0, disable=True)):
        for step in range(1, 4):
            report(listener, "spectra", step, 3)
        listener.close()
    assert "spectra" not in capsys.readouterr().err


def test_tqdm_starts_again_when_steps_go_back(capsys: pytest.CaptureFixture[str]) -> None:
    listener = tqdm_listener(delay=0.0)
    report(listener, "pair", 3, 5)
    report(listener, "pair", 1, 5)
    assert listener._bar.n == 1
    listener.close()
    listener.close()
