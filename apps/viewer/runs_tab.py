"""The tab "Runs": every run below the folder of runs, of the page and of the command line.

What is chosen is a position in the list that the page was last sent; the folder is looked up and
checked again here before anything is done with it (`apps.report.gallery`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

from apps.jobs import Jobs
from apps.report.gallery import delete_run, filtered, find_runs, method_of, set_tag, tags_of
from apps.report.page import page, side_by_side
from apps.report.pictures import thumbnail
from apps.report.records import RunRecord, shell_line
from apps.report.summary import main_facts, verdict
from apps.viewer import fragments
from apps.viewer.job_parts import fresh
from apps.viewer.job_tab import QUIET, Updates
from geo3d.errors import Geo3dError, InputError
from geo3d.files import atomic_write_bytes, atomic_write_text, slug

SHOWN = 60
"""How many runs the gallery shows, newest first."""
ANY = "all"
NOTHING = "nothing"
_PLAIN = (196, 201, 208)


class RunsTab:
    """The gallery and what can be done with the run that is chosen in it."""

    def __init__(self, jobs: Jobs, scratch: Path) -> None:
        self._root, self._scratch = jobs.root.parent, scratch
        with gr.Row():
            self.words = gr.Textbox(label="Words", placeholder="bird fast", elem_id="runs-words")
            self.verb = gr.Dropdown([ANY], value=ANY, label="Verb or method", elem_id="runs-verb")
            self.tag = gr.Dropdown([ANY], value=ANY, label="Tag", elem_id="runs-tag")
        self.count = gr.HTML(elem_id="runs-count")
        self.gallery = gr.Gallery(
            label="Runs",
            show_label=False,
            object_fit="contain",
            columns=5,
            height=340,
            preview=False,
            allow_preview=False,
            interactive=False,
            elem_id="runs-gallery",
        )
        self.folders = gr.State([])
        self.chosen = gr.State("")
        self.problem = gr.HTML(elem_id="runs-problem")
        with gr.Column(visible=False, elem_id="runs-chosen") as self.actions:
            self.about = gr.HTML(elem_id="runs-about")
            with gr.Row():
                self.other = gr.Dropdown([NOTHING], value=NOTHING, label="Compare with")
                self.new_tag = gr.Textbox(label="Tag", elem_id="runs-new-tag")
                self.add = gr.Button("Add tag", elem_id="runs-add-tag")
                self.remove = gr.Button("Remove tag")
                self.make = gr.Button("Make a page of it", elem_id="runs-page")
                self.delete = gr.Button("Delete …", variant="stop", elem_id="runs-delete")
            with gr.Row(visible=False) as self.asking:
                gr.HTML(fragments.note("Deleted for good, with everything in its folder."))
                self.sure = gr.Button("Delete it", variant="stop", elem_id="runs-sure")
                self.keep = gr.Button("Keep it")
            self.compared = gr.HTML(elem_id="runs-compared")
            self.file = gr.File(label="Page", visible=False, interactive=False, elem_id="runs-file")
        self._wire()

    def _wire(self) -> None:
        filters = [self.words, self.verb, self.tag]
        self.shown = [self.count, self.gallery, self.folders, self.verb, self.tag]
        one = [self.chosen, self.actions, self.about, self.other, self.new_tag, self.asking]
        one += [self.compared, self.file, self.problem]
        for box in filters:
            # what is typed is followed letter by letter; lists are set by us, too
            heard = box.change if box is self.words else box.input
            heard(self.render, filters, self.shown, **QUIET)
        self.gallery.select(self._choose, self.folders, one, **QUIET)
        self.other.input(self._compare, [self.chosen, self.other], self.compared, **QUIET)
        tagged = [*one, *self.shown]
        given = [self.chosen, self.new_tag, *filters]
        self.add.click(lambda *v: self._tag(True, *v), given, tagged, **QUIET)
        self.remove.click(lambda *v: self._tag(False, *v), given, tagged, **QUIET)
        self.make.click(self._page, [self.chosen, self.other], [self.file, self.problem], **QUIET)
        self.delete.click(lambda: gr.Row(visible=True), None, self.asking, **QUIET)
        self.keep.click(lambda: gr.Row(visible=False), None, self.asking, **QUIET)
        self.sure.click(self._delete, [self.chosen, *filters], tagged, **QUIET)

    def render(self, words: str = "", verb: str = ANY, tag: str = ANY) -> Updates:
        """Show the runs that the filters leave, and the filters there are."""
        runs = find_runs(self._root)
        kinds = sorted({k for run in runs for k in (run.verb, method_of(run)) if k})
        tags = sorted({t for run in runs for t in tags_of(run)})
        wanted_verb, wanted_tag = (
            "" if value not in known else value for value, known in ((verb, kinds), (tag, tags))
        )
        found = filtered(runs, wanted_verb, words, wanted_tag)
        shown = found[:SHOWN]
        text = f"{len(found)} of {len(runs)} runs"
        if len(found) > len(shown):
            text += f", the newest {len(shown)} are shown"
        return {
            self.count: fragments.note(text if runs else "No runs yet. Start one in another tab."),
            self.gallery: [(self._thumbnail(run), _caption(run)) for run in shown],
            self.folders: [str(run.folder) for run in shown],
            self.verb: gr.Dropdown([ANY, *kinds], value=wanted_verb or ANY),
            self.tag: gr.Dropdown([ANY, *tags], value=wanted_tag or ANY),
        }

    def _choose(self, folders: list[str], event: gr.SelectData) -> Updates:
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(folders):
            return self._none()
        return self._one(folders[index])

    def _one(self, folder: str) -> Updates:
        """Show one run and what can be done with it."""
        try:
            run = self._run(folder)
        except Geo3dError as error:
            return self._none() | {self.problem: fragments.error_card(error)}
        others = [r.folder.name for r in find_runs(self._root) if r.verb == run.verb]
        others = [name for name in others if name != run.folder.name][:SHOWN]
        return {
            self.chosen: folder,
            self.actions: gr.Column(visible=True),
            self.about: self._about(run),
            self.other: gr.Dropdown([NOTHING, *others], value=NOTHING),
            self.new_tag: "",
            self.asking: gr.Row(visible=False),
            self.compared: "",
            self.file: gr.File(value=None, visible=False),
            self.problem: "",
        }

    def _none(self) -> Updates:
        return {
            self.chosen: "",
            self.actions: gr.Column(visible=False),
            self.asking: gr.Row(visible=False),
            self.problem: "",
        }

    def _run(self, folder: str) -> RunRecord:
        """Return a run that the gallery has; a request need not come from our page."""
        known = {str(run.folder): run for run in find_runs(self._root)}
        if folder not in known:
            raise InputError("job.unknown", "There is no such run.", "Reload the page.")
        return known[folder]

    def _about(self, run: RunRecord) -> str:
        found = verdict(run)
        facts = [(fact.label, fact.value, fact.meaning) for fact in main_facts(run)]
        tags = "".join(fragments.badge("info", tag) for tag in tags_of(run))
        mark = f'<div class="g3-row">{fragments.badge(found.look, run.status)}{tags}</div>'
        card = fragments.facts_card(facts, [found.text], mark)
        again = _again(run, self._root)
        line = escape(fragments.without_folders(shell_line(run.command)))
        return f'{card}<div class="g3-card">{again}<pre class="g3-command">{line}</pre></div>'

    def _compare(self, folder: str, other: str) -> str:
        try:
            return self._compared(self._run(folder), other)
        except Geo3dError as error:
            return fragments.error_card(error)

    def _compared(self, run: RunRecord, other: str) -> str:
        second = self._other(run, other)
        return f'<div class="g3-compared">{side_by_side([run, second])}</div>' if second else ""

    def _other(self, run: RunRecord, name: str) -> RunRecord | None:
        alike = (r for r in find_runs(self._root) if r.verb == run.verb)
        return next((r for r in alike if r.folder.name == name), None)

    def _tag(self, present: bool, folder: str, tag: str, *filters: Any) -> Updates:
        try:
            set_tag(self._root, self._run(folder).folder, tag, present)
        except Geo3dError as error:
            return {self.problem: fragments.error_card(error)}
        return self._one(folder) | self.render(*filters)

    def _page(self, folder: str, other: str) -> Updates:
        try:
            run = self._run(folder)
            second = self._other(run, other)
            runs: Sequence[RunRecord] = [run, second] if second else [run]
            path = fresh(self._scratch, "pages") / f"{slug(run.folder.name, 80)}.html"
            atomic_write_text(path, page(runs))
        except Geo3dError as error:
            return {self.problem: fragments.error_card(error)}
        return {self.file: gr.File(value=str(path), visible=True), self.problem: ""}

    def _delete(self, folder: str, *filters: Any) -> Updates:
        try:
            delete_run(self._root, self._run(folder).folder)
        except Geo3dError as error:
            return {self.problem: fragments.error_card(error), self.asking: gr.Row(visible=False)}
        return self._none() | self.render(*filters)

    def _thumbnail(self, run: RunRecord) -> str:
        """Return a small picture of a run, made once; its verb where there is none."""
        state = (run.folder / "state.json").stat().st_mtime_ns
        path = self._scratch / "thumbnails" / f"{slug(run.folder.name, 80)}-{state}.jpg"
        if not path.is_file():
            made = thumbnail(run.folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            if made is not None:
                atomic_write_bytes(path, made)
            else:
                plain = Image.new("RGB", (220, 160), _PLAIN)
                ImageDraw.Draw(plain).text((110, 80), run.verb[:30], "black", anchor="mm")
                plain.save(path)
        return str(path)


def _caption(run: RunRecord) -> str:
    when = run.created.strftime("%d %b %H:%M") if run.created else ""
    facts = ", ".join(f"{fact.label} {fact.value}" for fact in main_facts(run)[:1])
    tags = "".join(f" #{tag}" for tag in tags_of(run))
    parts = (run.name, f"{run.verb} {method_of(run)}".strip(), when, facts, tags.strip())
    return " · ".join(part for part in parts if part)


def _again(run: RunRecord, root: Path) -> str:
    """Return the way to run it again with changes: its tab with everything filled in, or words."""
    parts = run.folder.relative_to(root.resolve()).parts
    if parts[0] == "jobs":
        # The id is hexadecimal, or the gallery would not have found it as a job.
        link = f'<a href="?job={escape(parts[1], quote=True)}">Open it in its tab</a>'
        return f'<div class="g3-note">{link} to change something and run it again, or:</div>'
    return fragments.note("Run it again with changes on the command line:")
