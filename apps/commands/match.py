"""Find the dense correspondence between two meshes (or point clouds).

  geo3d match SOURCE TARGET
  geo3d match cat.off dog.ply --landmarks pairs.txt      3 or more lines "source target", from 0
  geo3d match a.obj b.obj --initial-map map.txt          refine a map (a source index per line)
  geo3d match a.obj b.obj --initial-map c.mat --one-based --save-map d.mat     MATLAB's, from 1
  geo3d match whole.ply scan.ply --partial yes           one is a piece, in the units of the other
  geo3d match a.obj b.obj --choose 2                     the alternative, if parts are exchanged
  geo3d match FOLDER --workers 2                         all pairs of the meshes in a folder
  geo3d match FOLDER --template cat                      cat.* with all others

The run folder holds outputs/map.txt (line j: the source vertex of target vertex j, from 0, or -1
where a piece has no counterpart), map.npz (both directions, confidence, functional map, the
overlap of pieces), map_alternative.txt (the best map that differs in a part), source.glb and
target.glb in matched colours (grey: no counterpart), confidence.glb, previews/match.png, and
previews/fmap.png, the functional map (previews/live-fmap.png while the match runs).  For that of
a folder see docs/collections.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import RUN_FLAGS, add_common, show_run
from apps.commands.match_collection import is_collection, run_collection
from apps.running import (
    Beginning,
    full_path,
    remember,
    request_of,
    require_files,
    run_verb,
    settings,
)
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from shape_matching.method_names import methods_help

if TYPE_CHECKING:
    import numpy as np

    from geo3d.mesh.mesh import Mesh
    from shape_matching.correspondence import Correspondence

FINAL_FMAP, LIVE_FMAP = "fmap.png", "live-fmap.png"
"""Images of the functional map: the result, and while the match runs."""


FILES = ("source", "target", "landmarks", "initial_map")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d match``."""
    help = "mesh that colours and functions come from, or a folder of meshes"
    parser.add_argument("source", nargs="?", help=help)
    parser.add_argument("target", nargs="?", help="mesh they are carried to")
    methods = f"matching method (default axiomatic): {methods_help()}"
    parser.add_argument("--method", metavar="NAME", default="axiomatic", help=methods)
    parser.add_argument("--landmarks", metavar="FILE", help='lines "source target", # comments')
    parser.add_argument("--initial-map", metavar="FILE", help="map to refine: .txt .npy .npz .mat")
    parser.add_argument("--save-map", metavar="FILE", help="write the map here too, in these types")
    parser.add_argument(
        "--one-based", action="store_true", help="landmarks and these maps count vertices from 1"
    )
    parser.add_argument(
        "--partial",
        choices=("auto", "yes", "no"),
        help="whether one of them may be a piece: cut, holed, seen from one side "
        "(default auto: by areas and borders)",
    )
    help = "which of the maps that differ in a part: 1 the best, 2 the alternative"
    parser.add_argument("--choose", metavar="N", type=int, help=help)
    parser.add_argument(
        "--template", metavar="NAME", help="of a folder: match this with all others"
    )
    parser.add_argument("--workers", metavar="N", type=int, help="of a folder: processes")
    parser.add_argument("--up", choices=("y", "z"), default="y", help="up axis of the images")
    add_common(parser, "engine", "slurm", *RUN_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Match, write the run folder, print the summary."""
    if is_collection(args):
        return run_collection(args)
    done = run_verb(args, "match", partial(_begin, args), _match, " ".join(FILES))
    show_run(args, done, _text(done.numbers, done), map=str(done.outputs / "map.txt"))
    return 0


def _begin(args: argparse.Namespace) -> Beginning:
    require_files(*(getattr(args, name) for name in FILES))
    _check_request(args)
    from shape_matching.config import MatchConfig
    from shape_matching.map_files import require_map_type

    config = settings(args, MatchConfig, {"partial": args.partial, "choose": args.choose})
    request: dict[str, Any] = {name: full_path(getattr(args, name)) for name in FILES}
    save_map = full_path(args.save_map)
    if save_map is not None:
        require_map_type(save_map)
    request |= {"one_based": args.one_based}
    # a slip in a list of landmarks leaves no run behind either
    _known(request)
    if config.prior:
        from shape_matching.prior.prior import load_prior

        load_prior(config.prior)
        config = replace(config, prior=str(full_path(config.prior)))
    return Beginning(
        f"{Path(args.source).stem}-{Path(args.target).stem}",
        config,
        [*(request[name] for name in FILES), config.prior],
        remember({**request, "method": args.method, "up": args.up, "save_map": save_map}),
    )


def _check_request(args: argparse.Namespace) -> None:
    from shape_matching.methods import METHODS, takes

    if args.template or args.workers or args.engine or args.slurm:
        raise ConfigError(
            "match.flags_do_not_fit",
            "--template, --workers, --engine and --slurm are for folders.",
            "geo3d match FOLDER [--template NAME] [--workers N]",
        )
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
            "match.two_starts",
            "Landmarks and a map are two different initial maps.",
            "Give one of them.",
        )


def _match(run_folder: Run, progress: ProgressCallback) -> None:
    import time

    from geo3d.mesh.io import load_mesh
    from shape_matching.config import MatchConfig
    from shape_matching.evaluate.figures import live_preview
    from shape_matching.methods import METHODS, takes

    request = request_of(run_folder)
    source, target = load_mesh(request["source"]), load_mesh(request["target"])
    method, live = METHODS[request["method"]], run_folder.previews / LIVE_FMAP
    options: dict[str, Any] = dict(_known(request))
    if takes(method, "on_map"):
        options["on_map"] = live_preview(live)
    config, device = run_folder.load_config(MatchConfig), run_folder.record["device"]
    begun = time.perf_counter()
    found = method(source, target, config, progress=progress, device=device, **options)
    seconds = time.perf_counter() - begun
    write_results(found, run_folder, request["up"])
    if request["save_map"]:
        found.save(request["save_map"], request["one_based"])
    live.unlink(missing_ok=True)
    run_folder.finish(
        {
            "method": request["method"],
            "source_vertices": source.n_vertices,
            "target_vertices": target.n_vertices,
            "seconds": round(seconds, 2),
            "probability": found.probability,
            "mean_confidence": float(found.confidence.mean()),
            "ambiguous": found.ambiguous,
            **overlap_shares(found),
            "scores": found.scores,
            "notes": list(found.notes),
        }
    )


def overlap_shares(found: Correspondence) -> dict[str, float]:
    """Return the shares of both surfaces that have a counterpart; nothing where all have."""
    import numpy as np

    from geo3d.mesh.ops import vertex_areas

    sides = (("source", found.source, found.overlap_1), ("target", found.target, found.overlap_2))
    return {
        f"{side}_overlap": round(float(np.average(mask, weights=vertex_areas(mesh))), 4)
        for side, mesh, mask in sides
        if mask is not None
    }


def _known(request: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read what the user knows, as keyword arguments of a method."""
    from shape_matching.map_files import load_p2p, read_landmarks

    known: dict[str, np.ndarray] = {}
    one_based = bool(request["one_based"])
    if request["landmarks"]:
        known["landmarks"] = read_landmarks(request["landmarks"], one_based)
    if request["initial_map"]:
        known["initial_map"] = load_p2p(request["initial_map"], one_based)
    return known


def write_results(found: Correspondence, run_folder: Run, up: str = "y") -> None:
    """Write the map, the coloured meshes and the image of ``found``."""
    from geo3d.mesh.io import save_mesh
    from geo3d.render.previews import match_image, position_colors, save_png, transfer_colors
    from geo3d.render.shading import UNKNOWN_COLOR
    from shape_matching.evaluate.figures import plot_fmap
    from shape_matching.map_files import save_p2p

    found.save(run_folder.outputs / "map.txt")
    found.save(run_folder.outputs / "map.npz")
    if found.alternative_21 is not None:
        save_p2p(run_folder.outputs / "map_alternative.txt", found.alternative_21, {})
    colors = position_colors(found.source)
    if found.overlap_1 is not None:
        colors[~found.overlap_1] = UNKNOWN_COLOR
    coloured: dict[str, tuple[Mesh, np.ndarray]] = {
        "source": (found.source, colors),
        "target": (found.target, transfer_colors(colors, found.p2p_21)),
        "confidence": (found.target, _confidence_colors(found.confidence)),
    }
    for name, (mesh, mesh_colors) in coloured.items():
        save_mesh(replace(mesh, vertex_colors=mesh_colors), run_folder.outputs / f"{name}.glb")
    image = match_image(found.source, found.target, found.p2p_21, covered=found.overlap_1, up=up)
    save_png(image, run_folder.previews / "match.png")
    if found.fmap_12 is not None:
        plot_fmap(run_folder.previews / FINAL_FMAP, found.fmap_12, "functional map")


def _confidence_colors(confidence: np.ndarray) -> np.ndarray:
    from geo3d.render.shading import error_colors

    return error_colors(1.0 - confidence, 1.0)


def _text(metrics: dict[str, Any], run_folder: Run) -> str:
    lines = [
        f"matched {metrics['target_vertices']} target vertices onto "
        f"{metrics['source_vertices']} source vertices in {metrics['seconds']} s",
        f"  right with probability {metrics['probability']:.2f} (mean error below 5), "
        f"mean confidence of vertices {metrics['mean_confidence']:.2f}"
        + (" (AMBIGUOUS: see the notes)" if metrics["ambiguous"] else ""),
        *(f"  note: {note}" for note in metrics["notes"]),
        f"  map:     {run_folder.outputs / 'map.txt'}",
        f"  image: {run_folder.previews / 'match.png'}",
    ]
    return "\n".join(lines)
