"""A person's way through the tab Segment, in a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import watched_page
from segmentation_helpers import tiny_segmenter, wall_image
from served import serving

pytestmark = pytest.mark.e2e

PATIENCE_MS = 90_000


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    runs = tmp_path / "runs"
    for seed, name in enumerate(("first", "second")):
        path = runs / "train-segmenter" / name / "outputs" / "segmenter.safetensors"
        path.parent.mkdir(parents=True)
        tiny_segmenter(path, seed)
    with serving(runs) as url, watched_page(url, PATIENCE_MS) as page:
        yield page


def choose(page: Any, box: str, option: str) -> None:
    page.locator(f"#{box} input").first.click()
    page.get_by_role("option", name=option).first.click()


def shown(page: Any, side: str) -> str:
    image = page.locator(f"#segment-{side} img").first
    image.wait_for()
    assert image.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 90
    return str(image.get_attribute("src"))


def test_a_picture_in_and_two_models_side_by_side(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Segment", exact=True).click()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html></html>")
    page.set_input_files("#segment-file input[type=file]", bad)
    page.locator("#segment-card [role=alert]").get_by_text("image.unreadable").wait_for()

    page.set_input_files("#segment-file input[type=file]", wall_image(tmp_path / "garden.png"))
    page.locator("#segment-card").get_by_text("garden").first.wait_for()
    choose(page, "segment-model", "first")
    choose(page, "segment-compared", "second")
    choose(page, "segment-losses", "cl_dice")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    page.locator("#segment-status").get_by_text("done").wait_for()
    page.locator("#segment-result .g3-card").nth(1).wait_for()
    assert page.locator("#segment-result").inner_text().count("Holes") == 2
    left, right = shown(page, "left"), shown(page, "right")
    assert left != right
    choose(page, "segment-show-right", "Loss map of cl_dice: first")
    page.wait_for_function(
        "before => document.querySelector('#segment-right img').src !== before", arg=right
    )

    page.reload()
    page.locator("#segment-result .g3-card").nth(1).wait_for()
    assert page.get_by_role("tab", name="Segment").get_attribute("aria-selected") == "true"
