"""Time the building blocks on this machine, compare ways of training.

  geo3d bench spectral              basis, ZoomOut and match beside pyFM; then 1k to 100k vertices
  geo3d bench spectral --part scaling --max-vertices 20000
  geo3d bench zero-shot             a pair with the prior, beside the published settings
  geo3d bench partial --part test --data FOLDER    pieces of creatures: error, overlap; FOLDER
                                    keeps pairs: given again it goes on (settings: MatchConfig)
  geo3d bench kinds --part test --data FOLDER      creatures of different kinds, and people to
                                    bipeds with --set dataset=FAUST (settings: KindsConfig)
  geo3d bench sparse                sparse layers beside dense oracles, and spconv if installed
  geo3d bench topology              losses (seconds, memory), Betti numbers, toy repairs
  geo3d bench topology --part volumes     broken vessels and hollow bodies, repaired in 3D
  geo3d bench topology --part losses --data TOPOMORTAR    on the real labels
  geo3d bench topology --part repair --data TOPOMORTAR    repair beside random repair, a ceiling
  geo3d bench topology --part no-walls --data TOPOMORTAR    walls told from other images
  geo3d bench segment --help        compare losses: train, measure and tabulate a grid of runs
  geo3d bench robust --data FOLDER  clean pairs beside the same with specks, seams, outliers;
                                    FOLDER keeps what is done, given again it goes on
                                    (settings: RobustConfig; --set dataset=DIR --set pairs=FILE)
  geo3d bench fuzz --data FOLDER    random combinations of defects: right, doubted, or wrong and
                                    sure; goes on like robust (settings: FuzzConfig)
  geo3d bench collection --data FOLDER    pairwise maps of collections beside consistent ones
                                    (settings: CollectionBenchConfig); given again it goes on
  geo3d bench load                  processor time of a match alone and beside busy processes
  geo3d bench conditions            frames/s of a layout's depth, class and instance maps
  geo3d bench conditions --data FOLDER            ... of the published samples too
  geo3d bench hashgrid              hash grids, forward and backward: compiled beside plain torch
  geo3d bench render                rays/s and memory of streets of 100 m, 1 km and 5 km
  geo3d bench objects --part quality --set work=WORK --set cells=HELD-OUT --set grid=DIR
                                    ways of distilling the small image-to-3D pipeline, one table;
                                    given again it goes on (settings: ComparisonConfig);
                                    --part table: of what there is so far
  geo3d bench objects --part speed --data PIPELINE    teacher beside students, stage by stage
  geo3d bench objects --part reconstruction --set work=WORK --set cells=HELD-OUT
                                    what the autoencoders keep of held-out objects;
                                    --part guidance: what the teacher makes, by its guidance
  geo3d bench objects --part images   --set cells=HELD-OUT    guess, teacher and students
  geo3d bench objects --part surfaces    whether generated meshes are closed and keep to --faces
  geo3d bench objects --part cancel  seconds until a cancelled generation of the viewer is over
  geo3d bench street --part ablation --data FOLDER     objectives of street scenes, one table;
                                    FOLDER keeps its cells: given again it goes on
  geo3d bench street --part scale --data FOLDER        100, 1000, 5000 m: memory, time per metre
  geo3d bench street --part seams --data RUN           jumps at the borders of a scene's cells
  geo3d bench street --part edit --data RUN            move one vehicle, compare all blocks
  geo3d bench street --part detail --data FOLDER       scenes beside the painter's pictures, in PSNR
                                    and ImageNet features; FOLDER/layouts may hold more layouts

Seconds are medians; on a shared machine quote the ratios.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from apps.commands import add_common, add_part, show_run
from apps.running import Beginning, require_flag, require_folders, run_verb
from geo3d.config import load_config
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.work.tables import aligned

FLAGS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "metavar": "FOLDER", "help": "see above"},
    "vertices": {"type": int, "default": 5_000, "help": "size compared with pyFM"},
    "max_vertices": {"type": int, "default": 100_000, "help": "largest size of scaling"},
    "repeats": {"type": int, "default": 3, "help": "runs of which medians are taken"},
}


@dataclass(frozen=True)
class Bench:
    """Something that can be measured."""

    help: str
    parts: Mapping[str, str]
    """By name: title of the table, with flags in braces; "" where the part returns several."""
    flags: tuple[str, ...] = ()
    """Of `FLAGS`, or common ones, besides those of every bench."""
    alone: tuple[str, ...] = ()
    """Parts that are done only when they are named."""
    needs_part: bool = False
    """Whether there is no doing all parts, and no part without --data."""


BENCHES = {
    "spectral": Bench(
        "basis, ZoomOut and match beside pyFM, and by size",
        {
            "compare": "against pyFM, {vertices} vertices",
            "scaling": "cost of a match by size",
        },
        ("vertices", "max_vertices", "repeats"),
    ),
    "zero-shot": Bench(
        "a pair with the prior, beside the published settings",
        {"": "one pair, {vertices} vertices"},
        ("vertices",),
    ),
    "partial": Bench(
        "pieces of creatures, cut or seen from one side, beside their truth",
        {"test": "pieces nobody looked at", "tune": "pieces looked at"},
        ("data", "set"),
        needs_part=True,
    ),
    "kinds": Bench(
        "pairs of different bodies: other seeds, other kinds, people to bipeds",
        {"test": "pairs nobody looked at", "tune": "pairs looked at"},
        ("data", "set"),
        needs_part=True,
    ),
    "sparse": Bench(
        "sparse layers beside dense oracles and spconv",
        {"": ""},
        ("max_vertices", "repeats"),
    ),
    "topology": Bench(
        "topology losses, on generated walls or --data TOPOMORTAR; Betti numbers; repairs",
        {
            "losses": "losses, batch of two 512^2 images, forward and backward",
            "rivals": "losses beside MONAI and topolosses, forward and backward",
            "betti": "Betti numbers",
            "toys": "steps in which each term alone repairs the toys",
            "volumes": "Betti numbers of volumes before and after each term alone",
            "repair": "Betti 0 / 1 errors (change of Dice), shipped segmenter, by group",
            "repair-volumes": "Betti 0 / 1 / 2 errors (change of Dice), drawn volumes",
            "repair-tune": "the same by prices, on validation images and drawn walls",
            "no-walls": "walls told from other images, shipped segmenter",
        },
        ("data", "repeats"),
        alone=("rivals", "repair", "repair-tune", "no-walls"),
    ),
    "conditions": Bench(
        "maps of a street's layout; of those in --data, too",
        {"": "layout maps"},
        ("data",),
    ),
    "hashgrid": Bench(
        "hash grids, compiled beside plain torch",
        {"": "hash grid, 262144 points, 16 levels of 2 features"},
        ("repeats",),
    ),
    "render": Bench(
        "rays/s and memory of streets of 100 m, 1 km and 5 km",
        {"": "streets, 64^2 views"},
    ),
    "objects": Bench(
        "ways of distilling the small image-to-3D pipeline, and its stages (--data PIPELINE)",
        {
            "quality": "ways of distilling",
            "table": "ways of distilling",
            "speed": "from image to mesh",
            "reconstruction": "encoded and decoded",
            "guidance": "guidance of the teacher",
            "images": "images of held-out objects to objects",
            "cancel": "cancelled in the sampler",
            "surfaces": "open edges of generated meshes, and numbers of faces",
        },
        ("data", "repeats", "set"),
        alone=("table", "reconstruction", "guidance", "images", "cancel", "surfaces"),
    ),
    "street": Bench(
        "street scenes: --data is a folder that keeps cells (ablation, detail, scale) or a run",
        {
            name: f"street scenes, {name}"
            for name in ("ablation", "scale", "seams", "edit", "detail")
        },
        ("data", "set"),
        needs_part=True,
    ),
    "robust": Bench(
        "clean pairs beside the same with defects of files; --data is a folder that keeps cells",
        {"": "errors x100 with defects of files"},
        ("data", "set"),
        needs_part=True,
    ),
    "fuzz": Bench(
        "random combinations of defects; --data is a folder that keeps them",
        {"": "pairs by outcome"},
        ("data", "set"),
        needs_part=True,
    ),
    "collection": Bench(
        "maps of collections, pairwise and made consistent; --data is a folder that keeps them",
        {"": "errors x100 of collections"},
        ("data", "set"),
        needs_part=True,
    ),
    "load": Bench(
        "processor time of a match alone and beside busy processes",
        {"": "a match of two birds"},
    ),
}
"""What can be measured."""


def functions(what: str) -> Mapping[str, Callable[..., Any]]:
    """Return what measures each part; only now is loaded what it needs.

    Each gets what it has parameters for: flags, progress, previews, overrides (`--set`), config.
    """
    match what:
        case "spectral":
            from apps.bench import spectral

            return {"compare": spectral.compare, "scaling": spectral.scaling}
        case "zero-shot":
            from apps.bench.zero_shot import bench_zero_shot

            return {"": bench_zero_shot}
        case "sparse":
            from apps.bench.sparse import bench_sparse

            return {"": bench_sparse}
        case "topology":
            from apps.bench import topology, topology_repair, topology_toys, topology_volumes
            from apps.bench.no_walls import bench_no_walls
            from apps.bench.topology_repair_tune import bench_tune
            from apps.bench.topology_repair_volumes import bench_repair_volumes
            from apps.bench.topology_rivals import bench_rivals

            return {
                "losses": topology.bench_losses,
                "rivals": bench_rivals,
                "betti": topology.bench_betti,
                "toys": topology_toys.bench_toys,
                "volumes": topology_volumes.bench_volumes,
                "repair": topology_repair.bench_repair,
                "repair-volumes": bench_repair_volumes,
                "repair-tune": bench_tune,
                "no-walls": bench_no_walls,
            }
        case "conditions" | "render":
            from apps.bench import scene_speed as scene

            return {"": scene.bench_render if what == "render" else scene.bench_conditions}
        case "hashgrid":
            from apps.bench.hashgrid import bench_hashgrid

            return {"": bench_hashgrid}
        case "objects":
            return _object_benches()
        case "partial" | "kinds" | "robust" | "fuzz" | "collection":
            return _of_maps(what)
        case "street":
            from apps.bench import street
            from apps.bench.street_detail import bench_detail

            return {
                "detail": bench_detail,
                "ablation": street.bench_ablation,
                "scale": street.bench_scale,
                "seams": street.bench_seams,
                "edit": street.bench_edit,
            }
        case _:
            from apps.bench.load import bench_load

            return {"": bench_load}


def _object_benches() -> dict[str, Callable[..., Any]]:
    from apps.bench import cancel, objects, objects_images, objects_speed, objects_surfaces
    from apps.bench import objects_reconstruction as reconstruction

    return {
        "quality": objects.compare_methods,
        "table": objects.write_table,
        "speed": objects_speed.bench_generation,
        "reconstruction": reconstruction.bench_reconstruction,
        "guidance": reconstruction.bench_guidance,
        "images": objects_images.bench_images,
        "cancel": cancel.bench_cancel,
        "surfaces": objects_surfaces.bench_surfaces,
    }


def _of_maps(what: str) -> Mapping[str, Callable[..., Any]]:
    match what:
        case "partial":
            from apps.bench import partial as pieces

            return {"test": pieces.bench_test, "tune": pieces.bench_tune}
        case "kinds":
            from apps.bench import kinds

            return {"test": kinds.bench_test, "tune": kinds.bench_tune}
        case "robust":
            from apps.bench.robust import bench_robust

            return {"": bench_robust}
        case "fuzz":
            from apps.bench.fuzz import bench_fuzz

            return {"": bench_fuzz}
        case _:
            from apps.bench.collection import bench_collection

            return {"": bench_collection}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be measured, each with its flags."""
    choices = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, bench in BENCHES.items():
        part = choices.add_parser(name, help=bench.help, description=bench.help)
        if len(bench.parts) > 1:
            everything = () if bench.needs_part else ("all",)
            part.add_argument(
                "--part",
                choices=(*everything, *bench.parts),
                default=None if bench.needs_part else "all",
                required=bench.needs_part,
            )
        for flag in bench.flags:
            if flag in FLAGS:
                part.add_argument(f"--{flag.replace('_', '-')}", **FLAGS[flag])
            else:
                add_common(part, flag)
        add_common(part, "seed", "out", "threads", "json", "quiet")
        part.set_defaults(seed=0, run_part=_run)
    help = "compare losses for segmentation: train, measure and tabulate a grid"
    add_part(choices, "bench", "segment", help)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, keep them in a run folder."""
    return args.run_part(args)


def _run(args: argparse.Namespace) -> int:
    bench = BENCHES[args.what]
    folder = getattr(args, "data", None)
    if bench.needs_part:
        # Cells are kept in a folder that the first call makes.
        require_flag(args, "data", "Name a folder.")
    else:
        require_folders(folder)
    begun = Beginning(args.what, device="cpu")
    done = run_verb(args, "bench", begun, partial(_measure, args, bench))
    tables = done.numbers.items()
    text = "\n\n".join(f"{name}\n{aligned(list(rows[0]), rows)}" for name, rows in tables)
    show_run(args, done, f"{text}\n\nkept in {done.path}")
    return 0


def _measure(args: argparse.Namespace, bench: Bench, run: Run, progress: ProgressCallback) -> None:
    flags = {name: getattr(args, name) for name in (*bench.flags, "seed")}
    flags["overrides"] = tuple(getattr(args, "set", ()))
    known = {**flags, "progress": progress, "previews": run.previews}
    wanted = getattr(args, "part", "all")
    tables: dict[str, Any] = {}
    for name, title in bench.parts.items():
        if wanted == name or (wanted == "all" and name not in bench.alone):
            call = functions(args.what)[name]
            given = {key: known[key] for key in inspect.signature(call).parameters if key in known}
            if "config" in inspect.signature(call).parameters:
                given["config"] = load_config(get_type_hints(call)["config"], overrides=args.set)
            made = call(**given)
            tables |= {title.format(**known): made} if title else made
    run.finish(tables)
