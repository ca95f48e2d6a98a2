"""What the tabs of jobs have in common: inputs in, start, cancel, status, result, and back again.

A tab remembers a job by its id only (in the address, ``?job=ID``); everything shown about it is
read from the job's folder, so a refreshed or second page shows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments, results
from geo3d.errors import Geo3dError

POLL_S = 0.5
SEVERAL = 12
"""Files that are taken at once, a job of each."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


def show_address(tab: str) -> str:
    """Return JavaScript that names a tab's job in the page's address.

    A tab without a job removes only what it wrote itself: when a page opens, every tab is without.
    """
    return f"""(id) => {{
      const shown = (window.geo3dShown ??= {{}});
      const url = new URL(window.location);
      if (id) url.searchParams.set("job", id);
      else if (url.searchParams.get("job") === shown["{tab}"]) url.searchParams.delete("job");
      shown["{tab}"] = id;
      window.history.replaceState(null, "", url);
    }}"""


def file_box(label: str, types: Sequence[str], name: str, **more: Any) -> gr.File:
    """Return the box that a file is dropped into."""
    return gr.File(label=label, file_types=list(types), height=92, elem_id=name, **more)


def read_each(
    uploads: str | Sequence[str] | None, read: Callable[[Path], Any]
) -> tuple[list[Any], str]:
    """Return what could be read of some files, and the cards of those that could not."""
    paths = [uploads] if isinstance(uploads, str) else list(uploads or ())
    found, cards = [], []
    for path in map(Path, paths[:SEVERAL]):
        try:
            found.append(read(path))
        except Geo3dError as error:
            cards.append(fragments.error_card(error, about=path.name))
    if len(paths) > SEVERAL:
        cards.append(fragments.note(f"Only the first {SEVERAL} of {len(paths)} files are taken."))
    if len(found) > 1:
        names = ", ".join(map(name_of, found[1:]))
        cards.append(fragments.note(f"A job of each: also {names}."))
    return found, "".join(cards)


def name_of(item: Any) -> str:
    """Return the name of an input for people."""
    return str(getattr(getattr(item, "layout", item), "name", ""))


def downloads_box(label: str, name: str = "downloads") -> gr.File:
    """Return the list of files of a result; hidden until there are some."""
    box = {"interactive": False, "visible": False, "elem_id": name}
    return gr.File(label=f"Download: {label}", file_count="multiple", **box)


def image_box(label: str, name: str, **more: Any) -> gr.Image:
    """Return a place for an image; hidden until there is one."""
    box = {"interactive": False, "visible": False, "buttons": ["fullscreen"], "elem_id": name}
    return gr.Image(label=label, type="filepath", **{**box, **more})


def image_shown(path: str | None) -> gr.Image:
    """Return the update that shows an image, or hides the box without one."""
    return gr.Image(value=path, visible=path is not None)


