"""The tab "Scene": a street on a map, drawn and changed by hand, and what is built of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments, scene_edit, scene_job, scene_views
from apps.viewer.estimates import estimate_note, expected
from apps.viewer.job_tab import (
    QUIET,
    JobControls,
    JobTab,
    Updates,
    downloads_box,
    file_box,
    image_box,
    image_shown,
    read_each,
    seed_box,
)
from apps.viewer.panes import pane_box, panes
from apps.viewer.scene_edit import Street
from apps.viewer.scene_job import NO_STYLE, Request
from geo3d.errors import Geo3dError, InputError
from geo3d.files import new_id
from geo3d.layout.layout import Layout
from geo3d.synth.streets.styles import LIGHTS, LOOKS

HELP = (
    "Drag a thing to move it, its handle to turn it; drag the ground to move the map, wheel to "
    "zoom, double click to see all. Keys: arrows, R, D, Delete, Ctrl+Z, Ctrl+Y."
)
TAKE_MESSAGE = "(street, message, name) => [street, window.geo3dMessages.shift(), name]"
"""What viewer.js left for the server, in place of what is in the box."""
STEP_RAD = 0.2617993877991494
"""15 degrees."""


class SceneTab(JobTab):
    """Components of the tab and what happens when they are used."""

    kind = scene_job.KIND

    def _build_inputs(self) -> None:
        self.street = gr.State(None)
        self._build_sources()
        self._build_settings()

    def _build_result(self) -> None:
        self.preview = image_box("Newest image", "scene-preview", height=260)
        self.result = gr.HTML(elem_id="scene-result")
        self.drive = gr.HTML(elem_id="scene-drive")
        self._build_map()
        self.panes = pane_box("scene-panes")
        self._build_views()
        self.downloads = downloads_box("film, mesh, points, Gaussians, layout", "scene-downloads")

    def _build_sources(self) -> None:
        self.example = gr.Dropdown(
            ["", *scene_job.examples()], label="Example street", elem_id="scene-example"
        )
        self.file = file_box(
            "Layout, or several (json)", [".json"], "scene-file", file_count="multiple"
        )
        with gr.Accordion("Make up a street", open=False):
            with gr.Row():
                self.street_kind = gr.Dropdown(
                    list(scene_job.KINDS), value="straight", label="Kind", min_width=100
                )
                low, high = scene_job.LENGTHS
                self.length = gr.Number(60, label="Metres", minimum=low, maximum=high, min_width=80)
                self.street_seed = seed_box(min_width=80)
            self.make = gr.Button("Make this street", elem_id="scene-make")
        self.card = gr.HTML(elem_id="scene-card")
        self.save = gr.Button("Save the layout as a file", size="sm", elem_id="scene-save")
        self.saved = gr.File(
            label="Layout to download",
            interactive=False,
            visible=False,
            elem_id="scene-downloads-0",
        )

    def _build_settings(self) -> None:
        lights, looks = [NO_STYLE, *LIGHTS], [NO_STYLE, *LOOKS]
        box = {"value": NO_STYLE, "min_width": 120}
        with gr.Row():
            light = gr.Dropdown(lights, label="Light", elem_id="scene-light", **box)
            look = gr.Dropdown(looks, label="Look", **box)
        presets = [(f"{name}: {cost}", name) for name, cost in scene_job.PRESETS.items()]
        with gr.Row():
            preset = gr.Dropdown(
                presets, value="demo", label="Preset", elem_id="scene-preset", scale=3
            )
            self.seed = seed_box(min_width=70)
        self.settings = {"preset": preset, "light": light, "look": look, "seed": self.seed}
        self.controls = JobControls(self._jobs, self.kind, "Build the scene")
        self.estimate = self.controls.estimate

    def _build_map(self) -> None:
        with gr.Row(elem_classes="g3-tools g3-mapbar"):
            self.draw = gr.Checkbox(
                False,
                label="Draw",
                interactive=True,
                container=False,
                min_width=80,
                elem_id="scene-draw",
            )
            self.name = gr.Dropdown(
                list(scene_edit.USUAL_SIZES),
                value="car",
                label="Class",
                show_label=False,
                container=False,
                min_width=130,
                elem_id="scene-class",
            )
            self.buttons = {
                op: gr.Button(words, size="sm", min_width=60, elem_id=f"scene-{op}")
                for op, words in (
                    ("left", "⟲ 15°"),
                    ("right", "⟳ 15°"),
                    ("duplicate", "Duplicate"),
                    ("remove", "Remove"),
                    ("undo", "Undo"),
                    ("redo", "Redo"),
                )
            }
        self.plan = gr.HTML(elem_id="scene-plan")
        gr.HTML(fragments.note(HELP))
        # viewer.js presses it for what is done on the map; hidden and not absent, so that it can.
        self.asked = gr.Button(visible="hidden", elem_id="scene-asked")
        self.message = gr.Textbox(visible="hidden")
        self.problem = gr.HTML(elem_id="scene-problem")
        self.selection = gr.HTML(elem_id="scene-selection")
        with gr.Row(visible=False) as self.thing:
            self.style = gr.Textbox(
                label="Style of the selected thing",
                placeholder="red brick",
                max_length=scene_edit.MAX_STYLE,
                scale=3,
                elem_id="scene-style",
            )
            self.size = [
                gr.Number(None, label=label, minimum=0.05, step=0.1, min_width=70)
                for label in ("Width, m", "Height, m", "Length, m")
            ]
            self.apply = gr.Button("Apply", min_width=70, elem_id="scene-apply")

    def _build_views(self) -> None:
        self.camera = gr.Slider(
            0, 1, 0, step=1, label="Camera along the drive", elem_id="scene-camera"
        )
        self.conditions = gr.HTML(elem_id="scene-conditions")

    def _wire(self) -> None:
        edited = [self.street, self.plan, self.selection, self.problem, self.conditions]
        edited += [self.panes, self.thing, self.style, *self.size]
        opened = self._connect(
            [self.street, *self.settings.values()],
            [*edited, self.camera, self.card, self.saved],
            [self.drive, self.panes, self.preview],
            [self.preview],
        )
        opened += [self.file, self.example]
        for box in (self.card, self.settings["preset"]):
            chosen = [self.street, self.settings["preset"]]
            box.change(self._estimate, chosen, self.estimate, **QUIET)
        self.attach_outputs += [self.file, self.example]
        self.example.input(self._pick, self.example, opened, **QUIET)
        self.file.upload(self._upload, self.file, opened, **QUIET)
        made = [self.street_kind, self.length, self.street_seed]
        self.make.click(self._make, made, opened, **QUIET)
        wanted = [self.street, self.message, self.name]
        self.asked.click(self._change, wanted, edited, js=TAKE_MESSAGE, **QUIET)
        for op, button in self.buttons.items():
            asked = gr.State(_button_message(op))
            button.click(self._change, [self.street, asked, self.name], edited, **QUIET)
        inputs = [self.street, self.style, *self.size]
        for event in (self.apply.click, self.style.submit):
            event(self._restyle, inputs, edited, **QUIET)
        self.camera.input(
            self._look, [self.street, self.camera], [self.plan, self.conditions], **QUIET
        )
        self.save.click(self._save, self.street, self.saved, **QUIET)

    def _first(self) -> Updates:
        first = next(iter(scene_job.examples()), "")
        return self._pick(first) | {self.example: first}

    def _reopened(self, job: Job) -> Updates:
        return self._opened(scene_job.layout_of(job))

    def _pick(self, title: str) -> Updates:
        found = scene_job.examples()
        if title not in found:
            return {self.problem: ""}
        return self._open(lambda: scene_job.load_layout(found[title])) | {self.file: None}

    def _upload(self, uploads: str | Sequence[str]) -> Updates:
        def read(path: Path) -> Street:
            return scene_edit.open_street(scene_job.read_upload(path), new_id())

        found, cards = read_each(uploads, read)
        if not found:
            # The box is emptied, so that the next try is one click away.
            return {self.card: cards, self.file: None}
        done = self._opened(found[0].layout) | {self.example: ""}
        done[self.card] = done[self.card] + cards
        done[self.more] = found[1:]
        return done

    def _make(self, kind: str, length: float | None, seed: float | None) -> Updates:
        done = self._open(lambda: scene_job.made_up(kind, length, seed))
        return done | ({self.example: "", self.file: None} if self.street in done else {})

    def _open(self, read: Callable[[], Layout]) -> Updates:
        """Show another street, or why there is none."""
        try:
            return self._opened(read())
        except Geo3dError as error:
            return {self.card: fragments.error_card(error)}

    def _opened(self, layout: Layout) -> Updates:
        """Show a street that has no result yet; a job shown before goes on without this page."""
        street = scene_edit.open_street(layout, new_id())
        last = len(street.layout.trajectory) - 1
        return (
            self._no_result()
            | self.controls.idle()
            | self._edited(street)
            | {
                self.more: [],
                self.camera: gr.Slider(maximum=max(last, 1), value=street.camera),
                self.card: scene_views.layout_card(street.layout),
                self.saved: gr.File(value=None, visible=False),
            }
        )

    def _edited(self, street: Street) -> Updates:
        """Show a street after a change."""
        group = scene_views.shapes(street.layout, None)
        return self._chosen(street) | {
            self.conditions: scene_views.conditions(street),
            self.panes: panes(group, self._scratch, self.kind, street.key),
        }

    def _chosen(self, street: Street) -> Updates:
        """Show what is selected."""
        size: list[float | None] = [None, None, None]
        style = ""
        if street.selected:
            thing = street.layout.primitive(street.selected)
            size, style = scene_edit.size_of(thing).round(2).tolist(), thing.style
        return {
            self.street: street,
            self.plan: scene_views.plan(street),
            self.selection: scene_views.selection(street),
            self.problem: "",
            self.thing: gr.Row(visible=bool(street.selected)),
            self.style: style,
            **dict(zip(self.size, size, strict=True)),
        }

    def _change(self, street: Street | None, message: object, name: str) -> Updates:
        if street is None:
            return {self.problem: ""}
        before = street.layout
        try:
            scene_edit.change(street, str(message), name)
        except Geo3dError as error:
            # The map is drawn anew: what was dragged goes back to where it was.
            return self._chosen(street) | {self.problem: fragments.error_card(error)}
        return self._edited(street) if street.layout is not before else self._chosen(street)

    def _restyle(
        self,
        street: Street | None,
        style: str,
        width: float | None,
        height: float | None,
        length: float | None,
    ) -> Updates:
        if street is None:
            return {self.problem: ""}
        size = tuple(math.nan if s is None else float(s) for s in (width, height, length))
        try:
            scene_edit.restyle(street, str(style or ""))
            scene_edit.resize(street, cast("tuple[float, float, float]", size))
        except Geo3dError as error:
            return self._chosen(street) | {self.problem: fragments.error_card(error)}
        return self._edited(street)

    def _estimate(self, street: Street | None, preset: str) -> str:
        if street is None:
            return ""
        return estimate_note(expected(self._jobs, scene_job.guess(street.layout, preset)))

    def _look(self, street: Street | None, camera: float) -> Updates:
        if street is None:
            return {self.conditions: ""}
        last = len(street.layout.trajectory) - 1
        street.camera = min(max(int(camera), 0), last)
        return {
            self.plan: scene_views.plan(street),
            self.conditions: scene_views.conditions(street),
        }

    def _save(self, street: Street | None) -> Any:
        if street is None:
            return gr.skip()
        return gr.File(value=scene_job.keep_layout(street.layout, self._scratch), visible=True)

    def _no_result(self) -> Updates:
        return super()._no_result() | {
            self.drive: "",
            self.preview: image_shown(None),
        }

    def _submit(
        self, street: Street | None, preset: str, light: str, look: str, seed: float | None
    ) -> Job:
        if street is None:
            raise InputError("viewer.no_layout", "There is no street.", "Pick or make one.")
        request = Request(preset, light, look, -1 if seed is None else int(seed))
        return scene_job.submit(self._jobs, street.layout, request)

    def _watch(self, job: Job) -> Updates:
        """Show the newest image of a job."""
        image = scene_job.preview(job, self._scratch)
        return {self.preview: gr.skip() if image is None else image_shown(image)}

    def _outcome(self, job: Job) -> tuple[str, Sequence[str], Updates]:
        files = [scene_job.output(job, name, self._scratch) for name in scene_job.FILES]
        group = scene_views.shapes(scene_job.layout_of(job), job.run_folder)
        shown: Updates = {
            self.drive: scene_views.drive(scene_job.frames(job)),
            self.panes: panes(group, self._scratch, self.kind, job.id),
        }
        # The drive takes the place of the newest image.
        shown[self.preview] = image_shown(None)
        return scene_job.result_card(job), [f for f in files if f], shown

    def _python(self, job: Job) -> Sequence[str]:
        return scene_job.python_lines(job)


def _button_message(op: str) -> str:
    """Return what a button asks for."""
    turns = {"left": -STEP_RAD, "right": STEP_RAD}
    return json.dumps({"op": "rotate", "yaw": turns[op]} if op in turns else {"op": op})
