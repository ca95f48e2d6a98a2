"""The tab Runs without a browser: what it lists, refuses, compares, tags and deletes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_runs import match_run, plain_run

from apps.jobs import Jobs
from apps.viewer.runs_tab import NOTHING, RunsTab

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[RunsTab]:
    """The tab over three runs; two are matches."""
    import gradio as gr

    root = tmp_path / "runs"
    match_run(root)
    plain_run(root, "match", {"probability": 0.4, "method": "nearest"}, "other", [EVIL])
    plain_run(root / "jobs" / ("a" * 32) / "run", "scene", {"points": 9}, "street")
    jobs = Jobs(root / "jobs", max_running=0)

    async def build() -> RunsTab:
        with gr.Blocks(analytics_enabled=False):
            return RunsTab(jobs, tmp_path / "scratch")

    yield asyncio.run(build())
    jobs.close()


def folder(tab: RunsTab, name: str) -> str:
    return next(path for path in tab.render()[tab.folders] if Path(path).name.startswith(name))


def choose(tab: RunsTab, index: Any) -> dict[Any, Any]:
    return tab._choose(tab.render()[tab.folders], SimpleNamespace(index=index))  # type: ignore[arg-type]


def test_runs_are_listed_with_pictures_and_filtered(tab: RunsTab) -> None:
    shown = tab.render()
    assert len(shown[tab.gallery]) == 3 and "3 of 3" in shown[tab.count]
    assert all(Path(image).is_file() for image, _ in shown[tab.gallery])
    assert [name for name, _ in shown[tab.verb].choices] == ["all", "match", "nearest", "scene"]
    assert len(tab.render("", "nearest")[tab.folders]) == 1
    assert len(tab.render("street")[tab.folders]) == 1
    gone = tab.render("", "nonsense", "nonsense")
    assert len(gone[tab.folders]) == 3 and gone[tab.verb].value == "all"


def test_a_run_is_shown_escaped_with_its_command(tab: RunsTab) -> None:
    shown = tab._one(folder(tab, "other"))
    assert "Probably wrong" in shown[tab.about] and "<img" not in shown[tab.about]
    assert "&lt;img" in shown[tab.about]
    assert shown[tab.other].choices[0][0] == NOTHING
    shown = tab._one(folder(tab, "street"))
    assert f'href="?job={"a" * 32}"' in shown[tab.about]


@pytest.mark.parametrize("index", [99, -1, "0", None])
def test_positions_that_the_page_does_not_have(tab: RunsTab, index: Any) -> None:
    assert choose(tab, index)[tab.chosen] == ""


def test_a_position_is_the_run_that_was_listed(tab: RunsTab) -> None:
    folders = tab.render()[tab.folders]
    assert choose(tab, 1)[tab.chosen] == folders[1]


def test_folders_that_are_no_runs_are_refused(tab: RunsTab, tmp_path: Path) -> None:
    outside = plain_run(tmp_path / "elsewhere", "match").path
    for path in (str(outside), "/etc", "", "../x"):
        for shown in (tab._one(path), tab._delete(path), tab._page(path, NOTHING)):
            assert "There is no such run" in shown[tab.problem]
        assert "There is no such run" in tab._compare(path, NOTHING)
    assert outside.is_dir()


def test_two_runs_are_compared_and_made_a_page(tab: RunsTab) -> None:
    first, second = folder(tab, "one-two"), folder(tab, "other")
    table = tab._compare(first, Path(second).name)
    assert "Probability" in table and "0.9" in table and "0.4" in table
    assert tab._compare(first, NOTHING) == ""
    made = tab._page(first, Path(second).name)
    text = Path(made[tab.file].value["path"]).read_text("utf-8")
    assert text.count("<article") == 2


def test_tags_and_deletion(tab: RunsTab) -> None:
    path = folder(tab, "other")
    shown = tab._tag(True, path, "bad one", "", "all", "all")
    assert "bad one" in shown[tab.about]
    assert len(tab.render("", "all", "bad one")[tab.folders]) == 1
    assert "letters" in tab._tag(True, path, "", "", "all", "all")[tab.problem]
    assert "bad one" not in tab._tag(False, path, "bad one", "", "all", "all")[tab.about]
    shown = tab._delete(path, "", "all", "all")
    assert len(shown[tab.folders]) == 2 and shown[tab.chosen] == "" and not Path(path).exists()
