"""Make a street scene from a layout: frames, film, mesh, points, Gaussians, numbers.

  geo3d scene straight --style sunny                  a made-up street; also curved, crossing
  geo3d scene curved --length 200 --style "snowy night" --preset cpu
  geo3d scene layout.json --style brick               a layout of your own
  geo3d scene sample_1.npy --start 40 --length 60     60 m of a published sample
  geo3d scene straight --preset learned               images by the small shipped network
  geo3d scene straight --preset learned --set method=lgvsd    distilled in place of fitted
  geo3d scene straight --teacher stable-diffusion-2-1-base --controlnet controlnet \\
              --preset published --style "a street in autumn"
  geo3d scene --resume runs/scene/RUN                 go on after an interruption
  geo3d scene --edit runs/scene/RUN --move car-3 0 6  change a finished scene, see docs/urban.md

Presets: smoke (shows that all runs), demo (default), cpu, learned, learned-cpu, published.  Without
--teacher the procedural painter draws, exactly and alike from every view; --teacher learned is the
small shipped network.  Both know the styles that `assets/urban/README.md` lists.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import RUN_FLAGS, add_common, show_run
from apps.commands.scene_edit import add_edit_arguments, run_edit
from apps.running import Beginning, full_path, require_files, require_folders, run_verb, settings
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run

if TYPE_CHECKING:
    from geo3d.layout.layout import Layout

KINDS = ("straight", "curved", "crossing")
USUAL_LENGTH = 60.0
LAYOUT = "layout.json"
TEACHERS = ("painter", "learned")
"""Teachers that are no folders (`scenes.urban.teachers.choice`)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d scene``."""
    parser.add_argument(
        "layout", nargs="?", help=f"layout (.json), published sample (.npy, .npz), or {KINDS}"
    )
    parser.add_argument("--style", metavar="TEXT", help='what it looks like, e.g. "snowy night"')
    parser.add_argument(
        "--length", metavar="M", type=float, help="metres of the street; of a file: of its drive"
    )
    parser.add_argument(
        "--start",
        metavar="M",
        type=float,
        default=0.0,
        help="metres of a drive left out before",
    )
    parser.add_argument("--teacher", metavar="DIR", help="painter (default), learned, or a folder")
    parser.add_argument("--controlnet", metavar="DIR", help="its ControlNet, if not in that folder")
    add_common(parser, *RUN_FLAGS)
    add_edit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Build the scene in a run folder, print where it is."""
    if args.edit:
        return run_edit(args)
    work = partial(_build, bool(args.resume))
    done = run_verb(args, "scene", partial(_begin, args), work, "layout style teacher controlnet")
    show_run(args, done, _text(done.numbers, done))
    return 0


def read_layout(what: str, length: float | None, start: float, seed: int) -> Layout:
    """Return a made-up street, or a layout or part of one from a file.

    Raises:
        InputError: ``layout.no_piece``, and those of the readers.
    """
    from geo3d.layout.layout import piece
    from geo3d.synth.streets.generate import generate_street
    from scenes.urban.imports.door import import_layout

    if what in KINDS:
        return generate_street(USUAL_LENGTH if length is None else length, seed, what)
    layout = import_layout(Path(what)).layout
    if length is None and not start:
        return layout
    return piece(layout, float("inf") if length is None else length, start)


def _begin(args: argparse.Namespace) -> Beginning:
    if not args.layout:
        raise ConfigError(
            "scene.no_layout",
            "There is no layout.",
            f"Name a file, or one of {', '.join(KINDS)}; or give --resume.",
        )
    inputs = [] if args.layout in KINDS else [args.layout]
    require_files(*inputs)
    named = [args.controlnet, None if args.teacher in TEACHERS else args.teacher]
    # a file in place of a folder is told how to become one, later
    require_folders(*(f for f in named if f and not Path(f).is_file()))
    from geo3d.files import atomic_write_json
    from scenes.urban.config import SceneConfig
    from scenes.urban.layout_json import save_layout
    from scenes.urban.teachers.choice import check_settings
    from scenes.urban.teachers.files import fingerprints

    given = {
        "prompt": args.style,
        "teacher": args.teacher if args.teacher in TEACHERS else full_path(args.teacher),
        "controlnet": full_path(args.controlnet),
    }
    config = settings(args, SceneConfig, given, preset="demo")
    check_settings(config)
    layout = read_layout(args.layout, args.length, args.start, config.seed)

    def prepare(run: Run) -> None:
        save_layout(layout, run.path / LAYOUT)
        named = [part for part in (config.teacher, config.controlnet) if part]
        if folders := [part for part in named if part not in TEACHERS]:
            atomic_write_json(run.path / "teacher.json", fingerprints(*folders))

    return Beginning(layout.name, config, inputs, prepare)


def _build(resume: bool, run_folder: Run, progress: ProgressCallback) -> None:
    from scenes.urban.config import SceneConfig
    from scenes.urban.driver import build_scene
    from scenes.urban.layout_json import load_layout

    built = build_scene(
        load_layout(run_folder.path / LAYOUT),
        run_folder.load_config(SceneConfig),
        run_folder.path,
        progress,
        run_folder.record["device"],
        resume=resume,
    )
    run_folder.finish(built.metrics)


def _text(metrics: dict[str, Any], run_folder: Run) -> str:
    shown = (
        ("depth_error_m", "depth error {:.2f} m"),
        ("miou", "mIoU {:.3f}"),
        ("consistency", "difference between views {:.3f}"),
        ("build_seconds", "built in {:.0f} s"),
        ("peak_memory_mib", "memory {:.0f} MiB"),
    )
    parts = [form.format(metrics[key]) for key, form in shown if metrics.get(key) is not None]
    return f"{', '.join(parts)}\n{run_folder.outputs}"
