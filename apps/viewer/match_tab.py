"""The tab "Match": two meshes in, a dense correspondence out.

The page remembers a job by its id only (in the address, ``?job=ID``); everything shown about it is
read from the job's folder, so a refreshed or second page shows the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments, match_job
from apps.viewer.job_parts import checked_seed
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    Updates,
    downloads_box,
    file_box,
    link_box,
    mesh_pane,
)
from apps.viewer.match_result import MATCHED, legend, read_result, write_views
from apps.viewer.shapes import (
    MESH_TYPES,
    TRUTH_TYPES,
    Shape,
    example_pairs,
    example_shape,
    upload_to_shape,
)
from geo3d.errors import Geo3dError, InputError
from shape_matching.config import PRESETS
from shape_matching.method_names import METHOD_HINTS

CAMERA = (60, 75, None)
"""Where both panes look from at first: azimuth and elevation in degrees, distance to fit."""
KIND = "match"


class MatchTab:
    """Components of the tab and what happens when they are used."""

    def __init__(self, jobs: Jobs, scratch: Path) -> None:
        self._jobs = jobs
        self._scratch = scratch
        self._examples = example_pairs()
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340, elem_classes="g3-controls"):
                self._build_controls()
            with gr.Column(scale=5, min_width=480):
                self._build_panes()
        self._wire()

    def _build_controls(self) -> None:
        self.example = gr.Dropdown(["", *self._examples], label="Example pair", elem_id="example")
        self.files, self.cards, self.shapes = [], [], []
        for side in ("source", "target"):
            self.files.append(
                file_box(
                    f"{side.capitalize()} mesh ({', '.join(t[1:] for t in MESH_TYPES)})",
                    MESH_TYPES,
                    f"file-{side}",
                )
            )
            self.cards.append(gr.HTML(elem_id=f"card-{side}"))
            self.shapes.append(gr.State(None))
        with gr.Accordion("Ground truth (optional)", open=False):
            self.truth = file_box(
                "One .txt (0-based source vertex per line), or one .vts per shape",
                TRUTH_TYPES,
                "file-truth",
                file_count="multiple",
            )
        methods, presets = list(match_job.METHODS), list(PRESETS)
        with gr.Row():
            self.method = gr.Dropdown(methods, value=methods[0], label="Method", min_width=150)
            self.preset = gr.Dropdown(presets, value=presets[0], label="Preset", min_width=150)
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        self.estimate = gr.HTML(elem_id="estimate")
        self.controls = JobControls(self._jobs, KIND, "Match")

    def _build_panes(self) -> None:
        with gr.Row(elem_classes="g3-tools"):
            self.coloring = gr.Radio(
                [MATCHED],
                value=MATCHED,
                label="Colours",
                show_label=False,
                container=False,
                visible=False,
                elem_id="coloring",
            )
            link_box(elem_id="link-cameras")
        with gr.Row():
            self.panes = [
                mesh_pane(side.capitalize(), f"pane-{side}", CAMERA, 460)
                for side in ("source", "target")
            ]
        self.legend = gr.HTML(elem_id="legend")
        self.result = gr.HTML(elem_id="result")
        self.map = gr.HTML(elem_id="fmap")
        # Which picture of the map the page has, so that it is sent once.
        self.map_shown = gr.State("")
        self.downloads = downloads_box(
            "map (target vertex → source vertex, 0-based) and coloured shapes"
        )

    def _wire(self) -> None:
        choice = [self.method, self.preset]
        outcome = [self.coloring, *self.panes, self.legend, self.result, self.downloads]
        pictured = [self.map, self.map_shown]
        page = [*outcome, *pictured, *self.controls.outputs]
        loaded = [*self.shapes, *self.cards, *page, self.estimate]
        self.example.input(self._pick, [self.example, *choice], [*loaded, *self.files], **QUIET)
        for i, file in enumerate(self.files):
            file.upload(
                lambda upload, *rest, i=i: self._upload(i, upload, *rest),
                [file, *self.shapes, *choice],
                [*loaded, file, self.example],
                **QUIET,
            )
            file.clear(
                lambda *rest, i=i: self._clear(i, *rest), [*self.shapes, *choice], loaded, **QUIET
            )
        for chooser in choice:
            chooser.change(self._estimate, [*self.shapes, *choice], self.estimate, **QUIET)
        inputs = [*self.shapes, *choice, self.seed, self.truth]
        self.controls.run.click(self._start, inputs, page, **QUIET)
        self.controls.wire(
            self._show,
            outcome,
            self._picture,
            pictured,
            shown_with=[self.coloring],
            watched_with=[self.map_shown],
        )
        asked, colored = [self.controls.job_id, self.coloring], [*self.panes, self.legend]
        self.coloring.input(self._recolor, asked, colored, **QUIET)
        self.attach_outputs = [*loaded, *choice, self.seed, *self.files, self.example]

    def attach(self, request: gr.Request) -> Updates:
        """Show the job that the page's address names; without one, the first example."""
        job_id = str(request.query_params.get("job", ""))
        if not job_id:
            return self._first_example()
        try:
            job = self._jobs.get(job_id)
            if job.settings.get("kind") != KIND:
                # Another tab shows it.
                return self._first_example()
            shapes = match_job.shapes_of(job, self._scratch)
        except Geo3dError as error:
            return self.controls.refused(error)
        updates = self._loaded(shapes, str(job.settings["method"]), str(job.settings["preset"]))
        updates |= {self.method: job.settings["method"], self.preset: job.settings["preset"]}
        updates |= {self.seed: job.settings["seed"]}
        return updates | self.controls.started(job) | self._picture(job, "")

    def _first_example(self) -> Updates:
        if not self._examples:
            return {self.estimate: fragments.note("Choose two meshes to begin.")}
        first = next(iter(self._examples))
        updates = self._pick(first, match_job.METHODS[0], next(iter(PRESETS)))
        return updates | {self.example: first}

    def _pick(self, title: str, method: str, preset: str) -> Updates:
        empty = dict.fromkeys(self.files)
        if title not in self._examples:
            return self._loaded((None, None), method, preset) | empty
        shapes = [example_shape(name, self._scratch) for name in self._examples[title]]
        return self._loaded(shapes, method, preset) | empty

    def _upload(
        self, side: int, upload: str, source: Shape, target: Shape, method: str, preset: str
    ) -> Updates:
        shapes: list[Shape | None] = [source, target]
        try:
            shapes[side] = upload_to_shape(Path(upload), self._scratch)
        except Geo3dError as error:
            shapes[side] = None
            card = fragments.error_card(error, about=Path(upload).name)
            # The box is emptied, so that the next try is one click away.
            refused = {self.cards[side]: card, self.files[side]: None, self.example: ""}
            return self._loaded(shapes, method, preset) | refused
        return self._loaded(shapes, method, preset) | {self.example: ""}

    def _clear(self, side: int, source: Shape, target: Shape, method: str, preset: str) -> Updates:
        shapes: list[Shape | None] = [source, target]
        shapes[side] = None
        return self._loaded(shapes, method, preset)

    def _loaded(self, shapes: Sequence[Shape | None], method: str, preset: str) -> Updates:
        """Show shapes that have no result yet."""
        updates = self._no_result() | self.controls.idle()
        updates[self.estimate] = self._estimate(shapes[0], shapes[1], method, preset)
        for shape, state, card, pane in zip(
            shapes, self.shapes, self.cards, self.panes, strict=True
        ):
            updates[state] = shape
            updates[card] = _card(shape)
            updates[pane] = shape.view if shape else None
        return updates

    def _no_result(self) -> Updates:
        return {
            self.coloring: gr.Radio(visible=False),
            self.legend: "",
            self.result: "",
            self.map: "",
            self.map_shown: "",
            self.downloads: gr.File(value=None, visible=False),
        }

    def _estimate(
        self, source: Shape | None, target: Shape | None, method: str, preset: str
    ) -> str:
        hint = fragments.note(f"{method}: {METHOD_HINTS.get(method, '')}")
        if source is None or target is None:
            return hint + fragments.note("Choose two meshes to begin.")
        n = source.n_vertices + target.n_vertices
        seconds = match_job.estimate_s(self._jobs, match_job.Settings(method, preset, 0), n)
        return hint + fragments.note(
            f"Expected time: about {fragments.age(seconds)} on this machine."
        )

    def _start(
        self,
        source: Shape | None,
        target: Shape | None,
        method: str,
        preset: str,
        seed: float | None,
        truth: list[str] | None,
    ) -> Updates:
        def submit() -> Job:
            settings = _checked_settings(method, preset, seed)
            if source is None or target is None:
                raise InputError(
                    "viewer.missing_shape",
                    f"There is no {'source' if source is None else 'target'} mesh.",
                    "Upload one, or pick an example pair.",
                )
            files = [Path(path) for path in truth or ()]
            return match_job.submit(self._jobs, source, target, settings, files)

        return self.controls.start(submit, self._no_result())

    def _picture(self, job: Job, shown: str) -> Updates:
        """Show the newest functional map, unless the page has it."""
        picture = match_job.map_picture(job)
        name = f"{picture[0]}-{job.ended}" if picture else ""
        if picture is None or name == shown:
            return {}
        return {
            self.map: fragments.map_figure(picture[1], not job.ended),
            self.map_shown: name,
        }

    def _show(self, job_id: str, coloring: str) -> Updates:
        job = self._jobs.get(job_id)
        result = read_result(job)
        chosen = coloring if coloring in result.colorings else MATCHED
        files = match_job.downloads(job, result, self._scratch)
        return {
            self.coloring: gr.Radio(choices=result.colorings, value=chosen, visible=True),
            self.result: match_job.result_card(job, result),
            self.downloads: gr.File(value=files, visible=True),
        } | self._recolor(job_id, chosen)

    def _recolor(self, job_id: str, coloring: str) -> Updates:
        job = self._jobs.get(job_id)
        result = read_result(job)
        if coloring not in result.colorings:
            return _nothing(self.legend)
        views = write_views(result, coloring, self._scratch / "views" / job.id)
        source, target = self.panes
        return {
            source: str(views[0]),
            target: str(views[1]),
            self.legend: legend(result, coloring),
        }


def _nothing(component: Any) -> Updates:
    """Return updates that change nothing; gradio does not take an empty mapping."""
    return {component: gr.skip()}


def _card(shape: Shape | None) -> str:
    if shape is None:
        return ""
    return fragments.mesh_card(shape.name, shape.n_vertices, shape.n_faces, shape.defects)


def _checked_settings(method: str, preset: str, seed: float | None) -> match_job.Settings:
    """Check again what the page offers: a request need not come from our page."""
    if method not in match_job.METHODS or preset not in PRESETS:
        raise InputError(
            "viewer.unknown_choice", "There is no such method or preset.", "Reload the page."
        )
    return match_job.Settings(method, preset, checked_seed(seed))
