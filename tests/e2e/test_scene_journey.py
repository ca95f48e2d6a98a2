"""A person's way through the tab Scene, in a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import watched_page
from served import serving

from geo3d.synth.streets.generate import generate_street
from scenes.urban.layout_json import save_layout

pytestmark = pytest.mark.e2e

PATIENCE_MS = 120_000


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with serving(tmp_path) as url, watched_page(url, PATIENCE_MS) as page:
        page.get_by_role("tab", name="Scene", exact=True).click()
        page.wait_for_selector("#scene-conditions img")
        yield page


UNCOVERED_TREE = """() => {
  for (const tree of document.querySelectorAll('#scene-plan .g3-thing[data-id*="veg"]')) {
    const box = tree.getBoundingClientRect();
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (top === tree) return tree.dataset.id;
  }
}"""
"""Id of a tree whose middle nothing else lies on."""


def open_short_street(page: Any, folder: Path) -> None:
    path = save_layout(generate_street(30, 1, name="lane"), folder / "lane.json")
    page.set_input_files("#scene-file input[type=file]", path)
    page.locator("#scene-card").get_by_text("lane", exact=True).wait_for()


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()


def middle(locator: Any) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def selected(page: Any) -> str:
    return str(page.locator("#scene-plan svg").get_attribute("data-selected"))


def place(page: Any, id: str) -> tuple[float, float]:
    thing = page.locator(f'#scene-plan [data-id="{id}"]')
    return float(thing.get_attribute("data-z")), float(thing.get_attribute("data-x"))


def wait_for_moved(page: Any, id: str, before: tuple[float, float]) -> None:
    page.wait_for_function(
        "([id, z, x]) => { const t = document.querySelector(`#scene-plan [data-id='${id}']`);"
        "return t && (Number(t.dataset.z) !== z || Number(t.dataset.x) !== x) }",
        arg=[id, *before],
    )


def test_a_street_is_changed_on_the_map(page: Any, tmp_path: Path) -> None:
    """The shapes are there before the first edit (case `scene-3d-blank`)."""
    page.locator("#scene-panes").scroll_into_view_if_needed()
    page.wait_for_selector("#scene-panes canvas")
    bad = tmp_path / "bad.json"
    bad.write_text("<img src=x>")
    page.set_input_files("#scene-file input[type=file]", bad)
    page.locator("#scene-card [role=alert]").get_by_text("layout_file.not_json").wait_for()
    open_short_street(page, tmp_path)

    # move
    id = page.evaluate(UNCOVERED_TREE)
    tree = page.locator(f'#scene-plan [data-id="{id}"]')
    before = place(page, id)
    x, y = middle(tree)
    drag(page, (x, y), (x + 30, y))
    wait_for_moved(page, id, before)
    after = place(page, id)
    assert after[0] > before[0] + 0.5 and after[1] == pytest.approx(before[1], abs=0.5)
    page.locator("#scene-selection").get_by_text("Heading").wait_for()
    assert selected(page) == id

    # turn
    yaw = page.locator(f'#scene-plan [data-id="{id}"]').get_attribute("data-yaw")
    handle = middle(page.locator("#scene-plan .g3-handle"))
    drag(page, handle, (x + 30, y + 80))
    page.wait_for_function(
        "([id, yaw]) => "
        "document.querySelector(`#scene-plan [data-id='${id}']`).dataset.yaw !== yaw",
        arg=[id, yaw],
    )

    # draw, which the drive does not allow in the middle of the road
    page.locator("#scene-class input").first.click()
    page.get_by_role("option", name="building", exact=True).first.click()
    page.locator("#scene-draw input").check()
    x, y = middle(page.locator("#scene-plan .g3-wedge circle"))
    drag(page, (x - 20, y - 20), (x + 20, y + 20))
    page.locator("#scene-problem [role=alert]").get_by_text("layout.camera_inside").wait_for()
    box = page.locator("#scene-plan svg").bounding_box()
    corner = (box["x"] + 12, box["y"] + 12)
    page.locator("#scene-class input").first.click()
    page.get_by_role("option", name="trash bin", exact=True).first.click()
    drag(page, (x, box["y"] + 30), (x, box["y"] + 30))
    page.wait_for_selector('#scene-plan [data-id="trash-bin-new-1"]')
    assert selected(page) == "trash-bin-new-1"

    # style, undo and the keyboard
    page.locator("#scene-style textarea, #scene-style input").first.fill("<img src=x>")
    page.locator("#scene-apply").click()
    page.locator("#scene-selection").get_by_text("<img src=x>").wait_for()
    page.locator("#scene-draw input").uncheck()
    page.locator("#scene-undo").click()
    page.locator("#scene-plan svg").focus()
    page.keyboard.press("Delete")
    page.wait_for_selector('#scene-plan [data-id="trash-bin-new-1"]', state="detached")
    page.keyboard.press("Control+z")
    page.wait_for_selector('#scene-plan [data-id="trash-bin-new-1"]')
    drag(page, corner, (corner[0] + 40, corner[1]))
    assert page.locator("#scene-plan svg").get_attribute("viewBox") != page.locator(
        "#scene-plan svg"
    ).get_attribute("data-view")


@pytest.mark.slow
def test_a_street_is_built_and_driven_through(page: Any, tmp_path: Path) -> None:
    open_short_street(page, tmp_path)
    page.locator("#scene-preset input").first.click()
    page.get_by_role("option", name="smoke").first.click()
    page.locator("#scene-run").click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    page.set_default_timeout(2 * PATIENCE_MS)
    page.locator("#scene-status").get_by_text("done").wait_for()
    page.wait_for_selector("#scene-drive .g3-player img")
    page.locator("#scene-drive input[type=range]").fill("1")
    assert page.locator("#scene-drive output").inner_text().startswith("2 / ")
    page.locator("#scene-downloads").get_by_text("lane-mesh", exact=True).wait_for()

    page.reload()
    page.wait_for_selector("#scene-drive .g3-player img")
    assert page.get_by_role("tab", name="Scene").get_attribute("aria-selected") == "true"
