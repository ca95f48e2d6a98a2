"""The tab "Segment": an image in, the mask of its mortar out, with its topology counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments, segment_job
from apps.viewer.image_tab import ImageTab, image_card, needed
from apps.viewer.job_parts import Upload, copied
from apps.viewer.job_tab import QUIET, JobControls, Updates, downloads_box, file_box
from apps.viewer.segment_job import NOTHING, SHIPPED, Request
from geo3d.errors import Geo3dError
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LEGEND = (
    "Overlays: every component of mortar is outlined and numbered, the largest first (green); "
    "other components are broken-off pieces. Holes, bricks that mortar goes all around, are "
    "outlined and numbered in blue. Loss maps: blue where a loss wants more mortar, red where it "
    "wants less."
)


class SegmentTab(ImageTab):
    """Components of the tab and what happens when they are used."""

    kind, work = segment_job.KIND, segment_job

    def _build_inputs(self) -> None:
        self._build_image("Image (png, jpg, bmp, tif, webp)", IMAGE_TYPES)
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
        self.settings = {"model": self.model, "compared": self.compared, "losses": self.losses}
        with gr.Accordion("Label for the loss maps (optional)", open=False):
            self.label_file = file_box(
                "PNG with 0 for brick and 255 for mortar", IMAGE_TYPES, "segment-label"
            )
            self.label_card = gr.HTML(elem_id="segment-label-card")
        self.label = gr.State(None)
        self.controls = JobControls(self._jobs, self.kind, "Segment")

    def _build_result(self) -> None:
        self.choices, self.panes = [], []
        with gr.Row():
            for side in ("left", "right"):
                with gr.Column(min_width=240):
                    box = {"visible": False, "interactive": True}
                    self.choices.append(
                        gr.Dropdown(
                            [], label=f"Shown {side}", elem_id=f"segment-show-{side}", **box
                        )
                    )
                    self.panes.append(
                        gr.Image(
                            label=f"{side.capitalize()} image",
                            type="filepath",
                            interactive=False,
                            height=460,
                            elem_id=f"segment-{side}",
                        )
                    )
        gr.HTML(fragments.note(LEGEND))
        self.result = gr.HTML(elem_id="segment-result")
        self.downloads = downloads_box(
            "masks, probabilities, tables of regions", "segment-downloads"
        )

    def _wire(self) -> None:
        labels = [self.label, self.label_card, self.label_file]
        inputs = [self.image, self.label, *self.settings.values()]
        self._connect(inputs, labels, [*self.choices, *self.panes])
        self.label_file.upload(self._upload_label, self.label_file, labels, **QUIET)
        self.label_file.clear(lambda: (None, ""), None, labels[:2], **QUIET)
        for choice, pane in zip(self.choices, self.panes, strict=True):
            choice.input(self._view, [self.controls.job_id, choice], pane, **QUIET)

    def _choices(self) -> Updates:
        names = list(segment_job.models(self._jobs))
        return {self.model: names, self.compared: [NOTHING, *names]}

    def _upload_label(self, upload: str) -> Updates:
        path = Path(upload)
        try:
            label = segment_job.keep_label(path, self._scratch)
        except Geo3dError as error:
            card = fragments.error_card(error, about=path.name)
            return {self.label: None, self.label_card: card, self.label_file: None}
        return {self.label: label, self.label_card: image_card(label)}

    def _preview(self, image: Upload | None) -> Updates:
        left, right = self.panes
        label = image.label if image else None
        return {
            self.label: label,
            self.label_card: image_card(label),
            self.label_file: None,
            left: image.path if image else None,
            right: None,
        }

    def _no_result(self) -> Updates:
        hidden = {choice: gr.Dropdown(visible=False) for choice in self.choices}
        return super()._no_result() | hidden

    def _submit(
        self,
        image: Upload | None,
        label: Upload | None,
        model: str,
        compared: str,
        losses: Sequence[str] | None,
    ) -> Job:
        request = Request(model, compared, tuple(losses or ()))
        return segment_job.submit(self._jobs, needed(image), label, request)

    def _outcome(self, job: Job) -> tuple[str, Sequence[str], Updates]:
        titles = list(segment_job.views(job))
        updates: Updates = {}
        shown = segment_job.first_views(titles)
        for choice, pane, title in zip(self.choices, self.panes, shown, strict=True):
            updates[choice] = gr.Dropdown(titles, value=title, visible=True)
            updates[pane] = self._view(job.id, title)
        return segment_job.result_card(job), segment_job.downloads(job, self._scratch), updates

    def _view(self, job_id: str, title: str) -> Any:
        """Return our copy of one image of a job, for a pane."""
        found = segment_job.views(self._jobs.get(job_id))
        if title not in found:
            return gr.skip()
        return copied(found[title], self._scratch / "views" / job_id / found[title].name)
