"""Ways through the workbench that no tab has to itself, in a headless Chromium.

Together with the journeys of the tabs these are the fifteen that a release is tried with: main path
and errors of each tab, cancel, refresh, restart, compare, download, keys alone, two people.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import HARMLESS, chromium, keep
from helpers import bumpy_sphere, permuted
from object_pipelines import cut_out_image, tiny_pipeline_folder
from PIL import Image
from segmentation_helpers import tiny_segmenter, wall_image
from served import serving

from apps.commands.app import usable_port
from geo3d.mesh.io import save_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_MS = 300_000
"""For machines that do other things as well."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    tiny_pipeline_folder(root / "models" / "tiny")
    segmenter = root / "train-segmenter" / "first" / "outputs" / "segmenter.safetensors"
    segmenter.parent.mkdir(parents=True)
    tiny_segmenter(segmenter)
    return root


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[str]:
    with serving(runs) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driven:
        yield driven


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """A function that opens a page as another person would; nothing may go wrong on any."""
    pages: list[Any] = []
    errors: list[str] = []
    asked: list[str] = []

    def opened(url: str, width: int = 1280, height: int = 720) -> Any:
        page = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True
        ).new_page()
        pages.append(page)
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.locator("#card-target .g3-card, #match-status .g3-card").first.wait_for()
        return page

    yield opened
    for page in pages:
        page.context.close()
    harmful = [error for error in errors if not HARMLESS.search(error)]
    # A server that is restarted refuses for a while; the page tells so itself.
    assert [error for error in harmful if "ERR_CONNECTION_REFUSED" not in error] == []
    assert [u for u in asked if not u.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def matched(page: Any, folder: Path, name: str = "pebble") -> str:
    """Match two small shapes; return the job's id once its result shows."""
    start_match(page, folder, name)
    page.locator("#result .g3-verdict").wait_for()
    return page.url.rpartition("=")[2]


def start_match(page: Any, folder: Path, name: str) -> None:
    put_shapes(page, folder, name, "stone", 3)
    choose(page, page.get_by_label("Method", exact=True), "nearest")
    page.locator("#match-run").click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))


def start_long_match(page: Any, folder: Path, name: str, other: str) -> None:
    """Begin a match that takes a while, of shapes with so many vertices."""
    put_shapes(page, folder, name, other, 5)
    page.locator("#match-run").click()


def put_shapes(page: Any, folder: Path, name: str, other: str, level: int) -> None:
    """Give the page a shape and the same one with its vertices in another order."""
    source = bumpy_sphere(level)
    for side, stem, mesh in (("source", name, source), ("target", other, permuted(source)[0])):
        page.set_input_files(
            f"#file-{side} input[type=file]", save_mesh(mesh, folder / f"{stem}.ply")
        )
        page.locator(f"#card-{side}").get_by_text(stem).first.wait_for()


def choose(page: Any, box: Any, option: str) -> None:
    box.click()
    page.get_by_role("option", name=option).first.click()


def canvas(page: Any, place: str, number: int) -> Any:
    found = page.locator(f"#{place} .panes canvas").nth(number)
    found.scroll_into_view_if_needed()
    page.wait_for_function("(c) => c.width !== 300", arg=found.element_handle())
    return found


def pixels(pane: Any) -> np.ndarray:
    shot = pane.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.float64)


def click_middle(page: Any, pane: Any, dx: int = 0, dy: int = 0) -> None:
    box = pane.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy)


def test_everything_of_a_match_is_downloaded(server: str, open_page: Any, tmp_path: Path) -> None:
    page = open_page(server)
    matched(page, tmp_path)
    assert "geo3d match pebble.ply stone.ply" in page.locator("#result pre").text_content()
    keep(page, "match-result.png")
    with page.expect_download() as download:
        page.get_by_text("Download everything (zip)").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        assert packed.testzip() is None
        names = {name.partition("/")[2] for name in packed.namelist()}
    wanted = {"outputs/map.txt", "manifest.json", "metrics.json", "result.html"}
    assert wanted <= names and any(name.startswith("inputs/source/") for name in names)


