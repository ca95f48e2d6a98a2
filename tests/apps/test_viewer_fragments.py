"""Pieces of HTML of the viewer, and the list of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from viewer_helpers import on_a_page

from apps.jobs import Jobs
from apps.viewer import fragments
from geo3d.errors import InputError

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that stay queued."""
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


class TestFragments:
    def test_text_from_outside_is_never_markup(self, jobs: Jobs) -> None:
        error = InputError("mesh.bad", EVIL, EVIL)
        job = jobs.submit(jobs.new_folder(), EVIL, ["match"], {})
        defects = [{"severity": "warning", "code": "x", "message": EVIL, "hint": EVIL}]
        pieces = [
            fragments.error_card(error, about=EVIL),
            fragments.mesh_card(EVIL, 1, 1, defects),
            fragments.facts_card([(EVIL, EVIL, EVIL)], [EVIL], ""),
            fragments.job_card(replace(job, progress={"stage": EVIL, "step": 1, "total": 2})),
            fragments.note(EVIL),
            fragments.scale([[0, 0, 0], [9, 9, 9]], EVIL, EVIL, EVIL),
        ]
        for piece in pieces:
            assert "<img" not in piece
            assert "&lt;img" in piece
            assert not re.search(r'="[^"]*onerror="', piece)

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("/srv/geo3d/runs/jobs/0a1b/inputs/big.png", "big.png"),
            ("/tmp/gradio/3f/fake.png", "fake.png"),
            (r"C:\\Users\\me\\runs\\x.json", "x.json"),
            ("plain.obj", "plain.obj"),
        ],
    )
    def test_a_message_names_files_without_folders(self, path: str, shown: str) -> None:
        """Those of the server are none of the page's business (case `path-in-message`)."""
        error = InputError("a.b", f"{path} is bad (cannot read '{path}').", f"Mend {path}.")
        card = fragments.error_card(error, about=shown)
        assert path not in card or path == shown
        assert card.count(shown) == 3 and "srv" not in card and "tmp" not in card
        words = "half of 1/2 and/or a http://x.example/y is 3 // 4"
        assert fragments.without_folders(words) == words

    def test_folders_of_the_server_may_have_spaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRADIO_TEMP_DIR", "/var/my own temp")
        said = fragments.without_folders("/var/my own temp/3f/a.png is no image.")
        assert said == "a.png is no image."

    def test_the_worst_defect_decides_the_badge(self) -> None:
        def card(*severities: str) -> str:
            found = [{"severity": s, "message": "m", "hint": ""} for s in severities]
            return fragments.mesh_card("a", 4, 4, found)

        assert "healthy" in card()
        assert "healthy" in card("info")
        assert "usable, with remarks" in card("info", "warning")
        assert "needs repair" in card("warning", "error")

    def test_a_running_job_shows_one_bar_and_the_time_left(self, jobs: Jobs) -> None:
        job = jobs.submit(jobs.new_folder(), "a", ["match"], {"expected_s": 61.0})
        event = {"stage": "zoomout", "step": 3, "total": 12}
        card = fragments.job_card(replace(job, state="running", progress=event, seconds=7.9))
        assert 'aria-valuenow="13"' in card
        assert "zoomout: 3 of 12" in card
        assert "7 s, about 53 s left" in card

    def test_a_waiting_job_shows_its_place(self, jobs: Jobs) -> None:
        job = jobs.submit(jobs.new_folder(), "a", ["match"], {"expected_s": 61.0})
        assert "in a moment" in fragments.job_card(job)
        assert "1 job before it; it begins in about 1 min" in fragments.job_card(job, [job])
        unknown = replace(job, settings={})
        assert "2 jobs before it." in fragments.job_card(job, [job, unknown])

    def test_a_silent_job_is_pointed_out(self, jobs: Jobs) -> None:
        job = jobs.submit(jobs.new_folder(), "a", ["match"], {})
        assert "sign of life" in fragments.job_card(replace(job, state="running", silent_s=40.0))
        assert "sign of life" not in fragments.job_card(replace(job, state="running", silent_s=2.0))


def test_the_list_of_jobs_escapes_titles_and_links_by_id(jobs: Jobs) -> None:
    from apps.viewer.jobs_tab import JobsTab

    listing = on_a_page(lambda: JobsTab(jobs))
    assert "No jobs yet" in listing.render()
    job = jobs.submit(jobs.new_folder(), EVIL, ["match"], {})
    html = listing.render()
    assert "<img" not in html
    assert f'href="?job={job.id}"' in html
