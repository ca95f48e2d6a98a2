"""A person's way through the tab Generate, in a headless Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import watched_page
from object_pipelines import cut_out_image, tiny_pipeline_folder
from served import serving

pytestmark = pytest.mark.e2e

PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    tiny_pipeline_folder(runs / "models" / "tiny")
    with serving(runs) as url:
        yield url


@pytest.fixture
def page(server: str) -> Iterator[Any]:
    with watched_page(server, PATIENCE_MS) as page:
        yield page


def steps(page: Any, label: str, value: int) -> None:
    page.get_by_role("spinbutton", name=f"number input for {label}").fill(str(value))


def test_a_picture_in_teacher_and_student_out(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.locator("#generate-card").get_by_text("Chair").wait_for()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html></html>")
    page.set_input_files("#generate-file input[type=file]", bad)
    page.locator("#generate-card [role=alert]").get_by_text("object_image.unreadable").wait_for()

    cut_out_image().save(tmp_path / "garden.png")
    page.set_input_files("#generate-file input[type=file]", tmp_path / "garden.png")
    page.locator("#generate-card").get_by_text("garden").first.wait_for()
    page.locator("#generate-model input").first.click()
    page.get_by_role("option", name="models/tiny").first.click()
    steps(page, "Teacher steps", 3)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    page.locator("#generate-status").get_by_text("done").wait_for()
    page.locator("#generate-result .g3-times").wait_for()
    assert "Student is faster by" in page.locator("#generate-result").inner_text()
    page.locator("#generate-panes .panes canvas").nth(1).wait_for()
    page.locator("#generate-downloads").get_by_text("garden-student").first.wait_for()

    page.reload()
    page.locator("#generate-result .g3-times").wait_for()
    assert page.get_by_role("tab", name="Generate").get_attribute("aria-selected") == "true"


@pytest.mark.slow
def test_a_long_generation_is_cancelled_at_once(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.locator("#generate-card").get_by_text("Chair").wait_for()
    page.locator("#generate-model input").first.click()
    page.get_by_role("option", name="models/tiny").first.click()
    steps(page, "Teacher steps", 100)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    page.locator("#generate-status").get_by_text("running").wait_for()
    page.locator("#generate-cancel").click()
    begun = time.monotonic()
    page.locator("#generate-status").get_by_text("cancelled").wait_for()
    # Grace and kill take 1.5 s; the rest is for a busy machine.
    assert time.monotonic() - begun < 30
