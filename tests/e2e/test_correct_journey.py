"""A person corrects a mask by hand, in a headless Chromium: pointer, finger, keys, undo, save."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import keep, watched_page
from PIL import Image
from segmentation_helpers import tiny_segmenter, wall_image
from served import serving

from geo3d.topology.betti import betti_numbers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_MS = 240_000
SIDE = 96


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    model = path / "train-segmenter" / "first" / "outputs" / "segmenter.safetensors"
    model.parent.mkdir(parents=True)
    tiny_segmenter(model)
    return path


@pytest.fixture
def page(runs: Path) -> Iterator[Any]:
    with serving(runs) as url, watched_page(url, PATIENCE_MS) as page:
        page.set_viewport_size({"width": 1280, "height": 720})
        yield page


def segmented(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Segment", exact=True).click()
    page.set_input_files("#segment-file input[type=file]", wall_image(tmp_path / "garden.png"))
    page.locator("#segment-card").get_by_text("garden").first.wait_for()
    page.locator("#segment-model input").first.click()
    page.get_by_role("option", name="first").first.click()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    page.locator("#segment-result .g3-card").first.wait_for()


def paint(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Paint between two places, in parts of the picture's width and height."""
    box = page.locator("#segment-canvas svg").bounding_box()
    side = min(box["width"], box["height"])
    x0, y0 = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    page.mouse.move(x0 + start[0] * side, y0 + start[1] * side)
    page.mouse.down()
    page.mouse.move(x0 + end[0] * side, y0 + end[1] * side, steps=12)
    page.mouse.up()


def fingers(page: Any, touch: Any, path: list[list[tuple[float, float]]]) -> None:
    """Draw with fingers between places, in parts of the canvas, then lift them."""
    box = page.locator("#segment-canvas svg").bounding_box()

    def points(places: list[tuple[float, float]]) -> list[dict[str, float]]:
        return [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": i}
            for i, (x, y) in enumerate(places)
        ]

    for k, places in enumerate(path):
        event = {"type": "touchMove" if k else "touchStart", "touchPoints": points(places)}
        touch.send("Input.dispatchTouchEvent", event)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def strokes(page: Any, count: int) -> None:
    page.locator("#segment-numbers .g3-number", has_text=f"Strokes {count}").wait_for()


def width(page: Any, pixels: int) -> None:
    page.locator("#segment-tools input[type=range]").fill(str(pixels))


def test_a_mask_is_cut_joined_taken_back_and_saved(page: Any, runs: Path, tmp_path: Path) -> None:
    segmented(page, tmp_path)
    page.locator("#segment-mode").get_by_text("Correct by hand").click()
    page.locator("#segment-canvas svg").wait_for()
    width(page, 100)
    paint(page, (0.5, 0.0), (0.5, 1.0))
    strokes(page, 1)
    page.locator("#segment-numbers").get_by_text("to 1, holes").wait_for()
    page.locator("#segment-tools").get_by_text("Cut").click()
    width(page, 4)
    paint(page, (-0.02, 0.25), (1.02, 0.25))
    paint(page, (0.5, 0.005), (0.5, 0.995))
    strokes(page, 3)
    page.locator("#segment-numbers").get_by_text("components 2 to 4").wait_for()
    keep(page, "correct-cut.png")
    page.keyboard.press("Control+z")
    strokes(page, 2)
    page.keyboard.press("Control+y")
    strokes(page, 3)
    page.locator("#segment-tools").get_by_role("button", name="Undo").click()
    strokes(page, 2)

    # By keys alone: a bridge over the cut, from where the pointer was last seen, at the top.
    canvas = page.locator("#segment-canvas svg")
    canvas.focus()
    page.keyboard.press("j")
    page.keyboard.press("Space")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Space")
    strokes(page, 3)
    page.locator("#segment-numbers").get_by_text("Joined").wait_for()
    assert "components 2 to 1" in page.locator("#segment-numbers").inner_text()
    keep(page, "correct-join.png")
    page.locator("#segment-save").click()
    page.locator("#segment-numbers .g3-good").get_by_text("saved").wait_for()
    page.locator("#segment-downloads").get_by_text("garden-corrected-mask").first.wait_for()
    page.locator("#segment-result").get_by_text("corrected by hand").first.wait_for()

    run = next((runs / "jobs").glob("*/run/segment/*"))
    manifest = json.loads((run / "manifest.json").read_text())
    said = manifest["corrected_by_hand"]["picture"]
    mask = np.asarray(Image.open(run / said["mask"]))
    assert set(np.unique(mask)) == {0, 255}
    assert said["strokes"] == 3 and tuple(said["after"]) == betti_numbers(mask == 255) == (1, 0)
    listed = {entry["path"]: entry for entry in manifest["outputs"]}
    assert said["mask"] in listed and "outputs/picture-mask.png" in listed

    page.reload()
    page.locator("#segment-result").get_by_text("corrected by hand").first.wait_for()
    page.locator("#segment-mode").get_by_text("Correct by hand").click()
    strokes(page, 3)

    # By finger, on a phone: one paints, two zoom and paint nothing.
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(
        "document.querySelector('#segment-canvas svg').getBoundingClientRect().width < 390"
    )
    page.locator("#segment-tools").get_by_text("Cut").click()
    canvas.scroll_into_view_if_needed()
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    fingers(page, touch, [[(0.2 + 0.05 * k, 0.5)] for k in range(9)])
    strokes(page, 4)
    before = canvas.get_attribute("viewBox")
    fingers(page, touch, [[(0.45 - 0.02 * k, 0.5), (0.55 + 0.02 * k, 0.5)] for k in range(9)])
    page.wait_for_function(
        "b => document.querySelector('#segment-canvas svg').getAttribute('viewBox') !== b",
        arg=before,
    )
    strokes(page, 4)
    keep(page, "correct-finger.png")
