"""The tab "Match": two meshes in, a dense correspondence out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.report.shapes import Group, model_of, page_sized
from apps.viewer import fragments, match_job
from apps.viewer.estimates import estimate_note, expected
from apps.viewer.job_parts import checked_seed, unknown_choice
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    JobTab,
    Updates,
    downloads_box,
    file_box,
    read_each,
    seed_box,
)
from apps.viewer.match_result import read_result, shapes_group
from apps.viewer.panes import pane_box, panes
from apps.viewer.shapes import (
    MESH_TYPES,
    TRUTH_TYPES,
    Shape,
    example_pairs,
    example_shape,
    upload_to_shape,
)
from geo3d.errors import Geo3dError, InputError
from geo3d.mesh.io import load_mesh
from shape_matching.config import PRESETS
from shape_matching.method_names import METHOD_HINTS

MOST_VERTICES = 100_000
"""Of a shape on which landmarks can be set: larger ones are simplified for the panes."""
TAKE_LANDMARKS = "() => [window.geo3dLandmarks]"
"""What panes.js left for the server, in place of what is in the box."""


class MatchTab(JobTab):
    """Components of the tab and what happens when they are used."""

    kind = "match"

    def _build_inputs(self) -> None:
        self._examples = example_pairs()
        self.example = gr.Dropdown(["", *self._examples], label="Example pair", elem_id="example")
        self.files, self.cards, self.shapes = [], [], []
        for side in ("source", "target"):
            types = ", ".join(t[1:] for t in MESH_TYPES)
            several = "Target mesh, or several" if side == "target" else "Source mesh"
            count = "multiple" if side == "target" else "single"
            self.files.append(
                file_box(f"{several} ({types})", MESH_TYPES, f"file-{side}", file_count=count)
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
            self.method = gr.Dropdown(methods, value=methods[0], label="Method", min_width=110)
            self.preset = gr.Dropdown(presets, value=presets[0], label="Preset", min_width=100)
            self.seed = seed_box(min_width=70)
        self.settings = {"method": self.method, "preset": self.preset, "seed": self.seed}
        self.landmarks = gr.State([])
        # panes.js presses it when landmarks were set; hidden and not absent, so that it can.
        self.landmarked = gr.Button(visible="hidden", elem_id="match-landmarked")
        self.message = gr.Textbox(visible="hidden")
        self.controls = JobControls(self._jobs, self.kind, "Match")
        self.estimate = self.controls.estimate

    def _build_result(self) -> None:
        self.panes = pane_box("match-panes")
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
            [*self.shapes, *self.settings.values(), self.truth, self.landmarks],
            [*self.shapes, *self.cards, self.estimate, self.landmarks],
            [self.panes],
            [self.map, self.map_shown],
            [self.map_shown],
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
        marked = [self.landmarks, self.controls.status]
        self.landmarked.click(
            self._mark, self.message, marked, js=TAKE_LANDMARKS, trigger_mode="multiple", **QUIET
        )
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
        marks = [tuple(row) for row in job.settings.get("landmarks") or ()]
        shown = {
            self.landmarks: marks,
            self.panes: self._shapes(shapes, str(job.settings.get("pair", "")), marks),
        }
        return self._loaded(shapes, method, preset) | shown | self._watch(job, "")

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
        self,
        side: int,
        upload: str | Sequence[str],
        source: Shape,
        target: Shape,
        method: str,
        preset: str,
    ) -> Updates:
        shapes: list[Shape | None] = [source, target]
        found, cards = read_each(upload, lambda path: upload_to_shape(path, self._scratch))
        shapes[side] = found[0] if found else None
        done = self._loaded(shapes, method, preset) | {self.example: ""}
        if side:
            done[self.more] = found[1:]
        done[self.cards[side]] = done[self.cards[side]] + cards
        # Where nothing could be read the box is emptied, so that the next try is one click away.
        return done if found else done | {self.files[side]: None}

    def _clear(self, side: int, source: Shape, target: Shape, method: str, preset: str) -> Updates:
        shapes: list[Shape | None] = [source, target]
        shapes[side] = None
        return self._loaded(shapes, method, preset)

    def _loaded(self, shapes: Sequence[Shape | None], method: str, preset: str) -> Updates:
        """Show shapes that have no result yet."""
        updates = self._no_result() | self.controls.idle()
        updates[self.estimate] = self._estimate(shapes[0], shapes[1], method, preset)
        for shape, state, card in zip(shapes, self.shapes, self.cards, strict=True):
            updates[state] = shape
            updates[card] = _card(shape)
        both = [shape for shape in shapes if shape is not None]
        key = match_job.pair_key(both[0], both[1]) if len(both) > 1 else ""
        shown = self._shapes(shapes, key, [])
        return updates | {self.more: [], self.landmarks: [], self.panes: shown}

    def _shapes(
        self, shapes: Sequence[Shape | None], key: str, marks: Sequence[tuple[int, int]]
    ) -> str:
        """Return the panes of the shapes that are there; landmarks can be set on two."""
        models = [
            page_sized(model_of(load_mesh(shape.path), title))
            for shape, title in zip(shapes, ("Source", "Target"), strict=True)
            if shape is not None
        ]
        if not models:
            return ""
        whole = all(s is None or s.n_vertices < MOST_VERTICES for s in shapes)
        set_marks = marks if len(models) > 1 and whole else None
        return panes(Group(models, False), self._scratch, "match", key, marks=set_marks)

    def _mark(self, message: str) -> Updates:
        """Keep landmarks that were set in the panes."""
        try:
            return {self.landmarks: match_job.read_landmarks(message)}
        except Geo3dError as error:
            return self.controls.refused(error)

    def _no_result(self) -> Updates:
        return super()._no_result() | dict.fromkeys([self.map, self.map_shown], "")

    def _estimate(
        self, source: Shape | None, target: Shape | None, method: str, preset: str
    ) -> str:
        hint = fragments.note(f"{method}: {METHOD_HINTS.get(method, '')}")
        if source is None or target is None:
            return hint + fragments.note("Choose two meshes to begin.")
        n = source.n_vertices + target.n_vertices
        guess = match_job.guess(match_job.Settings(method, preset, 0), n)
        return hint + estimate_note(expected(self._jobs, guess))

    def _another(self, values: Sequence[Any], item: Any) -> Sequence[Any]:
        """Return another target; what was told about the first one is not true of it."""
        source, _, *settings = values[: 2 + len(self.settings)]
        return [source, item, *settings, None, None]

    def _submit(
        self,
        source: Shape | None,
        target: Shape | None,
        method: str,
        preset: str,
        seed: float | None,
        truth: list[str] | None,
        landmarks: Sequence[Sequence[int]] | None = None,
    ) -> Job:
        if method not in match_job.METHODS or preset not in PRESETS:
            raise unknown_choice("method or preset")
        marks = tuple((int(a), int(b)) for a, b in landmarks or ())
        settings = match_job.Settings(method, preset, checked_seed(seed), marks)
        if source is None or target is None:
            raise InputError(
                "viewer.missing_shape",
                f"There is no {'source' if source is None else 'target'} mesh.",
                "Upload one, or pick an example pair.",
            )
        files = [Path(path) for path in truth or ()]
        return match_job.submit(self._jobs, source, target, settings, files)

    def _watch(self, job: Job, shown: str) -> Updates:
        """Show the newest functional map, unless the page has it."""
        picture = match_job.map_picture(job)
        name = f"{picture[0]}-{job.ended}" if picture else ""
        if picture is None or name == shown:
            return {}
        return {
            self.map: fragments.map_figure(picture[1], not job.ended),
            self.map_shown: name,
        }

    def _outcome(self, job: Job, _: str = "") -> tuple[str, Sequence[str], Updates]:
        result = read_result(job)
        marks = job.settings.get("landmarks") or ()
        key = str(job.settings.get("pair", ""))
        shown = panes(shapes_group(result), self._scratch, "match", key, marks=marks)
        files = match_job.downloads(job, result, self._scratch)
        return match_job.result_card(job, result), files, {self.panes: shown}

    def _python(self, job: Job) -> Sequence[str]:
        return match_job.python_lines(job)


def _card(shape: Shape | None) -> str:
    if shape is None:
        return ""
    return fragments.mesh_card(shape.name, shape.n_vertices, shape.n_faces, shape.defects)