def seed_box(**more: Any) -> gr.Number:
    """Return the box of a seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, **more)


class JobControls:
    """What it will cost, the button that starts, the one that cancels, and how it goes.

    It stays in sight below the inputs, however many they are.
    """

    def __init__(self, jobs: Jobs, kind: str, label: str) -> None:
        self._jobs = jobs
        self.kind = kind
        with gr.Column(elem_classes="g3-run"):
            self.estimate = gr.HTML(elem_id=f"{kind}-estimate")
            with gr.Row():
                self.run = gr.Button(label, variant="primary", elem_id=f"{kind}-run", min_width=120)
                self.cancel = gr.Button(
                    "Cancel", interactive=False, elem_id=f"{kind}-cancel", min_width=80
                )
            self.status = gr.HTML(elem_id=f"{kind}-status")
            self.others = gr.HTML(elem_id=f"{kind}-others")
        # Hidden and not absent: the change of a component that is not on the page goes unnoticed.
        self.job_id = gr.Textbox(visible="hidden")
        self.finished = gr.Textbox(visible="hidden")
        self.timer = gr.Timer(POLL_S, active=False)
        self.parts = [self.status, self.others, self.timer, self.run, self.cancel, self.finished]
        self.outputs = [*self.parts, self.job_id]

    def wire(
        self,
        show: Callable[..., Updates],
        outcome: Sequence[Any],
        watch: Callable[..., Updates] | None = None,
        watched: Sequence[Any] = (),
        given: Sequence[Any] = (),
    ) -> None:
        """Connect the buttons and the clock.

        Args:
            show: returns the result of the job with this id.
            outcome: the components it fills.
            watch: returns what is shown of a job that runs.
            watched: the components it fills.
            given: components whose values the two are given beside the job.
        """

        def poll(job_id: str, *values: Any) -> Updates:
            return self._poll(job_id, watch, *values)

        def shown(job_id: str, *values: Any) -> Updates:
            try:
                # gradio does not take an empty mapping
                return show(job_id, *values) if job_id else {self.status: gr.skip()}
            except Geo3dError as error:
                return self.refused(error)

        self.cancel.click(self._cancel, self.job_id, self.parts, **QUIET)
        self.job_id.change(None, self.job_id, None, js=show_address(self.kind))
        followed = [*self.outputs, *watched]
        self.timer.tick(poll, [self.job_id, *given], followed, queue=False, **QUIET)
        self.finished.change(shown, [self.finished, *given], [*outcome, self.status], **QUIET)

    def started(self, job: Job, others: Sequence[Job] = (), cards: str = "") -> Updates:
        """Show a job that was queued just now, or that the page's address names.

        Args:
            others: that were queued with it.
            cards: why some were not.
        """
        told = fragments.job_links(others) + cards
        return self.state(job) | {self.job_id: job.id, self.others: told}

    def refused(self, error: Geo3dError) -> Updates:
        """Show why there is no job."""
        return {self.status: fragments.error_card(error)}

    def idle(self) -> Updates:
        """Show that nothing runs; a job shown before goes on without this page."""
        return {
            self.job_id: "",
            self.status: "",
            self.others: "",
            self.timer: gr.Timer(active=False),
            self.run: gr.Button(interactive=True),
            self.cancel: gr.Button(interactive=False),
            self.finished: "",
        }

    def state(self, job: Job) -> Updates:
        """Show what the job is doing; when it is done, `finished` brings the result."""
        before = self._jobs.before(job) if job.state == "queued" else ()
        return {
            self.status: fragments.job_card(job, before),
            self.timer: gr.Timer(active=not job.ended),
            self.run: gr.Button(interactive=job.ended),
            self.cancel: gr.Button(interactive=job.state in ("queued", "running")),
            self.finished: job.id if job.state == "done" else "",
        }

    def job_of(self, request: gr.Request) -> Job | None:
        """Return the job of this kind that the page's address names, if it names one."""
        try:
            job = self._jobs.get(str(request.query_params.get("job", "")))
        except Geo3dError:
            # The tab Match says so.
            return None
        return job if job.settings.get("kind") == self.kind else None

    def select_tab(self, request: gr.Request) -> Any:
        """Open this tab where the page's address names one of its jobs."""
        return gr.Tabs(selected=self.kind) if self.job_of(request) else gr.skip()

    def _cancel(self, job_id: str) -> Updates:
        try:
            return self.state(self._jobs.cancel(job_id))
        except Geo3dError as error:
            return self.refused(error)

    def _poll(self, job_id: str, watch: Callable[..., Updates] | None, *values: Any) -> Updates:
        try:
            job = self._jobs.get(job_id)
            return self.state(job) | (watch(job, *values) if watch else {})
        except Geo3dError as error:
            return self.idle() | self.refused(error)


