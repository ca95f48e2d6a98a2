"""What every result has: its meaning in a sentence, all files to download, how to make it again."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from apps.job_files import Job, read_json
from apps.report.page import page
from apps.report.records import RunRecord, read_record, shell_line
from apps.report.summary import verdict
from apps.viewer import fragments
from apps.viewer.job_parts import result_of
from geo3d.errors import Geo3dError
from geo3d.files import slug

ADDRESS = "geo3d/jobs"
"""Where the page asks for all files of a job."""
PACKED = frozenset({".png", ".jpg", ".gif", ".mp4", ".npz", ".glb"})
"""Files that no packing makes smaller."""


def meaning(job: Job) -> str:
    """Return what a finished job came to in a sentence, good or bad, as HTML.

    Raises:
        InputError: ``job.no_result``.
    """
    found = verdict(record_of(job))
    return f'<p class="g3-card g3-verdict g3-{found.look}" role="status">{escape(found.text)}</p>'


def record_of(job: Job) -> RunRecord:
    """Return the run of a finished job; where its manifest is gone, what the job knows of it.

    Raises:
        InputError: ``job.no_result``.
    """
    run, metrics = result_of(job)
    try:
        return read_record(run)
    except Geo3dError:
        argv = (read_json(job.folder / "job.json") or {}).get("argv", [])
        record = {"verb": job.settings.get("kind", ""), "argv": ["geo3d", *argv]}
        return RunRecord(run, "done", "", record, metrics)


def ending(job: Job, python: Sequence[str]) -> str:
    """Return the link to everything, and the lines that make the result again, as HTML.

    Args:
        python: lines that do it in Python.
    """
    words = [_shown(word, job) for word in record_of(job).command]
    line = fragments.without_folders(shell_line(words))
    link = (
        f'<p class="g3-all"><a href="{ADDRESS}/{job.id}.zip" download>Download everything (zip)</a>'
        ' <span class="g3-dim">inputs, outputs, pictures, numbers, settings, log, and a page of '
        "the result that needs no network</span></p>"
    )
    return link + fragments.commands([line, "", *python])


def _shown(word: str, job: Job) -> str:
    """Return a word of a command with inputs by their names, and what lies below the folder of
    runs as seen from beside it."""
    path = Path(word)
    if not path.is_absolute():
        return word
    if path.is_relative_to(job.folder / "inputs"):
        return path.name
    root = job.folder.parent.parent
    return path.relative_to(root.parent).as_posix() if path.is_relative_to(root) else word


def pack(job: Job, target: Path) -> Path:
    """Write everything that belongs to a finished job into a zip file and return it.

    Raises:
        InputError: ``job.no_result``.
    """
    run, _ = result_of(job)
    top = slug(job.title, 60)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as packed:
        for root, inside in ((run, ""), (job.folder / "inputs", "inputs/")):
            for path in sorted(root.rglob("*")):
                if path.is_symlink() or not path.is_file():
                    continue
                how = zipfile.ZIP_STORED if path.suffix.lower() in PACKED else None
                name = f"{top}/{inside}{path.relative_to(root).as_posix()}"
                packed.write(path, name, compress_type=how)
        try:
            packed.writestr(f"{top}/result.html", page([record_of(job)]))
        except Geo3dError:
            # The files are what was asked for; the page only shows them.
            pass
    return target
