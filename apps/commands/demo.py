"""Show all four methods on shipped examples, and one page with everything they made.

  geo3d demo                    two creatures matched, a short street, a chair from its image,
                                mortar of a drawn wall with repair: under three minutes on two cores
  geo3d demo --open             and the page is opened in a browser
  geo3d demo --pairs few        one pair of creatures of each kind, measured against their truth
  geo3d demo --pairs all        all 25 pairs; both with --preset and --set of geo3d match

Each part is an ordinary run of its verb, beside the others in the folder of runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apps.commands import add_common, show_run
from apps.commands.demo_pairs import run_pairs
from apps.running import Beginning, run_verb
from geo3d.errors import Cancelled, ConfigError, Geo3dError, printable
from geo3d.files import asset, atomic_write_text
from geo3d.progress import ProgressCallback, report
from geo3d.runs import Run

PAGE = "demo.html"
TITLE = "geo3d: four methods"
NOTE = (
    "Everything below was made on this machine, just now, from examples that ship with geo3d. "
    "Each part names the command that makes it again."
)
WALL = (3, "colors")
"""Seed and group of the wall; its mortar comes out broken, so that the repair has work."""
WALL_SIDES = (320, 480)
STREET_M, FRAMES = 24, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d demo``."""
    parser.add_argument(
        "--pairs", choices=("few", "all"), help="match pairs of creatures instead, with their truth"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_common(parser, "preset", "set", "seed", "device", "out", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where its page is."""
    if args.pairs:
        return run_pairs(args)
    if args.preset or args.set:
        raise ConfigError(
            "demo.flags_do_not_fit",
            "--preset and --set are for the matches of --pairs.",
            "geo3d demo --pairs few --preset fast",
        )
    done = run_verb(args, "demo", Beginning("four-methods"), lambda r, p: _show(args, r, p))
    page = done.outputs / PAGE
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    numbers = done.numbers
    lines = [_line(part) for part in numbers["parts"]]
    lines += [f"page with all of it: {page}", "more of this by mouse: geo3d app"]
    show_run(args, done, "\n".join(lines), page=str(page))
    return max(part["exit_code"] for part in numbers["parts"])


def parts(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Return the command lines of the demo by what they show; files they need are made."""
    from PIL import Image

    from geo3d.synth.walls import brick_wall

    seed = ["--seed", str(args.seed)] if args.seed is not None else []
    birds = [str(asset(f"shapes/off/bird{i}.off")) for i in (1, 3)]
    street = ["straight", "--length", str(STREET_M), "--set", f"outputs.frames={FRAMES}"]
    wall = folder / "wall.png"
    Image.fromarray(brick_wall(WALL[0], *WALL_SIDES, group=WALL[1]).image).save(wall)
    return {
        "a match of two shapes": ["match", *birds, "--method", "diffumatch", *seed],
        "a street from its layout": ["scene", *street, *seed],
        "an object from its image": [
            *("generate", str(asset("objects/examples/car.png")), "--student", *seed),
        ],
        "mortar, its topology repaired": ["segment", str(wall), "--repair"],
    }


def _show(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> None:
    from apps.report.page import page
    from apps.report.records import read_record

    begun = time.perf_counter()
    done, wanted = [], parts(args, run.outputs)
    for i, (title, words) in enumerate(wanted.items()):
        run.check_cancelled()
        report(progress, title, i, len(wanted))
        common = ["--device", args.device, *(["--out", args.out] if args.out else [])]
        done.append({"shows": title, **_part([*words, *common, "--json", "--quiet"])})
    records = [read_record(part["run"]) for part in done if part["run"]]
    if not records:
        error = done[0]["error"] or {}
        raise Geo3dError("demo.nothing_worked", str(error.get("message")), str(error.get("hint")))
    atomic_write_text(run.outputs / PAGE, page(records, TITLE, NOTE))
    run.finish({"parts": done, "seconds": round(time.perf_counter() - begun, 1)})


def _part(words: list[str]) -> dict[str, Any]:
    """Run one verb; what it prints is its result, or why there is none."""
    from apps.cli import main
    from apps.report.records import read_record
    from apps.report.summary import verdict

    said, begun = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(said):
        code = _as_program(main, words)
    if code == Cancelled.exit_code:
        raise Cancelled("The demo was cancelled.")
    told = json.loads(said.getvalue() or "{}")
    folder = str(told.get("run", ""))
    return {
        "verb": words[0],
        "exit_code": code,
        "seconds": round(time.perf_counter() - begun, 1),
        "run": folder,
        "said": verdict(read_record(folder)).text if folder else "",
        "error": told.get("error"),
    }


def _as_program(main: Callable[[list[str]], int], words: list[str]) -> int:
    """Run a verb under its own command line, which its manifest keeps."""
    before = sys.argv
    sys.argv = ["geo3d", *words]
    try:
        return main(words)
    finally:
        sys.argv = before


def _line(part: dict[str, Any]) -> str:
    told = part["said"] or printable(str((part["error"] or {}).get("message", "it failed")))
    return f"{part['verb']:<9} {part['shows']} ({part['seconds']:.0f} s): {told}"
