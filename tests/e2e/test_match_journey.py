"""A person's way through the tab Match, in a headless Chromium."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from browsing import HARMLESS, chromium
from helpers import bumpy_sphere, permuted
from PIL import Image
from served import serving

from apps.job_files import read_job
from apps.viewer.job_tab import show_address
from geo3d.mesh.io import save_mesh
from shape_matching.method_names import METHOD_HINTS

pytestmark = pytest.mark.e2e

PATIENCE_S = 90.0
PATIENCE_MS = 1000 * PATIENCE_S


class Journey:
    """A page, what it asked the network for, and what went wrong on it."""

    def __init__(self, page: Any, url: str, runs: Path) -> None:
        self.page, self.url, self.runs = page, url, runs
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self._hear(str(error)))
        page.on("console", lambda said: self._hear(said.text) if said.type == "error" else None)

    def _hear(self, text: str) -> None:
        if not HARMLESS.search(text):
            self.errors.append(text)

    def upload(self, side: str, path: Path) -> None:
        self.page.set_input_files(f"#file-{side} input[type=file]", path)
        self.page.locator(f"#card-{side}").get_by_text(path.stem, exact=False).first.wait_for()

    def job_id(self) -> str:
        self.page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))
        return self.page.url.rpartition("=")[2]

    def status(self, pattern: str) -> None:
        """Wait until the status says ``pattern``; any other end of the job ends the wait at once.

        On a busy machine a job may take minutes: what is not waited for is one that stands still.
        """
        end, before = time.monotonic() + PATIENCE_S, ""
        while not re.search(pattern, said := self.page.inner_text("#match-status")):
            assert not re.search("failed|There is no such job", said), self.report(said)
            events = "".join(p.read_text() for p in self.runs.glob("jobs/*/run/*/*/progress.jsonl"))
            if events != before:
                end, before = time.monotonic() + PATIENCE_S, events
            assert time.monotonic() < end, self.report(f"no {pattern}: {said}")
            self.page.wait_for_timeout(100)

    def report(self, said: str) -> str:
        """Return what the page and the jobs' files say, and where the jobs' processes are."""
        told = [f"the page: {said}", f"its errors: {self.errors}", f"load: {os.getloadavg()}"]
        for folder in sorted(self.runs.glob("jobs/*/")):
            processes = _processes_of(folder)
            for process in processes:
                process.send_signal(signal.SIGUSR1)  # asks for its stacks, see apps.job_worker
            self.page.wait_for_timeout(2000 if processes else 0)
            told.append(f"{folder.name}: processes {processes}")
            names = ("started.json", "heartbeat", "cancel", "ended.json", "log.txt")
            for path in (
                *(folder / name for name in names),
                *folder.glob("run/*/*/progress.jsonl"),
            ):
                if path.is_file():
                    aged = f"{time.time() - path.stat().st_mtime:.1f} s old"
                    told.append(f"  {path.name} ({aged}): {path.read_text()[-2000:]}")
        return "\n".join(told)

    def pane(self, side: str) -> Any:
        return self.page.locator("#match-panes .panes canvas").nth(("source", "target").index(side))

    def pixels(self, side: str) -> np.ndarray:
        shot = self.pane(side).screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.float64)

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < end, self.report(f"waited in vain for {what}")
            self.page.wait_for_timeout(250)

    def see_two_shapes(self) -> None:
        for side in ("source", "target"):
            self.pane(side).wait_for()
            self.wait_until(lambda s=side: self.pixels(s).std() > 10, f"the {side} pane")

    def check_clean(self) -> None:
        own = (self.url, "data:", "blob:")
        assert [url for url in self.asked if not url.startswith(own)] == []
        assert self.errors == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    runs = tmp_path_factory.mktemp("runs")
    with serving(runs) as url:
        yield url, runs


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driven:
        yield driven


@pytest.fixture
def journey(browser: Any, server: tuple[str, Path]) -> Iterator[Journey]:
    url, runs = server
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    travel = Journey(page, url, runs)
    page.goto(url)
    # The first example shows by itself; before that the page is not ready for anything else.
    page.wait_for_selector("#card-target .g3-card")
    yield travel
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, np.ndarray]:
    """Two meshes (the second shuffled), ground truth, and the true map."""
    folder = tmp_path_factory.mktemp("meshes")
    source = bumpy_sphere(3)
    target, order = permuted(source)
    np.savetxt(folder / "truth.txt", order, "%d")
    paths = save_mesh(source, folder / "pebble.off"), save_mesh(target, folder / "stone.obj")
    return *paths, folder / "truth.txt", order


def test_two_meshes_in_a_map_out(
    journey: Journey, files: tuple[Path, Path, Path, np.ndarray], tmp_path: Path
) -> None:
    page, (source, target, truth, order) = journey.page, files
    journey.upload("source", source)
    journey.upload("target", target)
    for side in ("source", "target"):
        assert "healthy" in page.inner_text(f"#card-{side}")
    assert "about" in page.inner_text("#match-estimate")
    page.get_by_text("Ground truth (optional)").click()
    page.set_input_files("#file-truth input[type=file]", truth)
    # The page shows stem and ending apart; the whole name is a text only while the file travels.
    page.locator("#file-truth .filename").get_by_text(truth.stem).wait_for()

    page.get_by_role("button", name="Match", exact=True).click()
    job_id = journey.job_id()
    journey.status("running")
    page.wait_for_selector("#match-status .g3-bar")

    page.reload()
    page.wait_for_selector("#match-status .g3-card")
    assert journey.job_id() == job_id
    journey.status("done")
    page.wait_for_selector("#result .g3-card")
    journey.see_two_shapes()

    result = page.inner_text("#result")
    image = page.locator("#fmap img")
    assert image.evaluate("image => image.naturalWidth") > 200
    assert "final map" in page.inner_text("#fmap")
    error = re.search(r"Mean error ×100\s+([\d.]+)", result)
    assert error is not None
    assert float(error[1]) < 5
    before = journey.pixels("target")
    page.get_by_label("Colours", exact=True).select_option("Error")
    page.get_by_text("Geodesic error of each target vertex").wait_for()
    journey.wait_until(lambda: np.abs(journey.pixels("target") - before).mean() > 5, "the heat map")

    with page.expect_download() as download:
        page.locator("#downloads a[download$='map.txt']").first.click()
    download.value.save_as(tmp_path / "map.txt")
    p2p_21 = np.loadtxt(tmp_path / "map.txt", dtype=np.int64)
    assert p2p_21.shape == order.shape
    assert 0 <= p2p_21.min() <= p2p_21.max() < len(order)
    assert (p2p_21 == order).mean() > 0.5

    page.get_by_role("tab", name="Jobs").click()
    page.locator("#jobs").get_by_text("pebble → stone").first.wait_for()
    assert page.locator(f"#jobs a[href='?job={job_id}']").count() == 1
    journey.check_clean()


def test_a_tab_without_a_job_leaves_the_address_of_another_alone(journey: Journey) -> None:
    page, mine, other = journey.page, show_address("mine"), show_address("other")

    def address() -> str:
        return page.url.partition("?")[2]

    page.evaluate(mine, "1")
    page.evaluate(other, "")
    assert address() == "job=1"
    page.evaluate(other, "2")
    page.evaluate(mine, "")
    assert address() == "job=2"
    page.evaluate(other, "")
    assert address() == ""


def test_a_web_page_named_obj_is_refused_with_a_reason(journey: Journey, tmp_path: Path) -> None:
    page = journey.page
    bad = tmp_path / "download.obj"
    bad.write_text("<!doctype html><html><script>document.title = 'owned'</script></html>")
    journey.upload("source", bad)
    card = page.locator("#card-source [role=alert]")
    assert "mesh_file.not_a_mesh" in card.inner_text()
    assert "download.obj" in card.inner_text()
    assert "Traceback" not in page.content()
    assert page.title() == "geo3d workbench"
    page.get_by_role("button", name="Match", exact=True).click()
    journey.status("viewer.missing_shape")
    journey.check_clean()


def test_a_running_job_can_be_cancelled(journey: Journey, tmp_path: Path) -> None:
    page = journey.page
    large = bumpy_sphere(5)
    journey.upload("source", save_mesh(large, tmp_path / "large_a.ply"))
    journey.upload("target", save_mesh(permuted(large)[0], tmp_path / "large_b.ply"))
    page.get_by_role("button", name="Match", exact=True).click()
    folder = journey.runs / "jobs" / journey.job_id()
    journey.wait_until(lambda: (folder / "started.json").exists(), "the job's process")
    page.get_by_role("button", name="Cancel", exact=True).click()
    journey.status("cancelled")
    assert "large_a → large_b" in page.inner_text("#match-status")
    job = read_job(folder)
    assert job is not None
    assert job.state == "cancelled"
    journey.wait_until(lambda: not _processes_of(folder), "the end of the job's process")
    assert page.get_by_role("button", name="Match", exact=True).is_enabled()
    journey.check_clean()


@pytest.mark.slow
def test_the_map_is_seen_while_the_prior_improves_it(journey: Journey) -> None:
    page = journey.page
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="diffumatch").click()
    page.locator("#match-estimate").get_by_text(METHOD_HINTS["diffumatch"]).wait_for()
    page.get_by_role("button", name="Match", exact=True).click()
    journey.status("optimisation")
    page.locator("#fmap").get_by_text("as it is now").wait_for()
    shown = page.locator("#fmap img").get_attribute("src")
    journey.wait_until(
        lambda: page.locator("#fmap img").get_attribute("src") != shown, "the next picture"
    )
    journey.status("done")
    page.locator("#fmap").get_by_text("final map").wait_for()
    journey.check_clean()


@pytest.mark.slow
def test_linked_cameras_turn_together(journey: Journey) -> None:
    page = journey.page
    journey.see_two_shapes()

    def turned_by(drag: float) -> tuple[float, float]:
        before = [journey.pixels(side) for side in ("source", "target")]
        box = journey.pane("source").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + drag, y, steps=8)
        page.mouse.up()
        journey.wait_until(
            lambda: np.abs(journey.pixels("source") - before[0]).mean() > 0.5, "the turn"
        )
        page.wait_for_timeout(1000)
        now = [journey.pixels(side) for side in ("source", "target")]
        source, target = (float(np.abs(a - b).mean()) for a, b in zip(now, before, strict=True))
        return source, target

    assert turned_by(150)[1] > 0.5
    page.locator("#match-panes").get_by_label("Link cameras").uncheck()
    assert turned_by(-100)[1] == 0
    journey.check_clean()


@pytest.mark.slow
def test_keys_alone_are_enough(journey: Journey) -> None:
    page = journey.page
    page.get_by_role("tab", name="Match", exact=True).focus()

    def go_to(label: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            here = page.evaluate(
                "(e => e.getAttribute('aria-label') || e.closest('label')?.innerText"
                " || e.innerText || '')(document.activeElement)"
            )
            if here.strip() == label:
                return
        raise AssertionError(f"{label} cannot be reached by Tab")

    go_to("Example pair")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    journey.wait_until(lambda: "biped2" not in page.inner_text("#card-target"), "another example")
    go_to("Match")
    page.keyboard.press("Enter")
    journey.status("running")
    go_to("Cancel")
    page.keyboard.press("Enter")
    journey.status("cancelled")
    go_to("Link cameras")
    page.keyboard.press("Space")
    assert not page.locator("#match-panes").get_by_label("Link cameras").is_checked()
    journey.check_clean()


def _processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in (process.info["cmdline"] or []):
            found.append(process)
    return found
