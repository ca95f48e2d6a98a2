"""The part of ``geo3d scene`` that changes a finished scene: --edit RUN.

  geo3d scene --edit runs/scene/RUN --move car-3 0 6           metres along x and z
  geo3d scene --edit RUN --remove car-3 --turn bus-1 90        several changes at once
  geo3d scene --edit RUN --restyle car-3 snow
  geo3d scene --edit RUN --insert car.glb 2.5 30 --class car   an object stands on the ground
  geo3d scene --edit RUN --tracks tracks.json                  the drive once more, things moving
  geo3d scene --edit RUN --list                                the ids of the scene

The changed scene gets a run folder of its own, RUN stays as it is.  Only the blocks that the change
touches are trained; the numbers say how many files of blocks are bit for bit those of RUN.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from apps.commands import emit, show_run
from apps.running import Beginning, require_files, run_verb
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run, open_run
from geo3d.work.tables import aligned

if TYPE_CHECKING:
    from geo3d.layout.layout import Layout
    from scenes.urban.config import SceneConfig
    from scenes.urban.edits import Edit
    from scenes.urban.moving import Track


_CHANGES = ("move", "turn", "restyle", "remove", "insert")


def add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an edit."""
    group = parser.add_argument_group("changing a finished scene (several changes at once, too)")
    group.add_argument("--edit", metavar="RUN", help="run folder of the scene; it stays as it is")
    for flag, names, help in (
        ("remove", ("ID",), "take away"),
        ("move", ("ID", "DX", "DZ"), "move by metres along x and z"),
        ("turn", ("ID", "DEG"), "turn about the vertical"),
        ("restyle", ("ID", "TEXT"), "give other words about its look"),
        ("insert", ("FILE", "X", "Z"), "stand a mesh (GLB, OBJ, ...) on the ground"),
    ):
        group.add_argument(
            f"--{flag}", nargs=len(names), metavar=names, action="append", default=[], help=help
        )
    group.add_argument("--class", dest="name", default="car", help="of --insert (default car)")
    group.add_argument("--size", metavar="M", type=float, help="metres of --insert in the plan")
    group.add_argument(
        "--tracks", metavar="FILE", help="only film it: vehicles move along the tracks of a file"
    )
    group.add_argument("--list", action="store_true", help="list the ids of the scene")


def run_edit(args: argparse.Namespace) -> int:
    """Apply the changes in a run folder of its own, print the numbers."""
    require_files(*(file for file, _, _ in args.insert))

    source = open_run(args.edit, verify_inputs=False)
    from geo3d.config import load_config
    from scenes.urban.config import SceneConfig
    from scenes.urban.layout_json import load_layout
    from scenes.urban.teachers.choice import check_words
    from scenes.urban.validate import require_drivable

    layout = load_layout(source.outputs / "scene" / "layout.json")
    if args.list:
        rows = [{"id": p.id, "class": p.name, "style": p.style} for p in layout.primitives]
        emit(args, {"primitives": rows}, aligned(list(rows[0]), rows))
        return 0
    config = load_config(SceneConfig, source.path / "config.yaml", None, args.set)
    if args.tracks:
        return _run_tracks(args, source, layout, config)
    edit = asked_edit(args, layout)
    check_words(config, [style for _, style in args.restyle])
    require_drivable(layout, edit.layout)
    inputs = [source.outputs / "scene", *(file for file, _, _ in args.insert)]
    begun = Beginning(f"{source.record['name']}-edit", config, inputs)
    done = run_verb(args, "scene", begun, partial(_apply, source, edit))
    show_run(args, done, _text(done.numbers, done))
    return 0


def _run_tracks(args: argparse.Namespace, source: Run, layout: Layout, config: SceneConfig) -> int:
    """Film the scene with vehicles that move, in a run folder of its own.

    Raises:
        ConfigError: ``scene.tracks_alone``, beside changes.
        InputError: those of `scenes.urban.moving.load_tracks`.
    """
    from scenes.urban.moving import load_tracks

    if any(getattr(args, name) for name in _CHANGES):
        raise ConfigError(
            "scene.tracks_alone",
            "--tracks films a scene as it is; it does not go with changes.",
            "Change the scene first, then film the run that comes of it.",
        )
    require_files(args.tracks)
    tracks = load_tracks(args.tracks, layout)
    inputs = [source.outputs / "scene", args.tracks]
    begun = Beginning(f"{source.record['name']}-moving", config, inputs)
    done = run_verb(args, "scene", begun, partial(_film, source, tracks))
    show_run(args, done, f"{done.numbers['frames']} frames\n{done.outputs}")
    return 0


def _film(source: Run, tracks: Mapping[str, Track], run: Run, progress: ProgressCallback) -> None:
    from scenes.urban.config import SceneConfig
    from scenes.urban.driver import film_moving
    from scenes.urban.scene_folder import load_scene

    scene = load_scene(source.outputs / "scene")
    config = run.load_config(SceneConfig)
    run.finish(film_moving(scene, tracks, config.outputs, run.path, progress))


def asked_edit(args: argparse.Namespace, layout: Layout) -> Edit:
    """Return all changes of the command line as one.

    Raises:
        ConfigError: ``scene.no_change``, ``scene.bad_change``.
        InputError: ``layout.unknown_id`` and others of `scenes.urban.edits`.
    """
    from scenes.urban import edits
    from scenes.urban.insert import mesh_primitive

    style = args.style or ""
    changes: dict[str, Callable[..., Edit]] = {
        "move": lambda now, id, dx, dz: edits.move(now, id, (_number(dx), 0, _number(dz))),
        "turn": lambda now, id, deg: edits.rotate(now, id, math.radians(_number(deg))),
        "restyle": edits.restyle,
        "remove": edits.remove,
        "insert": lambda now, file, x, z: edits.add(
            now,
            mesh_primitive(
                now, file, (_number(x), _number(z)), args.name, length=args.size, style=style
            ),
        ),
    }
    history, made = edits.History(layout), []
    for name, change in changes.items():
        for given in getattr(args, name):
            made.append(history.apply(change(history.layout, *given)))
    if not made:
        flags = ", ".join(f"--{name}" for name in changes)
        raise ConfigError("scene.no_change", "There is no change.", f"Give one of {flags}.")
    return edits.joined(made)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError("scene.bad_change", f"{text!r} is no number of metres or degrees.", "")
    return value


def _apply(source: Run, edit: Edit, run: Run, progress: ProgressCallback) -> None:
    from scenes.urban.config import SceneConfig
    from scenes.urban.driver import finish
    from scenes.urban.edit_scene import edit_saved_scene
    from scenes.urban.teachers.choice import open_teacher

    config = run.load_config(SceneConfig)
    guidance = open_teacher(config, run.record["device"])
    edited, numbers = edit_saved_scene(
        source.outputs / "scene", edit, guidance, config, run.path, progress=progress
    )
    built = finish(edited.scene, config, run.path, guidance, numbers, progress)
    run.finish(built.metrics)


def _text(metrics: dict[str, Any], run_folder: Run) -> str:
    return (
        f"{metrics['blocks_trained']} blocks trained, {metrics['blocks_same']} bit for bit as "
        f"before, {metrics['views']} views, {metrics['edit_seconds']:.0f} s\n{run_folder.outputs}"
    )
