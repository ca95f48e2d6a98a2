"""The page that `geo3d view` writes, opened from the disk in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium
from report_runs import match_run, plain_run, save_splats

from apps.report.page import page
from apps.report.records import read_record

pytestmark = pytest.mark.e2e

COUNT_COLOURS = """(canvas) => {
  const flat = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  let filled = 0;
  for (let i = 0; i < flat.length; i += 4) {
    if (flat[i + 3] <= 128) continue;
    filled++;
    seen.add((flat[i] >> 4) * 256 + (flat[i + 1] >> 4) * 16 + (flat[i + 2] >> 4));
  }
  return [seen.size, filled / (flat.length / 4)];
}"""


@contextmanager
def opened(file: Path, width: int = 1280, height: int = 720) -> Iterator[Any]:
    """Yield the page; nothing may be asked for, nothing refused by its policy, nothing thrown."""
    with chromium() as browser:
        shown = browser.new_page(viewport={"width": width, "height": height})
        said: list[str] = []
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        shown.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        shown.on(
            "request",
            lambda asked: (
                said.append(asked.url)
                if not asked.url.startswith(("data:", file.as_uri()))
                else None
            ),
        )
        shown.goto(file.as_uri())
        shown.wait_for_function(
            "[...document.querySelectorAll('canvas')].every((c) => c.width !== 300)"
        )
        yield shown
        assert not said


def drag(shown: Any, canvas: Any, dx: int, dy: int) -> None:
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.mouse.move(x, y)
    shown.mouse.down()
    shown.mouse.move(x + dx, y + dy, steps=4)
    shown.mouse.up()
    shown.wait_for_timeout(200)


def test_a_match_is_turned_asked_and_coloured(tmp_path: Path) -> None:
    run, p2p = match_run(tmp_path, 3)
    file = tmp_path / "match.html"
    file.write_text(page([read_record(run.path)]), "utf-8")
    with opened(file) as shown:
        first, second = shown.locator("canvas").all()
        looks = [canvas.evaluate(COUNT_COLOURS) for canvas in (first, second)]
        assert all(colours > 20 and 0.1 < share < 0.9 for colours, share in looks)
        before = [canvas.evaluate("(c) => c.toDataURL()") for canvas in (first, second)]
        drag(shown, first, 80, 20)
        after = [canvas.evaluate("(c) => c.toDataURL()") for canvas in (first, second)]
        assert after[0] != before[0] and after[1] != before[1]
        shown.get_by_label("Link cameras").uncheck()
        drag(shown, first, 60, 0)
        last = [canvas.evaluate("(c) => c.toDataURL()") for canvas in (first, second)]
        assert last[0] != after[0] and last[1] == after[1]
        drag(shown, second, 0, 0)
        words = shown.locator(".said").inner_text().split()
        target, source = int(words[2]), int(words[8].rstrip(";"))
        assert p2p[target] == source and words[-2] == "confidence"
        shown.get_by_label("Colours").select_option("Confidence")
        shown.get_by_label("Meshes").select_option("wireframe")
        shown.wait_for_timeout(200)
        assert second.evaluate("(c) => c.toDataURL()") != last[1]
        first.focus()
        shown.keyboard.press("ArrowLeft")
        shown.keyboard.press("+")
        shown.keyboard.press("0")


def test_splats_are_drawn_and_a_phone_shows_all(tmp_path: Path) -> None:
    run = plain_run(tmp_path, "generate")
    ball = np.random.default_rng(0).normal(size=(500, 3))
    save_splats(run.outputs / "ball.ply", ball / np.linalg.norm(ball, axis=1, keepdims=True))
    file = tmp_path / "splats.html"
    file.write_text(page([read_record(run.path)]), "utf-8")
    with opened(file, 390, 844) as shown:
        colours, share = shown.locator("canvas").evaluate(COUNT_COLOURS)
        assert share > 0.2 and colours < 40  # red, nearly everywhere
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        shown.get_by_role("button", name="Turn").click()
        shown.wait_for_timeout(150)
        shown.get_by_role("button", name="Stop").click()
