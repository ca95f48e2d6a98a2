"""A headless Chromium for the tests that go through the workbench as a person does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from geo3d.backends import chromium_path

FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HARMLESS = re.compile(
    r"WebGPU|No available adapters|postProcessManager|^BJS - "
    r"|^AbortError: signal is aborted"
    r"|^Unexpected error (Connection errored out|Cancelled via cancel scope)|network error$"
    r"|net::ERR_INCOMPLETE_CHUNKED_ENCODING"
)
"""What 3D panes say where there is no GPU (they go on with WebGL), and when their shape is
replaced, or the page left, while its shaders are still being compiled; and what the page says
when it is loaded anew while it still listens to the server, as journeys do on purpose."""


def keep(page: Any, name: str) -> None:
    """Keep an image for whoever wants to look: GEO3D_SHOTS names a folder."""
    if folder := os.environ.get("GEO3D_SHOTS"):
        page.screenshot(path=str(Path(folder) / name))


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; skip where there is none, except under CI, where that is a failure."""
    program = chromium_path()
    if program is None:
        reason = "no chromium found; install it or set GEO3D_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def watched_page(url: str, patience_ms: float) -> Iterator[Any]:
    """Yield the workbench's page, ready; at the end nothing may have gone wrong on it, and nothing
    may have been asked of another server."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(patience_ms)
        errors: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("#card-target .g3-card")
        yield page
        harmful = [error for error in errors if not HARMLESS.search(error)]
        assert not harmful, f"the page said: {harmful}"
        foreign = [u for u in asked if not u.startswith((url, "data:", "blob:"))]
        assert not foreign, f"the page asked for {foreign}"
