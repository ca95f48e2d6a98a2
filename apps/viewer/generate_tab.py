"""The tab "Generate": an image in, the object of the teacher and that of its student out."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments, generate_job
from apps.viewer.estimates import estimate_note, expected
from apps.viewer.generate_job import Request
from apps.viewer.image_tab import ImageTab, needed
from apps.viewer.job_parts import Upload, result_of
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    Updates,
    downloads_box,
    image_box,
    image_shown,
    seed_box,
)
from apps.viewer.panes import pane_box, panes

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
HINT = (
    "One object, cut out (transparent around it) or before a plain background. The teacher takes "
    "the steps and the guidance that its model names; its student was trained to need one or two."
)


class GenerateTab(ImageTab):
    """Components of the tab and what happens when they are used."""

    kind, work = generate_job.KIND, generate_job

    def _build_inputs(self) -> None:
        self._build_image("Image of an object (png, jpg, bmp, webp)", IMAGE_TYPES)
        self.preview = image_box("Image", "generate-picture", height=200)
        found = generate_job.models(self._jobs)
        first = next(iter(found), None)
        steps, guidance = generate_job.defaults(found[first]) if first else (25, 4.0)
        self.model = gr.Dropdown(list(found), value=first, label="Model", elem_id="generate-model")
        with gr.Row():
            self.steps = gr.Slider(1, generate_job.MAX_STEPS, steps, step=1, label="Teacher steps")
            most = generate_job.MAX_STUDENT_STEPS
            student_steps = gr.Slider(1, most, 1, step=1, label="Student steps")
        with gr.Row():
            most = generate_job.MAX_GUIDANCE
            self.guidance = gr.Slider(1.0, most, guidance, step=0.5, label="Guidance")
            self.seed = seed_box(min_width=100)
        gr.HTML(fragments.note(HINT))
        self.settings = {
            "model": self.model,
            "steps": self.steps,
            "student_steps": student_steps,
            "guidance": self.guidance,
            "seed": self.seed,
        }
        self.controls = JobControls(self._jobs, self.kind, "Generate")
        self.estimate = self.controls.estimate

    def _build_result(self) -> None:
        self.panes = pane_box("generate-panes")
        self.result = gr.HTML(elem_id="generate-result")
        self.downloads = downloads_box("meshes (GLB) and Gaussians (PLY)", "generate-downloads")

    def _wire(self) -> None:
        inputs = [self.image, *self.settings.values()]
        self._connect(inputs, [self.preview, self.estimate], [self.panes])
        self.model.input(self._choose, self.model, [self.steps, self.guidance], **QUIET)
        for box in (self.model, self.steps, self.settings["student_steps"]):
            chosen = [self.model, self.steps, self.settings["student_steps"]]
            box.change(self._estimate, chosen, self.estimate, **QUIET)

    def _choices(self) -> Updates:
        return {self.model: list(generate_job.models(self._jobs))}

    def _first(self) -> Updates:
        first = next(iter(generate_job.EXAMPLES))
        boxes = (self.model, self.steps, self.settings["student_steps"])
        estimate = self._estimate(*(box.value for box in boxes))
        return self._pick(first) | {self.example: first, self.estimate: estimate}

    def _estimate(self, model: str | None, steps: float | None, student: float | None) -> str:
        request = Request(str(model or ""), int(steps or 1), int(student or 1), 1.0, 0)
        guess = generate_job.guess(self._jobs, request)
        return "" if guess is None else estimate_note(expected(self._jobs, guess))

    def _choose(self, model: str) -> Updates:
        found = generate_job.models(self._jobs)
        if model not in found:
            return {self.steps: gr.skip()}
        steps, guidance = generate_job.defaults(found[model])
        return {self.steps: steps, self.guidance: guidance}

    def _preview(self, image: Upload | None) -> Updates:
        empty = fragments.empty("The objects of teacher and student will turn here.")
        return {self.preview: image_shown(image.path if image else None), self.panes: empty}

    def _no_result(self) -> Updates:
        return super()._no_result() | {self.panes: ""}

    def _submit(
        self,
        image: Upload | None,
        model: str | None,
        steps: float | None,
        student_steps: float | None,
        guidance: float | None,
        seed: float | None,
    ) -> Job:
        # What is missing is out of range, and refused as such.
        request = Request(
            str(model or ""),
            int(steps or 0),
            int(student_steps or 0),
            float(guidance or 0),
            -1 if seed is None else int(seed),
        )
        return generate_job.submit(self._jobs, needed(image), request)

    def _outcome(self, job: Job) -> tuple[str, Sequence[str], Updates]:
        _, metrics = result_of(job)
        group = generate_job.shapes(job)
        shown = panes(group, self._scratch, self.kind, job.id) if group.models else ""
        files = generate_job.downloads(job, self._scratch)
        return generate_job.result_card(job, metrics), files, {self.panes: shown}

    def _python(self, job: Job) -> Sequence[str]:
        return generate_job.python_lines(job)