class JobTab:
    """A tab: inputs on the left, the result of a job on the right.

    What a tab has of its own: `_build_inputs` and `_build_result` make the components of the two
    sides, `_wire` connects them and calls `_connect`, `_submit` queues a job of what is chosen,
    `_reopened` shows the input of an earlier job; `_outcome` returns the card of a job that is
    done, its files to download, and what else is shown; `_python` the lines that make the same.
    """

    kind: str
    """Of its jobs; also the tab's id on the page."""
    settings: dict[str, Any]
    """What is chosen beside the input, by its name in the settings of a job."""
    controls: JobControls
    result: gr.HTML
    downloads: gr.File
    more: gr.State
    """Further inputs, each to be a job of its own with the same settings."""
    _build_inputs: Callable[[], None]
    _build_result: Callable[[], None]
    _wire: Callable[[], None]
    _submit: Callable[..., Job]
    _reopened: Callable[[Job], Updates]
    _outcome: Callable[..., tuple[str, Sequence[str], Updates]]
    _python: Callable[[Job], Sequence[str]]
    _watch: Callable[..., Updates] | None = None
    """Shows what there is of a job that runs."""

    def __init__(self, jobs: Jobs, scratch: Path) -> None:
        self._jobs = jobs
        self._scratch = scratch
        self.more = gr.State([])
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340, elem_classes="g3-controls"):
                self._build_inputs()
            with gr.Column(scale=5, min_width=320, elem_classes="g3-result"):
                self._build_result()
        self._wire()

    def _first(self) -> Updates:
        """Return what a page without a job begins with."""
        return {}

    def _choices(self) -> Updates:
        """Return the entries there are now of lists that grow, by component."""
        return {}

    def _no_result(self) -> Updates:
        """Take an earlier result off the page."""
        return {self.result: "", self.downloads: gr.File(value=None, visible=False)}

    def _connect(
        self,
        inputs: Sequence[Any],
        loaded: Sequence[Any],
        outcome: Sequence[Any],
        watched: Sequence[Any] = (),
        given: Sequence[Any] = (),
    ) -> list[Any]:
        """Connect the buttons, and return all that another input changes.

        Args:
            inputs: what `_submit` is given.
            loaded: what another input fills itself.
            outcome: what `_outcome` and `_no_result` fill, besides card and downloads.
            watched: what `_watch` fills.
            given: components whose values `_outcome` and `_watch` are given, too.
        """
        outcome = [self.result, self.downloads, *outcome]
        page = list(dict.fromkeys([*outcome, *watched, *self.controls.outputs]))
        self.controls.run.click(self._start, [self.more, *inputs], page, **QUIET)
        self.controls.wire(self._show, outcome, self._watch, watched, given)
        every = list(dict.fromkeys([self.more, *loaded, *page]))
        self.attach_outputs = [*every, *self.settings.values()]
        return every

    def attach(self, request: gr.Request) -> Updates:
        """Show the job that the page's address names, and the lists as they are now."""
        lists = self._choices()
        updates = {box: gr.Dropdown(names) for box, names in lists.items()}
        job = self.controls.job_of(request)
        if job is None:
            return updates | self._first()
        try:
            updates |= self._reopened(job)
        except Geo3dError as error:
            return updates | self.controls.refused(error)
        # A job of an earlier day may lack what can be chosen since; that box stays as it is.
        known = {name: box for name, box in self.settings.items() if name in job.settings}
        for name, box in known.items():
            value = job.settings[name]
            updates[box] = gr.Dropdown(lists[box], value=value) if box in lists else value
        return updates | self.controls.started(job)

    def _another(self, values: Sequence[Any], item: Any) -> Sequence[Any]:
        """Return what `_submit` is given for a further input instead of the first."""
        return [item, *values[1:]]

    def _start(self, more: Sequence[Any] | None, *values: Any) -> Updates:
        """Queue a job, one of each further input too, and show the first instead of an earlier
        result; or show why there is none."""
        try:
            job = self._submit(*values)
        except Geo3dError as error:
            return self.controls.refused(error)
        others, cards = [], []
        for item in list(more or ())[: SEVERAL - 1]:
            try:
                others.append(self._submit(*self._another(values, item)))
            except Geo3dError as error:
                cards.append(fragments.error_card(error, about=name_of(item)))
        return self._no_result() | self.controls.started(job, others, "".join(cards))

    def _told(self, job: Job, card: str) -> str:
        """Return what stands of a result in words: its meaning, its numbers, how to have it."""
        return results.meaning(job) + card + results.ending(job, self._python(job))

    def _show(self, job_id: str, *values: Any) -> Updates:
        job = self._jobs.get(job_id)
        card, files, more = self._outcome(job, *values)
        told = self._told(job, card)
        return {self.result: told, self.downloads: gr.File(value=list(files), visible=True), **more}
