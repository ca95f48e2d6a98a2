"""Time the building blocks on this machine, compare ways of training.

  geo3d bench spectral              basis, ZoomOut and match beside pyFM; then 1k to 100k vertices
  geo3d bench spectral --part scaling --max-vertices 20000
  geo3d bench zero-shot             a pair with the prior, beside the published settings
  geo3d bench sparse                sparse layers beside dense oracles, and spconv if installed
  geo3d bench topology              losses (seconds, memory), Betti numbers, toy repairs
  geo3d bench topology --part volumes     broken vessels and hollow bodies, repaired in 3D
  geo3d bench topology --part losses --data TOPOMORTAR    on the real labels
  geo3d bench segment --help        compare losses: train, measure and tabulate a grid of runs
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
  geo3d bench objects --part cancel  seconds until a cancelled generation of the viewer is over
  geo3d bench street --part ablation --data FOLDER     objectives of street scenes, one table;
                                    FOLDER keeps its cells: given again it goes on
  geo3d bench street --part scale --data FOLDER        100, 1000, 5000 m: memory, time per metre
  geo3d bench street --part seams --data RUN           jumps at the borders of a scene's cells
  geo3d bench street --part edit --data RUN            move one vehicle, compare all blocks

Seconds are medians; on a shared machine quote the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, add_part, emit
from apps.running import Beginning, require_folders, run_verb

if TYPE_CHECKING:
    from geo3d.progress import ProgressCallback
    from geo3d.runs import Run

Tables = dict[str, list[dict[str, Any]]]
FLAGS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "metavar": "FOLDER", "help": "see above"},
    "vertices": {"type": int, "default": 5_000, "help": "size compared with pyFM"},
    "max-vertices": {"type": int, "default": 100_000, "help": "largest size of scaling"},
    "repeats": {"type": int, "default": 3, "help": "runs of which medians are taken"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be measured, each with its flags."""
    choices = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, bench in BENCHES.items():
        part = choices.add_parser(name, help=bench.help, description=bench.help)
        if bench.parts:
            everything = () if bench.needs_part else ("all",)
            part.add_argument(
                "--part",
                choices=(*everything, *bench.parts),
                default=None if bench.needs_part else "all",
                required=bench.needs_part,
            )
        for flag in bench.flags:
            if flag in FLAGS:
                part.add_argument(f"--{flag}", **FLAGS[flag])
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
    from geo3d.work.tables import aligned

    bench = BENCHES[args.what]
    folder = getattr(args, "data", None)
    if folder is None and bench.needs_part:
        from geo3d.errors import ConfigError

        raise ConfigError("bench.no_folder", "This bench needs --data.", "Name a folder.")
    if folder is not None and not bench.makes_folder:
        require_folders(folder)

    def work(run: Run, progress: ProgressCallback) -> None:
        run.finish(bench.measure(args, run, progress))

    done = run_verb(args, "bench", lambda: Beginning(args.what, device="cpu"), work)
    tables = done.numbers
    text = "\n\n".join(f"{name}\n{aligned(list(rows[0]), rows)}" for name, rows in tables.items())
    emit(args, {**tables, "run": str(done.path)}, f"{text}\n\nkept in {done.path}")
    return 0