def test_a_click_tells_the_match_and_numbers_have_their_map(
    server: str, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(server)
    matched(page, tmp_path)
    click_middle(page, canvas(page, "match-panes", 1))
    said = page.locator("#match-panes .said")
    said.get_by_text("is matched to source vertex").wait_for()
    assert "confidence" in said.inner_text()
    before = pixels(canvas(page, "match-panes", 1))
    page.get_by_label("Colours", exact=True).select_option("Confidence")
    page.locator("#match-panes canvas.histogram").wait_for()
    page.get_by_label("from", exact=True).fill("0.9")
    page.get_by_label("from", exact=True).press("Enter")
    page.get_by_label("Map", exact=True).select_option("viridis")
    page.get_by_label("Meshes", exact=True).select_option("wireframe")
    page.wait_for_timeout(500)
    assert np.abs(pixels(canvas(page, "match-panes", 1)) - before).mean() > 3
    keep(page, "match-numbers.png")
    page.get_by_role("button", name="Keep view").click()
    page.get_by_role("button", name="1", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture").click()
    download.value.save_as(tmp_path / "view.png")
    with Image.open(tmp_path / "view.png") as view:
        assert view.width > 400
    with page.expect_download() as download:
        page.get_by_role("button", name="Film").click()
    download.value.save_as(tmp_path / "turn.webm")
    assert (tmp_path / "turn.webm").stat().st_size > 10_000


def test_landmarks_are_set_by_mouse(
    server: str, runs: Path, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(server)
    page.locator("#match-panes").get_by_label("Set landmarks").check()
    places = ((0, 0), (8, -40), (-6, 30))
    for count, (dx, dy) in enumerate(places, 1):
        for number in (0, 1):
            click_middle(page, canvas(page, "match-panes", number), dx, dy)
        page.locator("#match-panes .said").get_by_text(f"{count} pairs").wait_for()
    keep(page, "match-landmarks.png")
    page.wait_for_timeout(1000)
    choose(page, page.get_by_label("Preset", exact=True), "fast")
    page.locator("#match-run").click()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    job = runs / "jobs" / page.url.rpartition("=")[2]
    assert len((job / "inputs" / "landmarks.txt").read_text().splitlines()) == 3
    page.locator("#match-cancel").click()
    page.locator("#match-status").get_by_text("cancelled", exact=True).wait_for()


def test_two_people_wait_in_one_queue(server: str, open_page: Any, tmp_path: Path) -> None:
    first, second = open_page(server), open_page(server)
    start_long_match(first, tmp_path, "big", "huge")
    first.locator("#match-status .g3-bar").wait_for()
    (tmp_path / "other").mkdir()
    start_match(second, tmp_path / "other", "mine")
    second.locator("#match-status").get_by_text("1 job before it").wait_for()
    keep(second, "match-queue.png")
    keep(first, "match-running.png")
    first.locator("#match-cancel").click()
    first.locator("#match-status").get_by_text("cancelled", exact=True).wait_for()
    second.locator("#result .g3-verdict").wait_for()
    assert "mine" in second.inner_text("#match-status")
    assert "huge" in first.inner_text("#match-status")


def test_a_restart_is_survived(runs: Path, open_page: Any, tmp_path: Path) -> None:
    """The server goes while a job runs; the page says so, loads itself anew, and has the result."""
    port = usable_port("127.0.0.1", 0)
    with serving(runs, port) as url:
        page = open_page(url)
        start_match(page, tmp_path, "tough")
        job = page.url
    page.wait_for_selector("body.g3-away")
    with serving(runs, port):
        page.locator("#result .g3-verdict").wait_for()
        assert page.url == job and "tough" in page.inner_text("#match-status")


def test_teacher_and_student_are_compared(server: str, open_page: Any, tmp_path: Path) -> None:
    page = open_page(server)
    page.get_by_role("tab", name="Generate", exact=True).click()
    cut_out_image().save(tmp_path / "garden.png")
    page.set_input_files("#generate-file input[type=file]", tmp_path / "garden.png")
    page.locator("#generate-card").get_by_text("garden").first.wait_for()
    choose(page, page.locator("#generate-model input").first, "models/tiny")
    page.get_by_role("spinbutton", name="number input for Teacher steps").fill("2")
    page.locator("#generate-run").click()
    page.locator("#generate-result .g3-verdict").wait_for()
    panes = page.locator("#generate-panes")
    first = canvas(page, "generate-panes", 0)
    before = pixels(first)
    panes.get_by_label("Slider").check()
    slider = panes.get_by_label("How much is shown of the left one")
    slider.fill("50")
    page.wait_for_timeout(500)
    keep(page, "generate-slider.png")
    slider.fill("0")
    page.wait_for_timeout(500)
    whole = pixels(first)
    slider.fill("100")
    page.wait_for_timeout(500)
    assert np.abs(pixels(first) - whole).mean() > 0.05, "both sides show the same object"
    panes.get_by_label("Slider").uncheck()
    panes.get_by_label("Shown").first.select_option("Teacher, Gaussians")
    page.wait_for_timeout(500)
    keep(page, "generate-splats.png")
    assert np.abs(pixels(first) - before).mean() > 0.5


def test_several_images_are_a_job_each(server: str, open_page: Any, tmp_path: Path) -> None:
    page = open_page(server)
    page.get_by_role("tab", name="Segment", exact=True).click()
    page.locator("#segment-card").get_by_text("Drawn wall").first.wait_for()
    images = [wall_image(tmp_path / f"{name}.png") for name in ("north", "south")]
    page.set_input_files("#segment-file input[type=file]", images)
    page.locator("#segment-card").get_by_text("also south").wait_for()
    choose(page, page.locator("#segment-model input").first, "first")
    page.locator("#segment-repair input").check()
    page.locator("#segment-run").click()
    page.locator("#segment-others").get_by_text("Mortar of south").wait_for()
    page.locator("#segment-result .g3-verdict").wait_for()
    keep(page, "segment-repair.png")
    page.locator("#segment-others a").click()
    page.locator("#segment-card").get_by_text("picture").or_(
        page.locator("#segment-card").get_by_text("south")
    ).first.wait_for()
    page.locator("#segment-result .g3-verdict").wait_for()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1440, 900), (390, 844)])
