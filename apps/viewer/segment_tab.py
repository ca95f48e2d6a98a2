"""The tab "Segment": an image in, the mask of its mortar out, with its topology counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments, segment_correct, segment_job
from apps.viewer.estimates import estimate_note, expected
from apps.viewer.image_tab import ImageTab, image_card, needed
from apps.viewer.job_parts import Upload, copied
from apps.viewer.job_tab import QUIET, JobControls, Updates, downloads_box, file_box
from apps.viewer.segment_correct import Correction
from apps.viewer.segment_job import NOTHING, SHIPPED, Request
from geo3d.errors import Geo3dError
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LEGEND = (
    "Overlays: every component of mortar is outlined and numbered, the largest first (green); "
    "other components are broken-off pieces. Holes, bricks that mortar goes all around, are "
    "outlined and numbered in blue. Loss maps: blue where a loss wants more mortar, red where it "
    "wants less. Repair: blue was added, red taken away, numbered as in the list of changes."
)
LOOK, CORRECT = "Look", "Correct by hand"
HELP = (
    "Paint with the mouse, a finger or a pen; two fingers or the wheel zoom. Keys on the image: "
    "J join, C cut, M move, [ and ] width, + and - zoom, arrows move the brush, Space begins and "
    "ends a stroke, Ctrl+Z undo, Ctrl+Y redo. Yellow: the largest component; red: others; blue: "
    "holes."
)
TAKE_STROKE = "(state, message) => [state, window.geo3dStrokes.shift()]"
"""What strokes.js left for the server, in place of what is in the box."""
IN_TURN: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": 1}
"""Strokes follow each other faster than they are answered; none may be lost."""


class SegmentTab(ImageTab):
    """Components of the tab and what happens when they are used."""

    kind, work = segment_job.KIND, segment_job

    def _build_inputs(self) -> None:
        self._build_image("Image (png, jpg, bmp, tif, webp)", IMAGE_TYPES)
        names = list(segment_job.models(self._jobs))
        box: dict[str, Any] = {"min_width": 120}
        with gr.Row():
            self.model = gr.Dropdown(
                names, value=SHIPPED, label="Model", elem_id="segment-model", **box
            )
            self.compared = gr.Dropdown(
                [NOTHING, *names],
                value=NOTHING,
                label="Compare with",
                elem_id="segment-compared",
                **box,
            )
        self.losses = gr.Dropdown(
            [(f"{name}: {hint}", name) for name, hint in LOSS_MAP_HINTS.items()],
            value=[],
            multiselect=True,
            max_choices=segment_job.MAX_LOSSES,
            label="Show the gradient maps of these losses",
            elem_id="segment-losses",
        )
        self.repair = gr.Checkbox(
            False,
            label="Repair: mend components and holes where that costs least probability",
            elem_id="segment-repair",
        )
        self.settings = {
            "model": self.model,
            "compared": self.compared,
            "losses": self.losses,
            "repair": self.repair,
        }
        with gr.Accordion("Label for the loss maps (optional)", open=False):
            self.label_file = file_box(
                "PNG with 0 for brick and 255 for mortar", IMAGE_TYPES, "segment-label"
            )
            self.label_card = gr.HTML(elem_id="segment-label-card")
        self.label = gr.State(None)
        self.controls = JobControls(self._jobs, self.kind, "Segment")
        self.estimate = self.controls.estimate

    def _build_result(self) -> None:
        self.mode = gr.Radio(
            [LOOK, CORRECT],
            value=LOOK,
            show_label=False,
            container=False,
            visible=False,
            elem_id="segment-mode",
        )
        self._build_panes()
        self._build_correction()
        self.result = gr.HTML(elem_id="segment-result")
        gr.HTML(fragments.note(LEGEND))
        self.downloads = downloads_box(
            "masks, probabilities, tables of regions", "segment-downloads"
        )

    def _build_panes(self) -> None:
        self.choices, self.panes = [], []
        with gr.Column() as self.looking:
            with gr.Row():
                for side in ("left", "right"):
                    with gr.Column(min_width=240):
                        box: dict[str, Any] = {"visible": False, "interactive": True}
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
                                buttons=["download", "fullscreen"],
                                height=460,
                                elem_id=f"segment-{side}",
                            )
                        )

    def _build_correction(self) -> None:
        self.correction = gr.State(None)
        with gr.Column(visible=False) as self.correcting:
            with gr.Row(elem_classes="g3-tools"):
                self.corrected = gr.Dropdown(
                    [],
                    label="Mask to correct",
                    interactive=True,
                    container=False,
                    min_width=240,
                    scale=2,
                    elem_id="segment-correct",
                )
                self.save = gr.Button(
                    "Save the mask",
                    size="sm",
                    variant="primary",
                    min_width=130,
                    scale=1,
                    elem_id="segment-save",
                )
            gr.HTML(segment_correct.TOOLS, elem_id="segment-tools")
            self.numbers = gr.HTML(elem_id="segment-numbers")
            self.canvas = gr.HTML(elem_id="segment-canvas")
            gr.HTML(fragments.note(HELP))
            # strokes.js presses it for what is painted; hidden and not absent, so that it can.
            self.painted = gr.Button(visible="hidden", elem_id="segment-stroke")
            self.message = gr.Textbox(visible="hidden")

    def _wire(self) -> None:
        labels = [self.label, self.label_card, self.label_file]
        inputs = [self.image, self.label, *self.settings.values()]
        shown = [*self.choices, *self.panes]
        correct = [self.correction, self.canvas, self.numbers]
        modes = [self.mode, self.looking, self.correcting]
        loaded = [*labels, self.estimate]
        self._connect(inputs, loaded, [*shown, *modes, self.corrected, *correct])
        chosen = [self.image, *list(self.settings.values())[1:]]
        for setting in (self.compared, self.losses, self.repair):
            setting.change(self._estimate, chosen, self.estimate, **QUIET)
        job = self.controls.job_id
        self.mode.input(self._enter, [self.mode, job], [*modes, self.corrected, *correct], **QUIET)
        self.corrected.input(self._open_mask, [job, self.corrected], correct, **QUIET)
        self.painted.click(
            self._paint,
            [self.correction, self.message],
            correct,
            js=TAKE_STROKE,
            **QUIET,
            **IN_TURN,
        )
        saved = [self.numbers, self.corrected, *shown, self.result, self.downloads]
        self.save.click(self._save, [self.correction, job], saved, **QUIET, **IN_TURN)
        self.label_file.upload(self._upload_label, self.label_file, labels, **QUIET)
        self.label_file.clear(lambda: (None, ""), None, labels[:2], **QUIET)
        for choice, pane in zip(self.choices, self.panes, strict=True):
            choice.input(self._view, [self.controls.job_id, choice], pane, **QUIET)

    def _first(self) -> Updates:
        first = next(iter(segment_job.EXAMPLES))
        return self._pick(first) | {self.example: first}

    def _estimate(
        self, image: Upload | None, compared: str, losses: Sequence[str] | None, repair: bool
    ) -> str:
        if image is None:
            return fragments.note("Choose an image to begin.")
        request = Request(SHIPPED, str(compared), tuple(losses or ()), bool(repair))
        return estimate_note(expected(self._jobs, segment_job.guess(image, request)))

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
            self.estimate: self._estimate(image, NOTHING, (), False),
            left: image.path if image else None,
            right: None,
        }

    def _no_result(self) -> Updates:
        hidden = {choice: gr.Dropdown(visible=False) for choice in self.choices}
        mode = {self.mode: gr.Radio(value=LOOK, visible=False)}
        return super()._no_result() | hidden | mode | self._looking(True) | self._no_mask()

    def _submit(
        self,
        image: Upload | None,
        label: Upload | None,
        model: str,
        compared: str,
        losses: Sequence[str] | None,
        repair: bool = False,
    ) -> Job:
        request = Request(model, compared, tuple(losses or ()), bool(repair))
        return segment_job.submit(self._jobs, needed(image), label, request)

    def _outcome(self, job: Job) -> tuple[str, Sequence[str], Updates]:
        updates = self._panes(job) | {self.mode: gr.Radio(value=LOOK, visible=True)}
        card = segment_job.result_card(job)
        return card, segment_job.downloads(job, self._scratch), updates

    def _python(self, job: Job) -> Sequence[str]:
        return segment_job.python_lines(job, self._jobs)

    def _another(self, values: Sequence[Any], item: Any) -> Sequence[Any]:
        """Return another image; the label belongs to the first one."""
        return [item, None, *values[2:]]

    def _panes(self, job: Job) -> Updates:
        titles = list(segment_job.views(job))
        updates: Updates = {}
        shown = segment_job.first_views(titles)
        for choice, pane, title in zip(self.choices, self.panes, shown, strict=True):
            updates[choice] = gr.Dropdown(titles, value=title, visible=True)
            updates[pane] = self._view(job.id, title)
        return updates

    def _view(self, job_id: str, title: str) -> Any:
        """Return our copy of one image of a job, for a pane."""
        found = segment_job.views(self._jobs.get(job_id))
        if title not in found:
            return gr.skip()
        # A corrected image changes under its name, which browsers remember.
        place = self._scratch / "views" / job_id / str(found[title].stat().st_mtime_ns)
        return copied(found[title], place / found[title].name)

    def _looking(self, looks: bool) -> Updates:
        return {
            self.looking: gr.Column(visible=looks),
            self.correcting: gr.Column(visible=not looks),
        }

    def _no_mask(self) -> Updates:
        return {self.correction: None, self.canvas: "", self.numbers: ""}

    def _enter(self, mode: str, job_id: str) -> Updates:
        """Show the results, or the mask that is to be corrected."""
        if mode != CORRECT:
            return self._looking(True) | self._no_mask()
        try:
            titles = list(segment_job.masks(self._jobs.get(job_id)))
        except Geo3dError as error:
            return (
                self._looking(True) | self._no_mask() | {self.numbers: fragments.error_card(error)}
            )
        # What was corrected before comes last, and is gone on with.
        choice = {self.corrected: gr.Dropdown(titles, value=titles[-1])}
        return self._looking(False) | choice | self._open_mask(job_id, titles[-1])

    def _open_mask(self, job_id: str, title: str) -> Updates:
        try:
            correction = segment_job.open_mask(self._jobs.get(job_id), title)
        except Geo3dError as error:
            return self._no_mask() | {self.numbers: fragments.error_card(error)}
        return self._painted(correction)

    def _painted(self, correction: Correction) -> Updates:
        return {
            self.correction: correction,
            self.canvas: segment_correct.canvas(correction),
            self.numbers: segment_correct.numbers(correction),
        }

    def _paint(self, correction: Correction | None, message: object) -> Updates:
        if correction is None:
            return self._no_mask()
        try:
            segment_correct.change(correction, str(message))
        except Geo3dError as error:
            return self._painted(correction) | {self.numbers: fragments.error_card(error)}
        return self._painted(correction)

    def _save(self, correction: Correction | None, job_id: str) -> Updates:
        if correction is None:
            return {self.numbers: ""}
        try:
            job = self._jobs.get(job_id)
            segment_correct.save(correction)
        except Geo3dError as error:
            return {self.numbers: fragments.error_card(error)}
        titles = list(segment_job.masks(job))
        files = segment_job.downloads(job, self._scratch)
        return self._panes(job) | {
            self.numbers: segment_correct.numbers(correction),
            self.corrected: gr.Dropdown(titles, value=segment_job.corrected_title(correction, job)),
            self.result: self._told(job, segment_job.result_card(job)),
            self.downloads: gr.File(value=files, visible=True),
        }
