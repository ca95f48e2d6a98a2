"""The tab "Generate": a picture in, the object of the teacher and that of its student out."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments, generate_job
from apps.viewer.generate_job import STUDENT, TEACHER, Request
from apps.viewer.job_parts import Upload, result_of
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    Updates,
    downloads_box,
    file_box,
    link_box,
    mesh_pane,
)
from geo3d.errors import Geo3dError, InputError

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CAMERA = (60, 70, None)
"""Where both panes look from at first: azimuth and elevation in degrees, distance to fit."""
HINT = (
    "One object, cut out (transparent around it) or before a plain background. The teacher takes "
    "many steps with guidance; its student was trained to need one or two, without."
)


class GenerateTab:
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
            ["", *generate_job.EXAMPLES], label="Example picture", elem_id="generate-example"
        )
        self.file = file_box(
            "Picture of an object (png, jpg, bmp, webp)", PICTURE_TYPES, "generate-file"
        )
        self.card = gr.HTML(elem_id="generate-card")
        self.preview = gr.Image(
            label="Picture",
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            height=200,
            visible=False,
            elem_id="generate-picture",
        )
        self.picture = gr.State(None)
        found = generate_job.models(self._jobs)
        first = next(iter(found), None)
        steps, guidance = generate_job.defaults(found[first]) if first else (25, 4.0)
        self.model = gr.Dropdown(list(found), value=first, label="Model", elem_id="generate-model")
        with gr.Row():
            self.steps = gr.Slider(1, generate_job.MAX_STEPS, steps, step=1, label="Teacher steps")
            self.student_steps = gr.Slider(
                1, generate_job.MAX_STUDENT_STEPS, 1, step=1, label="Student steps"
            )
        with gr.Row():
            self.guidance = gr.Slider(
                1.0, generate_job.MAX_GUIDANCE, guidance, step=0.5, label="Guidance"
            )
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100)
        gr.HTML(fragments.note(HINT))
        self.controls = JobControls(self._jobs, generate_job.KIND, "Generate")

    def _build_panes(self) -> None:
        with gr.Row(elem_classes="g3-tools"):
            gr.HTML(fragments.note("Drag turns both objects, the wheel zooms, right-drag moves."))
            link_box(elem_id="generate-link", elem_classes="g3-link")
        with gr.Row():
            self.panes = [
                mesh_pane(who, f"generate-{who.lower()}", CAMERA) for who in (TEACHER, STUDENT)
            ]
        self.result = gr.HTML(elem_id="generate-result")
        with gr.Row():
            self.pictures = [
                gr.Image(
                    label=f"{who}: Gaussians from four sides",
                    type="filepath",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    visible=False,
                    elem_id=f"generate-gaussians-{who.lower()}",
                )
                for who in (TEACHER, STUDENT)
            ]
        self.downloads = downloads_box("meshes (GLB) and Gaussians (PLY)", "generate-downloads")

    def _wire(self) -> None:
        outcome = [self.result, *self.panes, *self.pictures, self.downloads]
        loaded = [self.picture, self.card, self.preview, *outcome, *self.controls.outputs]
        files = [self.file, self.example]
        chosen = [self.model, self.steps, self.student_steps, self.guidance, self.seed]
        self.example.input(self._pick, self.example, [*loaded, *files], **QUIET)
        self.file.upload(self._upload, self.file, [*loaded, *files], **QUIET)
        self.file.clear(lambda: self._loaded(None), None, loaded, **QUIET)
        self.model.input(self._choose, self.model, [self.steps, self.guidance], **QUIET)
        self.controls.run.click(
            self._start, [self.picture, *chosen], [*outcome, *self.controls.outputs], **QUIET
        )
        self.controls.wire(self._show, outcome)
        self.attach_outputs = [*loaded, *files, *chosen]

    def attach(self, request: gr.Request) -> Updates:
        """Show the object that the page's address names; without one, the first example."""
        names = list(generate_job.models(self._jobs))
        updates: Updates = {self.model: gr.Dropdown(names)}
        job = self.controls.job_of(request)
        if job is None:
            first = next(iter(generate_job.EXAMPLES))
            return updates | self._pick(first) | {self.example: first}
        settings = job.settings
        try:
            picture = generate_job.picture_of(job, self._scratch)
        except Geo3dError as error:
            return updates | self.controls.refused(error)
        chosen = {
            self.model: gr.Dropdown(names, value=settings["model"]),
            self.steps: settings["steps"],
            self.student_steps: settings["student_steps"],
            self.guidance: settings["guidance"],
            self.seed: settings["seed"],
        }
        return self._loaded(picture) | chosen | self.controls.started(job)

    def _pick(self, title: str) -> Updates:
        if title not in generate_job.EXAMPLES:
            return self._loaded(None)
        return self._loaded(generate_job.example(title, self._scratch)) | {self.file: None}

    def _upload(self, upload: str) -> Updates:
        path = Path(upload)
        try:
            picture = generate_job.keep_picture(path, self._scratch)
        except Geo3dError as error:
            card = fragments.error_card(error, about=path.name)
            # The box is emptied, so that the next try is one click away.
            return self._loaded(None) | {self.card: card, self.file: None, self.example: ""}
        return self._loaded(picture) | {self.example: ""}

    def _choose(self, model: str) -> Updates:
        found = generate_job.models(self._jobs)
        if model not in found:
            return {self.steps: gr.skip()}
        steps, guidance = generate_job.defaults(found[model])
        return {self.steps: steps, self.guidance: guidance}

    def _loaded(self, picture: Upload | None) -> Updates:
        """Show a picture that has no result yet; a job shown before goes on without this page."""
        return (
            self._no_result()
            | self.controls.idle()
            | {
                self.picture: picture,
                self.card: _card(picture),
                self.preview: gr.Image(
                    value=picture.path if picture else None, visible=picture is not None
                ),
            }
        )

    def _no_result(self) -> Updates:
        hidden = {box: gr.Image(value=None, visible=False) for box in self.pictures}
        return {
            **dict.fromkeys(self.panes),
            **hidden,
            self.result: "",
            self.downloads: gr.File(value=None, visible=False),
        }

    def _start(
        self,
        picture: Upload | None,
        model: str | None,
        steps: float | None,
        student_steps: float | None,
        guidance: float | None,
        seed: float | None,
    ) -> Updates:
        def submit() -> Job:
            if picture is None:
                raise InputError(
                    "viewer.missing_picture", "There is no picture.", "Upload or pick one."
                )
            # What is missing is out of range, and refused as such.
            request = Request(
                str(model or ""),
                int(steps or 0),
                int(student_steps or 0),
                float(guidance or 0),
                -1 if seed is None else int(seed),
            )
            return generate_job.submit(self._jobs, picture, request)

        return self.controls.start(submit, self._no_result())

    def _show(self, job_id: str) -> Updates:
        job = self._jobs.get(job_id)
        _, metrics = result_of(job)
        updates: Updates = {
            self.result: generate_job.result_card(job, metrics),
            self.downloads: gr.File(value=generate_job.downloads(job, self._scratch), visible=True),
        }
        for who, pane, box in zip((TEACHER, STUDENT), self.panes, self.pictures, strict=True):
            mesh, gaussians = generate_job.shown(job, who, self._scratch)
            updates[pane] = mesh
            updates[box] = gr.Image(value=gaussians, visible=gaussians is not None)
        return updates


def _card(picture: Upload | None) -> str:
    if picture is None:
        return ""
    size = f"{picture.width} x {picture.height}"
    return fragments.facts_card([("Picture", picture.name, ""), ("Pixels", size, "")], (), "")
