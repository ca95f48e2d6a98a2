"""List, find, tag and delete runs.

  geo3d runs                                  all runs below runs/, newest first
  geo3d runs --verb match --find "bird fast"  matches that say both words anywhere
  geo3d runs --html all.html                  a page with pictures
  geo3d runs RUN --add-tag good               then: geo3d runs --tag good
  geo3d runs RUN --again                      the command that makes it again
  geo3d runs RUN --delete                     asks first; --yes does not

Two runs side by side: geo3d view RUN_A RUN_B.  The workbench has the same in its tab Runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit
from geo3d.errors import Cancelled, ConfigError, InputError, printable
from geo3d.files import atomic_write_text

if TYPE_CHECKING:
    from apps.report.records import RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d runs``."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="run folders to tag or delete")
    parser.add_argument("--root", metavar="DIR", default="runs", help="folder of all runs (runs)")
    parser.add_argument("--verb", metavar="NAME", default="", help="only of this verb or method")
    parser.add_argument("--find", metavar="WORDS", default="", help="only what says these words")
    parser.add_argument("--tag", metavar="TAG", default="", help="only what has this tag")
    parser.add_argument("--limit", metavar="N", type=int, default=50, help="list at most N (50)")
    parser.add_argument("--html", metavar="FILE", help="write the list as a page with pictures")
    parser.add_argument("--add-tag", metavar="TAG", help="give these runs a tag")
    parser.add_argument("--remove-tag", metavar="TAG", help="take a tag from these runs")
    parser.add_argument("--again", action="store_true", help="print the commands of these runs")
    parser.add_argument("--delete", action="store_true", help="delete these runs")
    parser.add_argument("--yes", action="store_true", help="do not ask before deleting")
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """List runs, or do what is asked with those that are named."""
    if args.runs:
        return _change(args)
    if args.delete or args.again or args.add_tag or args.remove_tag:
        raise ConfigError("runs.no_run", "No run is named.", "geo3d runs RUN --delete")
    from apps.report.gallery import filtered, find_runs

    root = Path(args.root)
    if not root.is_dir():
        raise InputError(
            "folder.missing", f"There is no folder {root}.", "Name the folder of runs: --root DIR"
        )
    found = filtered(find_runs(root), args.verb, args.find, args.tag)
    shown = found[: max(args.limit, 0)]
    payload: dict[str, Any] = {"runs": [_row(run) for run in shown], "found": len(found)}
    lines = [_line(run) for run in shown] or ["no runs"]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} more (--limit)")
    if args.html:
        from apps.report.gallery_page import gallery_page

        path = atomic_write_text(args.html, gallery_page(shown)).resolve()
        payload["html"] = str(path)
        lines = [f"page: {path} ({len(shown)} runs)"]
    emit(args, payload, "\n".join(lines))
    return 0


def _change(args: argparse.Namespace) -> int:
    from apps.report.gallery import delete_run, set_tag
    from apps.report.records import read_record, shell_line

    folders = [Path(folder) for folder in args.runs]
    records = [read_record(folder) for folder in folders]
    root = Path(args.root)
    if args.delete:
        _confirm(args, folders)
        gone = [str(delete_run(root, folder)) for folder in folders]
        emit(args, {"deleted": gone}, "\n".join(f"deleted {path}" for path in gone))
        return 0
    if args.add_tag or args.remove_tag:
        tags = {}
        for folder in folders:
            for tag, present in ((args.remove_tag, False), (args.add_tag, True)):
                if tag:
                    tags[str(folder)] = set_tag(root, folder, tag, present)
        text = "\n".join(
            f"{folder}: {', '.join(told) or 'no tags'}" for folder, told in tags.items()
        )
        emit(args, {"tags": tags}, text)
        return 0
    if args.again:
        commands = [record.command for record in records]
        emit(args, {"commands": commands}, "\n".join(map(shell_line, commands)))
        return 0
    emit(args, {"runs": [_row(run) for run in records]}, "\n".join(map(_line, records)))
    return 0


def _confirm(args: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Ask before deleting; raise unless the answer is yes."""
    if args.yes:
        return
    if args.json or not sys.stdin.isatty():
        raise ConfigError(
            "runs.not_confirmed", "Deleting asks, and nobody can answer here.", "Give --yes."
        )
    print("\n".join(printable(str(folder)) for folder in folders), file=sys.stderr)
    if input(f"Delete {len(folders)} run(s) for good? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was deleted.")


def _row(run: RunRecord) -> dict[str, Any]:
    from apps.report.gallery import method_of, tags_of
    from apps.report.summary import main_facts, verdict

    return {
        "run": str(run.folder),
        "verb": run.verb,
        "method": method_of(run),
        "status": run.status,
        "created": str(run.record.get("created", "")),
        "seconds": run.seconds,
        "tags": tags_of(run),
        "facts": {fact.label: fact.value for fact in main_facts(run)},
        "verdict": verdict(run).text,
    }


def _line(run: RunRecord) -> str:
    from apps.report.gallery import tags_of
    from apps.report.summary import main_facts

    when = run.created.strftime("%Y-%m-%d %H:%M") if run.created else "?"
    facts = ", ".join(f"{fact.label} {fact.value}" for fact in main_facts(run)[:3])
    tags = "".join(f" #{tag}" for tag in tags_of(run))
    state = "" if run.status == "done" else f" [{run.status}]"
    return f"{when}  {run.verb:<9} {run.folder}{state}{tags}\n    {facts}"
