"""The workbench: a Gradio page served to this machine.

What is switched off or limited, and why, is listed in docs/viewer.md.  The environment is set
before gradio is imported, because it reads it then.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")

import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.staticfiles import StaticFiles

from apps.jobs import Jobs
from apps.report.page import panes_code
from apps.viewer import panes, results
from apps.viewer.generate_tab import GenerateTab
from apps.viewer.guard import App, Rules, guarded
from apps.viewer.job_parts import fresh
from apps.viewer.job_tab import QUIET, JobTab
from apps.viewer.jobs_tab import JobsTab
from apps.viewer.match_tab import MatchTab
from apps.viewer.runs_tab import RunsTab
from apps.viewer.scene_tab import SceneTab
from apps.viewer.segment_tab import SegmentTab
from geo3d.errors import Geo3dError
from geo3d.files import slug

HERE = Path(__file__).resolve().parent
SCRIPTS = ("panes.js", "viewer.js", "strokes.js")
STYLES = (HERE.parent / "report" / "panes.css", HERE / "style.css")
WORKER = "apps.viewer.worker"
MAX_UPLOAD = "64mb"
CACHE_AGE_S = 24 * 3600
"""Copies of uploads and results for the browser are removed after this; jobs are never."""
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
TABS: tuple[type[JobTab], ...] = (MatchTab, SegmentTab, GenerateTab, SceneTab)
HEADER = '<div class="g3-head"><h1>geo3d</h1><span class="g3-dim">workbench</span></div>'


def build(jobs: Jobs, scratch: Path) -> gr.Blocks:
    """Return the page; ``scratch`` is a folder for what the browser is shown."""
    page = gr.Blocks(
        title="geo3d workbench",
        analytics_enabled=False,
        delete_cache=(3600, CACHE_AGE_S),
        fill_width=True,
    )
    with page:
        gr.HTML(HEADER)
        with gr.Tabs() as tabs:
            made = []
            for tab in TABS:
                with gr.Tab(tab.kind.capitalize(), id=tab.kind):
                    made.append(tab(jobs, scratch))
            with gr.Tab("Jobs", id="jobs") as jobs_page:
                listing = JobsTab(jobs)
            with gr.Tab("Runs", id="runs") as runs_page:
                gallery = RunsTab(jobs, scratch)
        runs_page.select(
            gallery.render,
            [gallery.words, gallery.verb, gallery.tag],
            gallery.shown,
            **QUIET,
        )
        jobs_page.select(
            lambda: (listing.render(), gr.Timer(active=True)),
            None,
            [listing.table, listing.timer],
            **QUIET,
        )
        for tab in made:
            page.load(tab.attach, None, tab.attach_outputs, **QUIET)
            page.load(tab.controls.select_tab, None, tabs, **QUIET)
    page.queue(max_size=32, default_concurrency_limit=4, api_open=False)
    return page


def application(page: gr.Blocks, rules: Rules, jobs: Jobs, scratch: Path) -> App:
    """Return what is served: the page, its shapes and its results, behind ``rules``."""
    whole = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    groups = scratch / panes.FOLDER
    groups.mkdir(exist_ok=True)
    whole.mount(f"/{panes.ADDRESS}", StaticFiles(directory=groups))

    @whole.get(f"/{results.ADDRESS}/{{job_id}}.zip")
    def everything(job_id: str) -> Response:
        try:
            job = jobs.get(job_id)
            path = results.pack(job, fresh(scratch, "zips") / f"{slug(job.title, 60)}.zip")
        except Geo3dError as error:
            return JSONResponse({"detail": error.message}, status_code=404)
        return FileResponse(path, filename=path.name, background=BackgroundTask(path.unlink))

    gr.mount_gradio_app(
        whole,
        page,
        path="",
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={"exception_handlers": dict.fromkeys((KeyError, IndexError), _unknown_function)},
        theme=_theme(),
        css_paths=list(STYLES),
        js=_scripts(),
    )
    return guarded(whole, rules)


def _scripts() -> str:
    """Return what runs once when the page opens."""
    parts = [(HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    shared = f"window.geo3dOpenShapes = ({panes_code()})();\n"
    return "() => {\n" + shared + "\n".join(f"({part.rstrip()})();" for part in parts) + "\n}"


def _unknown_function(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that names a function or event that the page does not have."""
    return JSONResponse({"detail": "There is no such function."}, status_code=404)


def serve(
    host: str,
    port: int,
    runs: str,
    rules: Rules,
    *,
    max_running: int = 1,
    opened: Callable[[], object] = lambda: None,
) -> None:
    """Serve the workbench until SIGINT or SIGTERM; running jobs go on and are found again.

    Args:
        rules: who may ask; the folder of uploads is filled in here.
        opened: called once the page can be asked for.
    """
    worker = (sys.executable, "-m", WORKER)
    with tempfile.TemporaryDirectory(prefix="geo3d-viewer-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        jobs = Jobs(Path(runs) / "jobs", max_running=max_running, worker=worker)
        page = build(jobs, Path(folder))
        app = application(page, replace(rules, uploads=Path(folder)), jobs, Path(folder))
        config = uvicorn.Config(
            app, host, port, log_level="warning", timeout_graceful_shutdown=2, server_header=False
        )
        try:
            _Server(config, opened).run()
        finally:
            page.close(verbose=False)
            jobs.close()


class _Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, opened: Callable[[], object]) -> None:
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._opened()


def _theme() -> gr.themes.Base:
    """Return a quiet theme that fetches no fonts."""
    theme = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="md",
        font=SYSTEM_FONTS,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    return theme.set(
        body_background_fill="*neutral_50",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
    )