def _spectral(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.spectral import SIZES, compare, scaling

    tables = {}
    if args.part != "scaling":
        tables[f"against pyFM, {args.vertices} vertices"] = compare(
            args.vertices, args.seed, args.repeats, progress
        )
    if args.part != "compare":
        sizes = tuple(size for size in SIZES if size <= args.max_vertices)
        tables["cost of a match by size"] = scaling(sizes, args.seed, progress)
    return tables


def _zero_shot(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.zero_shot import bench_zero_shot

    rows = bench_zero_shot(args.vertices, args.seed, progress=progress)
    return {f"one pair, {args.vertices} vertices": rows}


def _conditions(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.scene_speed import bench_conditions

    return {"layout maps": bench_conditions(args.data, args.seed, progress=progress)}


def _objects(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.objects import compare_methods, write_table
    from apps.bench.objects_methods import ComparisonConfig
    from apps.bench.objects_speed import bench_generation
    from geo3d.config import load_config
    from geo3d.files import asset

    tables = {}
    if args.part == "cancel":
        from apps.bench.cancel import bench_cancel

        return {"cancelled in the sampler": bench_cancel(progress=progress)}
    if args.part in ("reconstruction", "guidance"):
        from apps.bench import objects_reconstruction as reconstruction

        kept = load_config(reconstruction.ReconstructionConfig, overrides=args.set)
        if args.part == "guidance":
            return {"guidance of the teacher": reconstruction.bench_guidance(kept, progress)}
        return {"encoded and decoded": reconstruction.bench_reconstruction(kept, progress)}
    if args.part != "speed":
        config = load_config(ComparisonConfig, overrides=args.set)
        is_there = args.part == "table"
        rows = write_table(config) if is_there else compare_methods(config, progress)
        tables["ways of distilling"] = rows
    if args.part in ("all", "speed"):
        model = args.data or asset("objects/pipeline")
        tables["from picture to mesh"] = bench_generation(model, args.repeats, args.seed, progress)
    return tables


def _hashgrid(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.hashgrid import POINTS, bench_hashgrid

    name = f"hash grid, {POINTS} points, 16 levels of 2 features"
    return {name: bench_hashgrid(args.repeats, args.seed, progress=progress)}


def _render(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.scene_speed import bench_render

    return {"streets, 64^2 views": bench_render(seed=args.seed, progress=progress)}


def _street(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench import street as bench_street
    from scenes.urban.scene_folder import load_scene

    given = tuple(args.set)
    if args.part == "ablation":
        rows = bench_street.bench_ablation(args.data, given, progress=progress)
    elif args.part == "scale":
        rows = bench_street.bench_scale(args.data, given, progress=progress)
    elif args.part == "seams":
        rows = bench_street.bench_seams(load_scene(args.data / "outputs" / "scene"), progress)
    else:
        rows = bench_street.bench_edit(args.data, given, progress)
    return {f"street scenes, {args.part}": rows}


def _sparse(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.sparse import SIZES, bench_sparse

    sizes = tuple(size for size in SIZES if size[0] ** 3 <= args.max_vertices)
    return bench_sparse(sizes, args.repeats, args.seed, progress)


def _topology(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.topology import bench_betti, bench_losses
    from apps.bench.topology_toys import bench_toys
    from apps.bench.topology_volumes import bench_volumes

    tables = {}
    if args.part in ("all", "losses"):
        tables["losses, batch of two 512^2 pictures, forward and backward"] = bench_losses(
            args.data, args.repeats, args.seed, progress=progress
        )
    if args.part in ("all", "betti"):
        tables["Betti numbers"] = bench_betti(seed=args.seed)
    if args.part in ("all", "toys"):
        tables["steps in which each term alone repairs the toys"] = bench_toys(
            progress, run.previews
        )
    if args.part in ("all", "volumes"):
        name = "Betti numbers of volumes before and after each term alone"
        tables[name] = bench_volumes(args.seed, progress, run.previews)
    return tables


def _load(args: argparse.Namespace, run: Run, progress: ProgressCallback) -> Tables:
    from apps.bench.load import bench_load

    return {"a match of two birds": bench_load(progress)}


@dataclass(frozen=True)
class Bench:
    """Something that can be measured."""

    measure: Callable[[argparse.Namespace, Run, ProgressCallback], Tables]
    help: str
    flags: tuple[str, ...] = ()
    """Of `FLAGS`, or common ones, besides those of every bench."""
    parts: tuple[str, ...] = ()
    needs_part: bool = False
    """Whether there is no doing all parts, and no part without --data."""
    makes_folder: bool = False
    """Whether --data need not be there yet."""


BENCHES = {
    "spectral": Bench(
        _spectral,
        "basis, ZoomOut and match beside pyFM, and by size",
        ("vertices", "max-vertices", "repeats"),
        ("compare", "scaling"),
    ),
    "zero-shot": Bench(
        _zero_shot, "a pair with the prior, beside the published settings", ("vertices",)
    ),
    "sparse": Bench(
        _sparse, "sparse layers beside dense oracles and spconv", ("max-vertices", "repeats")
    ),
    "topology": Bench(
        _topology,
        "topology losses, on generated walls or --data TOPOMORTAR; Betti numbers; repairs",
        ("data", "repeats"),
        ("losses", "betti", "toys", "volumes"),
    ),
    "conditions": Bench(
        _conditions, "maps of a street's layout; of those in --data, too", ("data",)
    ),
    "hashgrid": Bench(_hashgrid, "hash grids, compiled beside plain torch", ("repeats",)),
    "render": Bench(_render, "rays/s and memory of streets of 100 m, 1 km and 5 km"),
    "objects": Bench(
        _objects,
        "ways of distilling the small image-to-3D pipeline, and its stages (--data PIPELINE)",
        ("data", "repeats", "set"),
        ("quality", "table", "speed", "reconstruction", "guidance", "cancel"),
    ),
    "street": Bench(
        _street,
        "street scenes: --data is a folder that keeps cells (ablation, scale) or a finished run",
        ("data", "set"),
        ("ablation", "scale", "seams", "edit"),
        needs_part=True,
        makes_folder=True,
    ),
    "load": Bench(_load, "processor time of a match alone and beside busy processes"),
}
"""What can be measured."""
