"""The tab "Segment": a picture in, the mask of its mortar out, with its topology counted.

Like the tab "Match" it remembers a job by its id only; the rest is read from the job's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments, segment_job
from apps.viewer.job_parts import Upload, copied
from apps.viewer.job_tab import QUIET, JobControls, Updates, downloads_box, file_box
from apps.viewer.segment_job import NOTHING, SHIPPED, Request
from geo3d.errors import Geo3dError, InputError
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LEGEND = (
    "Overlays: every component of mortar is outlined and numbered, the largest first (green); "
    "other components are broken-off pieces. Holes, bricks that mortar goes all around, are "
    "outlined and numbered in blue. Loss maps: blue where a loss wants more mortar, red where it "
    "wants less."
)


class SegmentTab:
    """Components of the tab and what happens when they are used."""

    def __init__(self, jobs: Jobs, scratch: Path) -> None:
        self._jobs = jobs
        self._scratch = scratch
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340, elem_classes="g3-controls"):
                self._build_controls()
            with gr.Column(scale=5, min_width=480):
                self._build_panes()
        self._wire()

    def _build_controls(self) -> None:
        self.example = gr.Dropdown(
            ["", *segment_job.EXAMPLES], label="Example picture", elem_id="segment-example"
        )
        self.file = file_box("Picture (png, jpg, bmp, tif, webp)", PICTURE_TYPES, "segment-file")
        self.card = gr.HTML(elem_id="segment-card")
        self.picture = gr.State(None)
        names = list(segment_job.models(self._jobs))
        self.model = gr.Dropdown(names, value=SHIPPED, label="Model", elem_id="segment-model")
        self.compared = gr.Dropdown(
            [NOTHING, *names], value=NOTHING, label="Compare with", elem_id="segment-compared"
        )
        self.losses = gr.Dropdown(
            [(f"{name}: {hint}", name) for name, hint in LOSS_MAP_HINTS.items()],
            value=[],
            multiselect=True,
            max_choices=segment_job.MAX_LOSSES,
            label="Show the gradient maps of these losses",
            elem_id="segment-losses",
        )
        with gr.Accordion("Label for the loss maps (optional)", open=False):
            self.label_file = file_box(
                "PNG with 0 for brick and 255 for mortar", PICTURE_TYPES, "segment-label"
            )
            self.label_card = gr.HTML(elem_id="segment-label-card")
        self.label = gr.State(None)
        self.controls = JobControls(self._jobs, segment_job.KIND, "Segment")

    def _build_panes(self) -> None:
        self.choices, self.panes = [], []
        with gr.Row():
            for side in ("left", "right"):
                with gr.Column(min_width=240):
                    self.choices.append(
                        gr.Dropdown(
                            [],
                            label=f"Shown {side}",
                            visible=False,
                            interactive=True,
                            elem_id=f"segment-show-{side}",
                        )
                    )
                    self.panes.append(
                        gr.Image(
                            label=f"{side.capitalize()} picture",
                            type="filepath",
                            interactive=False,
                            height=460,
                            elem_id=f"segment-{side}",
                        )
                    )
        self.legend = gr.HTML(fragments.note(LEGEND))
        self.result = gr.HTML(elem_id="segment-result")
        self.downloads = downloads_box(
            "masks, probabilities, tables of regions", "segment-downloads"
        )

    def _wire(self) -> None:
        outcome = [*self.choices, *self.panes, self.result, self.downloads]
        page = [*outcome, *self.controls.outputs]
        inputs = [self.picture, self.card, self.label, self.label_card]
        files = [self.file, self.label_file, self.example]
        self.example.input(self._pick, self.example, [*inputs, *files, *page], **QUIET)
        self.file.upload(self._upload, self.file, [*inputs, *files, *page], **QUIET)
        self.file.clear(self._clear, None, [*inputs, *page], **QUIET)
        self.label_file.upload(
            self._upload_label,
            self.label_file,
            [self.label, self.label_card, self.label_file],
            **QUIET,
        )
        self.label_file.clear(lambda: (None, ""), None, [self.label, self.label_card], **QUIET)
        chosen = [self.picture, self.label, self.model, self.compared, self.losses]
        self.controls.run.click(self._start, chosen, page, **QUIET)
        self.controls.wire(self._show, outcome)
        for choice, pane in zip(self.choices, self.panes, strict=True):
            choice.input(self._view, [self.controls.job_id, choice], pane, **QUIET)
        choosers = [self.model, self.compared, self.losses]
        self.attach_outputs = [*inputs, *page, *choosers]

    def attach(self, request: gr.Request) -> Updates:
        """Show the segmentation that the page's address names, and the models there are now."""
        names = list(segment_job.models(self._jobs))
        updates: Updates = {
            self.model: gr.Dropdown(names),
            self.compared: gr.Dropdown([NOTHING, *names]),
        }
        job = self.controls.job_of(request)
        if job is None:
            return updates
        settings = job.settings
        inputs = job.folder / "inputs"
        try:
            picture = segment_job.keep_picture(inputs / "picture.png", self._scratch)
        except Geo3dError as error:
            return updates | self.controls.refused(error)
        shown = Upload(str(settings["picture"]), picture.path, picture.width, picture.height)
        return (
            updates
            | self.controls.started(job)
            | {
                self.picture: shown,
                self.card: _card(shown),
                self.model: gr.Dropdown(names, value=settings["model"]),
                self.compared: gr.Dropdown([NOTHING, *names], value=settings["compared"]),
                self.losses: settings["losses"],
            }
        )

    def _pick(self, title: str) -> Updates:
        if title not in segment_job.EXAMPLES:
            return self._loaded(None, None)
        picture, label = segment_job.example(title, self._scratch)
        empty = {self.file: None, self.label_file: None}
        return self._loaded(picture, label) | empty

    def _upload(self, upload: str) -> Updates:
        path = Path(upload)
        try:
            picture = segment_job.keep_picture(path, self._scratch)
        except Geo3dError as error:
            card = fragments.error_card(error, about=path.name)
            # The box is emptied, so that the next try is one click away.
            return self._loaded(None, None) | {self.card: card, self.file: None, self.example: ""}
        return self._loaded(picture, None) | {self.example: "", self.label_file: None}

    def _clear(self) -> Updates:
        return self._loaded(None, None)

    def _upload_label(self, upload: str) -> Updates:
        path = Path(upload)
        try:
            label = segment_job.keep_label(path, self._scratch)
        except Geo3dError as error:
            card = fragments.error_card(error, about=path.name)
            return {self.label: None, self.label_card: card, self.label_file: None}
        return {self.label: label, self.label_card: _card(label)}

    def _loaded(self, picture: Upload | None, label: Upload | None) -> Updates:
        """Show a picture that has no result yet; a job shown before goes on without this page."""
        left, right = self.panes
        shown = {
            self.picture: picture,
            self.card: _card(picture),
            self.label: label,
            self.label_card: _card(label),
            left: picture.path if picture else None,
            right: None,
        }
        return self._no_result() | self.controls.idle() | shown

    def _no_result(self) -> Updates:
        hidden = {choice: gr.Dropdown(visible=False) for choice in self.choices}
        return hidden | {self.result: "", self.downloads: gr.File(value=None, visible=False)}

    def _start(
        self,
        picture: Upload | None,
        label: Upload | None,
        model: str,
        compared: str,
        losses: Sequence[str] | None,
    ) -> Updates:
        def submit() -> Job:
            if picture is None:
                raise InputError(
                    "viewer.missing_picture",
                    "There is no picture.",
                    "Upload one, or pick an example.",
                )
            request = Request(model, compared, tuple(losses or ()))
            return segment_job.submit(self._jobs, picture, label, request)

        return self.controls.start(submit, self._no_result())

    def _show(self, job_id: str) -> Updates:
        job = self._jobs.get(job_id)
        titles = list(segment_job.views(job))
        updates: Updates = {
            self.result: segment_job.result_card(job),
            self.downloads: gr.File(value=segment_job.downloads(job, self._scratch), visible=True),
        }
        shown = segment_job.first_views(titles)
        for choice, pane, title in zip(self.choices, self.panes, shown, strict=True):
            updates[choice] = gr.Dropdown(titles, value=title, visible=True)
            updates[pane] = self._view(job_id, title)
        return updates

    def _view(self, job_id: str, title: str) -> Any:
        """Return our copy of one picture of a job, for a pane."""
        found = segment_job.views(self._jobs.get(job_id))
        if title not in found:
            return gr.skip()
        return copied(found[title], self._scratch / "views" / job_id / found[title].name)


def _card(upload: Upload | None) -> str:
    if upload is None:
        return ""
    size = f"{upload.width} x {upload.height} pixels"
    return fragments.facts_card(
        [("Picture", upload.name, size), ("Size", size, "")], upload.notes, ""
    )
