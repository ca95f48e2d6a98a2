"""A person's way through the tab Runs: find, look, tag, page, delete; and what is no tag."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsing import watched_page
from report_runs import match_run, plain_run
from served import serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_MS = 90_000.0


def test_a_run_is_found_tagged_made_a_page_and_deleted(tmp_path: Path) -> None:
    run, _ = match_run(tmp_path)
    plain_run(tmp_path, "bench", {"error": 1.0}, "other")
    with serving(tmp_path) as url, watched_page(url, PATIENCE_MS) as page:
        page.get_by_role("tab", name="Runs").click()
        page.locator("#runs-count").get_by_text("2 of 2 runs").wait_for()
        page.locator("#runs-words textarea, #runs-words input").first.fill("one-two")
        page.locator("#runs-count").get_by_text("1 of 2 runs").wait_for()
        page.locator("#runs-gallery button:has(img)").first.click()
        page.locator("#runs-about").get_by_text("Probably right").wait_for()
        tag = page.locator("#runs-new-tag textarea, #runs-new-tag input").first
        tag.fill("g" * 200)
        page.locator("#runs-add-tag").click()
        page.locator("#runs-problem [role=alert]").get_by_text("runs.bad_tag").wait_for()
        tag.fill("good")
        page.locator("#runs-add-tag").click()
        page.locator("#runs-about").get_by_text("good", exact=True).wait_for()
        page.locator("#runs-page").click()
        page.locator("#runs-file").get_by_text(".html").first.wait_for()
        page.locator("#runs-delete").click()
        page.locator("#runs-sure").click()
        page.locator("#runs-count").get_by_text("0 of 1 runs").wait_for()
        assert not run.path.exists()
