"""Find the dense correspondence between two meshes (or point clouds).

  geo3d match SOURCE TARGET
  geo3d match cat.off dog.ply --landmarks pairs.txt      3 or more lines "source target", from 0
  geo3d match a.obj b.obj --initial-map map.txt          refine a map (a source index per line)

The run folder holds outputs/map.txt (line j: the source vertex of target vertex j, from 0),
map.npz (both directions, confidence, functional map), source.glb and target.glb in matched
colours, confidence.glb, previews/match.png, and previews/fmap.png, the functional map
(previews/live-fmap.png while the match runs).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit, with_seed
from shape_matching.method_names import methods_help

if TYPE_CHECKING:
    import numpy as np

    from geo3d.mesh.mesh import Mesh
    from geo3d.runs import Run
    from shape_matching.correspondence import Correspondence

FINAL_FMAP, LIVE_FMAP = "fmap.png", "live-fmap.png"
"""Pictures of the functional map: the result, and while the match runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d match``."""
    parser.add_argument("source", nargs="?", help="mesh that colours and functions come from")
    parser.add_argument("target", nargs="?", help="mesh they are carried to")
    methods = f"matching method (default axiomatic): {methods_help()}"
    parser.add_argument("--method", metavar="NAME", default="axiomatic", help=methods)
    parser.add_argument("--landmarks", metavar="FILE", help='lines "source target", 0-based')
    parser.add_argument("--initial-map", metavar="FILE", help="map to refine, .txt or .npz")
    parser.add_argument("--up", choices=("y", "z"), default="y", help="up axis of the pictures")
    add_common(parser, "config", "preset", "set", "seed", "device", "out", "resume")
    add_common(parser, "json", "quiet")
    # Without the flag the seed is that of the settings.
    parser.set_defaults(seed=None)


def run(args: argparse.Namespace) -> int:
    """Match, write the run folder, print the summary."""
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _match(run_folder, args)
    import json

    manifest = json.loads((run_folder.path / "manifest.json").read_text(encoding="utf-8"))
    metrics = manifest["metrics"]
    payload = {**metrics, "run": str(run_folder.path), "map": str(run_folder.outputs / "map.txt")}
    emit(args, payload, _text(metrics, run_folder))
    return 0


def _start(args: argparse.Namespace) -> Run:
    from dataclasses import replace

    from geo3d.config import load_config
    from geo3d.device import pick_device
    from geo3d.runs import start_run
    from shape_matching.config import MatchConfig

    _check_request(args)
    config = with_seed(load_config(MatchConfig, args.config, args.preset, args.set), args.seed)
    pick_device(args.device)
    # a slip in a list of starts leaves no run behind either
    _starts({"landmarks": args.landmarks, "initial_map": args.initial_map})
    config = replace(config, prior=_checked_prior(config.prior))
    files = [args.source, args.target, args.landmarks, args.initial_map, config.prior]
    inputs = [str(Path(f).resolve()) for f in files if f]
    name = f"{Path(args.source).stem}-{Path(args.target).stem}"
    run_folder = start_run("match", name, config, args.out, config.seed, args.device, inputs)
    _remember(run_folder, args)
    return run_folder


def _check_request(args: argparse.Namespace) -> None:
    from geo3d.errors import ConfigError, InputError
    from shape_matching.methods import METHODS, takes

    if not args.source or not args.target:
        raise ConfigError("match.two_shapes", "Two mesh files are needed.", "geo3d match A B")
    if args.method not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError("match.unknown_method", f"No method '{args.method}'.", f"Known: {known}.")
    if not takes(METHODS[args.method], "landmarks") and (args.landmarks or args.initial_map):
        raise ConfigError(
            "match.start_not_used",
            f"The method '{args.method}' takes neither landmarks nor a map.",
            "Use --method axiomatic or diffumatch.",
        )
    if args.landmarks and args.initial_map:
        raise ConfigError(
            "match.two_starts", "Landmarks and a map are two different starts.", "Give one of them."
        )
    for file in (args.source, args.target, args.landmarks, args.initial_map):
        if file and not Path(file).is_file():
            raise InputError("match.no_file", f"There is no file {file}.", "Check the path.")


def _checked_prior(file: str) -> str:
    """Return the full path of a prior that can be read; empty, the shipped one, stays so."""
    if not file:
        return ""
    from shape_matching.prior.prior import load_prior

    load_prior(file)
    return str(Path(file).resolve())


def _remember(run_folder: Run, args: argparse.Namespace) -> None:
    """Write down what --resume needs beside the settings."""
    from geo3d.files import atomic_write_json

    paths = {
        name: str(Path(getattr(args, name)).resolve()) if getattr(args, name) else None
        for name in ("source", "target", "landmarks", "initial_map")
    }
    atomic_write_json(
        run_folder.path / "request.json",
        {**paths, "method": args.method, "device": args.device, "up": args.up},
    )


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError, InputError
    from geo3d.runs import open_run, run_state

    if args.source or args.target or args.landmarks or args.initial_map:
        raise ConfigError(
            "match.resume_is_complete", "A resumed run knows its meshes.", "Give --resume alone."
        )
    verb = run_state(args.resume)["record"]["verb"]
    if verb != "match" or not (Path(args.resume) / "request.json").is_file():
        raise InputError(
            "match.cannot_resume",
            f"{args.resume} is not a run of `geo3d match` that can go on.",
            "Start it again.",
        )
    return open_run(args.resume)


def _match(run_folder: Run, args: argparse.Namespace) -> None:
    import json
    import time

    from geo3d.listeners import cancel_listener, chain, jsonl_listener, tqdm_listener
    from geo3d.mesh.io import load_mesh
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.figures import live_picture
    from shape_matching.methods import METHODS, takes

    request = json.loads((run_folder.path / "request.json").read_text(encoding="utf-8"))
    progress = chain(
        cancel_listener(run_folder),
        jsonl_listener(run_folder.path / "progress.jsonl"),
        tqdm_listener(disable=args.quiet or args.json),
    )
    source, target = load_mesh(request["source"]), load_mesh(request["target"])
    method, live = METHODS[request["method"]], run_folder.previews / LIVE_FMAP
    options: dict[str, Any] = dict(_starts(request))
    if takes(method, "on_map"):
        options["on_map"] = live_picture(live)
    begun = time.perf_counter()
    found = method(
        source,
        target,
        run_folder.load_config(MatchConfig),
        progress=progress,
        device=request["device"],
        **options,
    )
    seconds = time.perf_counter() - begun
    write_results(found, run_folder, request["up"])
    live.unlink(missing_ok=True)
    run_folder.finish(
        {
            "method": request["method"],
            "source_vertices": source.n_vertices,
            "target_vertices": target.n_vertices,
            "seconds": round(seconds, 2),
            "mean_confidence": float(found.confidence.mean()),
            "ambiguous": found.ambiguous,
            "scores": found.scores,
            "notes": list(found.notes),
        }
    )


def _starts(request: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read what the user knows, as keyword arguments of a method."""
    from shape_matching.correspondence import load_p2p

    starts: dict[str, np.ndarray] = {}
    if request["landmarks"]:
        starts["landmarks"] = read_landmarks(request["landmarks"])
    if request["initial_map"]:
        starts["initial_p2p_21"] = load_p2p(request["initial_map"])
    return starts


