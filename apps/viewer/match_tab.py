"""The tab "Match": two meshes in, a dense correspondence out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments, match_job
from apps.viewer.job_parts import checked_seed, unknown_choice
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    JobTab,
    Updates,
    downloads_box,
    file_box,
    link_box,
    mesh_pane,
    seed_box,
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


class MatchTab(JobTab):
    """Components of the tab and what happens when they are used."""

    kind = "match"

    def _build_inputs(self) -> None:
        self._examples = example_pairs()
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
        self.seed = seed_box()
        self.settings = {"method": self.method, "preset": self.preset, "seed": self.seed}
        self.estimate = gr.HTML(elem_id="estimate")
        self.controls = JobControls(self._jobs, self.kind, "Match")

    def _build_result(self) -> None:
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
        # Which image of the map the page has, so that it is sent once.
        self.map_shown = gr.State("")
        self.downloads = downloads_box(
            "map (target vertex → source vertex, 0-based) and coloured shapes"
        )

    def _wire(self) -> None:
        choice = [self.method, self.preset]
        loaded = self._connect(
            [*self.shapes, *self.settings.values(), self.truth],
            [*self.shapes, *self.cards, self.estimate],
            [self.coloring, *self.panes, self.legend],
            [self.map, self.map_shown],
            [self.coloring, self.map_shown],
        )
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
        asked, colored = [self.controls.job_id, self.coloring], [*self.panes, self.legend]
        self.coloring.input(self._recolor, asked, colored, **QUIET)
        self.attach_outputs += [*self.files, self.example]

    def attach(self, request: gr.Request) -> Updates:
        """Show the job that the page's address names, or that there is none."""
        try:
            if job_id := str(request.query_params.get("job", "")):
                self._jobs.get(job_id)
        except Geo3dError as error:
            return self.controls.refused(error)
        return super().attach(request)

    def _reopened(self, job: Job) -> Updates:
        shapes = match_job.shapes_of(job, self._scratch)
        method, preset = str(job.settings["method"]), str(job.settings["preset"])
        return self._loaded(shapes, method, preset) | self._watch(job, "", "")

    def _first(self) -> Updates:
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
        emptied = dict.fromkeys([self.legend, self.map, self.map_shown], "")
        return super()._no_result() | emptied | {self.coloring: gr.Radio(visible=False)}

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

    def _submit(
        self,
        source: Shape | None,
        target: Shape | None,
        method: str,
        preset: str,
        seed: float | None,
        truth: list[str] | None,
    ) -> Job:
        if method not in match_job.METHODS or preset not in PRESETS:
            raise unknown_choice("method or preset")
        settings = match_job.Settings(method, preset, checked_seed(seed))
        if source is None or target is None:
            raise InputError(
                "viewer.missing_shape",
                f"There is no {'source' if source is None else 'target'} mesh.",
                "Upload one, or pick an example pair.",
            )
        files = [Path(path) for path in truth or ()]
        return match_job.submit(self._jobs, source, target, settings, files)

    def _watch(self, job: Job, _: str, shown: str) -> Updates:
        """Show the newest functional map, unless the page has it."""
        picture = match_job.map_picture(job)
        name = f"{picture[0]}-{job.ended}" if picture else ""
        if picture is None or name == shown:
            return {}
        return {
            self.map: fragments.map_figure(picture[1], not job.ended),
            self.map_shown: name,
        }

    def _outcome(self, job: Job, coloring: str, _: str = "") -> tuple[str, Sequence[str], Updates]:
        result = read_result(job)
        chosen = coloring if coloring in result.colorings else MATCHED
        radio = gr.Radio(choices=result.colorings, value=chosen, visible=True)
        files = match_job.downloads(job, result, self._scratch)
        shown = {self.coloring: radio} | self._recolor(job.id, chosen)
        return match_job.result_card(job, result), files, shown

    def _recolor(self, job_id: str, coloring: str) -> Updates:
        job = self._jobs.get(job_id)
        result = read_result(job)
        if coloring not in result.colorings:
            # gradio does not take an empty mapping
            return {self.legend: gr.skip()}
        views = write_views(result, coloring, self._scratch / "views" / job.id)
        source, target = self.panes
        return {
            source: str(views[0]),
            target: str(views[1]),
            self.legend: legend(result, coloring),
        }


def _card(shape: Shape | None) -> str:
    if shape is None:
        return ""
    return fragments.mesh_card(shape.name, shape.n_vertices, shape.n_faces, shape.defects)
