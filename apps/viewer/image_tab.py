"""What the tabs Generate and Segment have in common: an image in, uploaded or from the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from types import ModuleType
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.viewer import fragments
from apps.viewer.job_parts import Upload
from apps.viewer.job_tab import QUIET, JobTab, Updates, file_box, read_each
from geo3d.errors import InputError


class ImageTab(JobTab):
    """A tab whose job takes one image."""

    work: ModuleType
    """Has EXAMPLES, example, read_upload and image_of."""
    _preview: Callable[[Upload | None], Updates]
    """Shows an image that was loaded, or nothing."""

    def _build_image(self, label: str, types: Sequence[str]) -> None:
        examples = ["", *self.work.EXAMPLES]
        self.example = gr.Dropdown(examples, label="Example image", elem_id=f"{self.kind}-example")
        self.file = file_box(label, types, f"{self.kind}-file", file_count="multiple")
        self.card = gr.HTML(elem_id=f"{self.kind}-card")
        self.image = gr.State(None)

    def _connect(self, inputs: Sequence[Any], loaded: Sequence[Any], *more: Any) -> list[Any]:
        """Connect the choice of an image as well; see `JobTab`."""
        every = super()._connect(inputs, [self.image, self.card, *loaded], *more)
        both = [*every, self.file, self.example]
        self.example.input(self._pick, self.example, both, **QUIET)
        self.file.upload(self._upload, self.file, both, **QUIET)
        self.file.clear(lambda: self._loaded(None), None, every, **QUIET)
        self.attach_outputs += [self.file, self.example]
        return every

    def _pick(self, title: str) -> Updates:
        known = title in self.work.EXAMPLES
        image = self.work.example(title, self._scratch) if known else None
        return self._loaded(image) | {self.file: None}

    def _upload(self, uploads: str | Sequence[str]) -> Updates:
        found, cards = read_each(uploads, lambda path: self.work.read_upload(path, self._scratch))
        first = found[0] if found else None
        done = self._loaded(first) | {self.more: found[1:], self.example: ""}
        done[self.card] = image_card(first) + cards
        # Where nothing could be read the box is emptied, so that the next try is one click away.
        return done if found else done | {self.file: None}

    def _loaded(self, image: Upload | None) -> Updates:
        """Show an image that has no result yet; a job shown before goes on without this page."""
        shown = {self.image: image, self.more: [], self.card: image_card(image)}
        return self._no_result() | self.controls.idle() | shown | self._preview(image)

    def _reopened(self, job: Job) -> Updates:
        return self._loaded(self.work.image_of(job, self._scratch))


def image_card(image: Upload | None) -> str:
    """Return name and size of an image, as HTML."""
    if image is None:
        return ""
    size = f"{image.width} x {image.height} pixels"
    mark = (
        f'<div class="g3-row"><b>{escape(image.name)}</b><span class="g3-dim">{size}</span></div>'
    )
    return fragments.facts_card((), image.notes, mark)


def needed(image: Upload | None) -> Upload:
    """Return the image.

    Raises:
        InputError: ``viewer.missing_image``.
    """
    if image is None:
        hint = "Upload one, or pick an example."
        raise InputError("viewer.missing_image", "There is no image.", hint)
    return image