def test_every_size_shows_tabs_and_buttons(
    server: str, open_page: Any, width: int, height: int
) -> None:
    page = open_page(server, width, height)
    tabs = {"Match": "match", "Segment": "segment", "Generate": "generate", "Scene": "scene"}
    for name in (*tabs, "Jobs", "Runs"):
        tab = page.get_by_role("tab", name=name, exact=True)
        assert tab.is_visible()
        tab.click()
        if name in tabs:
            button = page.locator(f"#{tabs[name]}-run")
            button.wait_for()
            page.locator(f"#{tabs[name]}-estimate").get_by_text("Expected").wait_for()
            box = button.bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, name
        page.wait_for_timeout(500)
        keep(page, f"{name.lower()}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_a_job_is_cancelled_from_the_list(
    server: str, runs: Path, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(server)
    start_long_match(page, tmp_path, "far", "away")
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
    job = runs / "jobs" / page.url.rpartition("=")[2]
    page.get_by_role("tab", name="Jobs").click()
    page.get_by_role("button", name="Cancel far → away").click()
    page.locator("#jobs tr", has_text="far → away").get_by_text("cancelled", exact=True).wait_for()
    assert json.loads((job / "ended.json").read_text())["state"] == "cancelled"


def test_a_job_that_dies_is_told(server: str, runs: Path, open_page: Any, tmp_path: Path) -> None:
    page = open_page(server)
    start_long_match(page, tmp_path, "ill", "fated")
    page.locator("#match-status .g3-bar").wait_for()
    job = runs / "jobs" / page.url.rpartition("=")[2]
    os.kill(json.loads((job / "started.json").read_text())["pid"], signal.SIGKILL)
    page.locator("#match-status").get_by_text("failed", exact=True).wait_for()
    assert "job." in page.inner_text("#match-status")
    assert page.locator("#match-run").is_enabled()
    page.get_by_role("tab", name="Jobs").click()
    page.locator("#jobs tr", has_text="ill → fated").get_by_text("failed", exact=True).wait_for()
    keep(page, "jobs-failed.png")