def write_results(found: Correspondence, run_folder: Run, up: str = "y") -> None:
    """Write the map, the coloured meshes and the picture of ``found``."""
    from dataclasses import replace

    from geo3d.mesh.io import save_mesh
    from geo3d.render.previews import match_preview, position_colors, transfer_colors
    from shape_matching.evaluate.figures import plot_fmap

    found.save(run_folder.outputs / "map.txt")
    found.save(run_folder.outputs / "map.npz")
    colors = position_colors(found.source)
    coloured: dict[str, tuple[Mesh, np.ndarray]] = {
        "source": (found.source, colors),
        "target": (found.target, transfer_colors(colors, found.p2p_21)),
        "confidence": (found.target, _confidence_colors(found.confidence)),
    }
    for name, (mesh, mesh_colors) in coloured.items():
        save_mesh(replace(mesh, vertex_colors=mesh_colors), run_folder.outputs / f"{name}.glb")
    match_preview(
        found.source, found.target, found.p2p_21, run_folder.previews / "match.png", up=up
    )
    if found.fmap_12 is not None:
        plot_fmap(run_folder.previews / FINAL_FMAP, found.fmap_12, "functional map")


def read_landmarks(path: str) -> np.ndarray:
    """Read (p, 2) vertex pairs.

    Raises:
        FileFormatError: ``landmarks.bad_file``.
    """
    import numpy as np

    from geo3d.errors import FileFormatError

    try:
        rows = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        pairs = np.array([r for r in rows if r], dtype=np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"its shape is {pairs.shape}")
        return pairs
    except (ValueError, OverflowError, OSError) as error:
        raise FileFormatError(
            "landmarks.bad_file",
            f"{Path(path).name} is not a list of vertex pairs: {error}.",
            'Each line has two whole numbers: "source_vertex target_vertex", counted from 0.',
        ) from error


def _confidence_colors(confidence: np.ndarray) -> np.ndarray:
    from geo3d.render.shading import error_colors

    return error_colors(1.0 - confidence, 1.0)


def _text(metrics: dict[str, Any], run_folder: Run) -> str:
    lines = [
        f"matched {metrics['target_vertices']} target vertices onto "
        f"{metrics['source_vertices']} source vertices in {metrics['seconds']} s",
        f"  mean confidence {metrics['mean_confidence']:.3f}"
        + (" (AMBIGUOUS: see the notes)" if metrics["ambiguous"] else ""),
        *(f"  note: {note}" for note in metrics["notes"]),
        f"  map:     {run_folder.outputs / 'map.txt'}",
        f"  picture: {run_folder.previews / 'match.png'}",
    ]
    return "\n".join(lines)
