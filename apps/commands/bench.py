"""Time the building blocks on this machine.

  geo3d bench spectral              basis, ZoomOut and match beside pyFM; then 1k to 100k vertices
  geo3d bench spectral --part scaling --max-vertices 20000
  geo3d bench zero-shot             a pair with the prior, beside the published settings
  geo3d bench sparse                sparse layers beside dense oracles, and spconv if installed
  geo3d bench topology              losses (seconds, memory), Betti numbers, toy repairs
  geo3d bench topology --part volumes     broken vessels and hollow bodies, repaired in 3D
  geo3d bench topology --part losses --data TOPOMORTAR    on the real labels
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
from pathlib import Path
from typing import Any

from apps.commands import add_common, emit

PARTS: dict[str, tuple[str, ...]] = {
    "spectral": ("compare", "scaling"),
    "zero-shot": (),
    "sparse": (),
    "topology": ("losses", "betti", "toys", "volumes"),
    "conditions": (),
    "hashgrid": (),
    "render": (),
    "objects": ("quality", "table", "speed", "reconstruction", "guidance", "cancel"),
    "street": ("ablation", "scale", "seams", "edit"),
}
"""What can be measured, and in which parts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d bench``."""
    parser.add_argument("what", choices=tuple(PARTS), help="what to measure")
    parser.add_argument(
        "--part",
        choices=("all", *sorted({part for parts in PARTS.values() for part in parts})),
        default="all",
        help="compare, scaling (spectral); losses, betti, toys, volumes (topology); quality, "
        "table, speed, reconstruction, guidance, cancel (objects); ablation, scale, seams, "
        "edit (street)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="TopoMortar's dataset (topology), sample layouts (conditions), pipeline (objects), "
        "folder of cells or finished run (street)",
    )
    parser.add_argument("--vertices", type=int, default=5_000, help="size compared with pyFM")
    parser.add_argument("--max-vertices", type=int, default=100_000, help="largest size of scaling")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which medians are taken")
    add_common(parser, "set", "seed", "out", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, keep them in a run folder.

    Raises:
        ConfigError: "bench.wrong_part", "bench.no_settings".
    """
    from geo3d.errors import ConfigError
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from geo3d.runs import start_run

    if args.part not in ("all", *PARTS[args.what]):
        known = ", ".join(PARTS[args.what]) or "none"
        raise ConfigError(
            "bench.wrong_part", f"{args.what} has no part {args.part}.", f"Its parts: {known}."
        )
    if args.set and args.what not in ("objects", "street"):
        raise ConfigError("bench.no_settings", f"{args.what} has no settings to --set.", "")
    if args.what == "street" and (args.data is None or args.part == "all"):
        raise ConfigError(
            "bench.no_folder",
            "This bench needs one --part and --data.",
            "A folder that keeps the cells (ablation, scale), or a finished run (seams, edit).",
        )
    with start_run("bench", args.what, None, args.out, args.seed, "cpu") as run_folder:
        progress = chain(
            cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json)
        )
        if args.what == "topology":
            tables = _topology(args, progress, run_folder.path / "previews")
        else:
            measure = {
                "spectral": _spectral,
                "zero-shot": _zero_shot,
                "sparse": _sparse,
                "conditions": _conditions,
                "hashgrid": _hashgrid,
                "render": _render,
                "objects": _objects,
                "street": _street,
            }[args.what]
            tables = measure(args, progress)
        run_folder.finish(tables)
    from geo3d.work.tables import aligned

    text = "\n\n".join(f"{name}\n{aligned(list(rows[0]), rows)}" for name, rows in tables.items())
    emit(args, {**tables, "run": str(run_folder.path)}, f"{text}\n\nkept in {run_folder.path}")
    return 0


def _spectral(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
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


def _zero_shot(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.zero_shot import bench_zero_shot

    rows = bench_zero_shot(args.vertices, args.seed, progress=progress)
    return {f"one pair, {args.vertices} vertices": rows}


def _conditions(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.scene_speed import bench_conditions

    return {"layout maps": bench_conditions(args.data, args.seed, progress=progress)}


def _objects(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
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


def _hashgrid(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.hashgrid import POINTS, bench_hashgrid

    name = f"hash grid, {POINTS} points, 16 levels of 2 features"
    return {name: bench_hashgrid(args.repeats, args.seed, progress=progress)}


def _render(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.scene_speed import bench_render

    return {"streets, 64^2 views": bench_render(seed=args.seed, progress=progress)}


def _street(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
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


def _sparse(args: argparse.Namespace, progress: Any) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.sparse import SIZES, bench_sparse

    sizes = tuple(size for size in SIZES if size[0] ** 3 <= args.max_vertices)
    return bench_sparse(sizes, args.repeats, args.seed, progress)


def _topology(args: Any, progress: Any, previews: Path) -> dict[str, list[dict[str, Any]]]:
    from apps.bench.topology import bench_betti, bench_losses

    tables = {}
    if args.part in ("all", "losses"):
        tables["losses, batch of two 512^2 pictures, forward and backward"] = bench_losses(
            args.data, args.repeats, args.seed, progress=progress
        )
    if args.part in ("all", "betti"):
        tables["Betti numbers"] = bench_betti(seed=args.seed)
    if args.part in ("all", "toys"):
        tables["steps in which each term alone repairs the toys"] = _toys(progress, previews)
    if args.part in ("all", "volumes"):
        name = "Betti numbers of volumes before and after each term alone"
        tables[name] = _volumes(args.seed, progress, previews)
    return tables


def _toys(progress: Any, previews: Path) -> list[dict[str, Any]]:
    """Let every term repair every toy; keep the picture in the run folder."""
    from apps.bench.topology_toys import TERMS, descend_all, painted, toys
    from geo3d.render.previews import contact_sheet, save_png

    repairs = {(found.toy, found.term): found for found in descend_all(progress=progress)}
    images, labels = [], []
    for toy in toys():
        images += [painted(toy.true, toy), painted(toy.wrong, toy)]
        labels += ["truth", "wrong"]
        images += [painted(repairs[toy.name, term].final, toy) for term in TERMS]
        labels += [_SHORT.get(term, term) for term in TERMS]
    save_png(contact_sheet(images, labels, columns=len(TERMS) + 2), previews / "toys.png")
    rows = []
    for term in TERMS:
        row: dict[str, Any] = {"term": term}
        for toy in toys():
            found = repairs[toy.name, term]
            left = "left with errors " + "/".join(map(str, found.errors[-1]))
            row[toy.name] = left if found.steps_needed is None else found.steps_needed
        rows.append(row)
    return rows


def _volumes(seed: int, progress: Any, previews: Path) -> list[dict[str, Any]]:
    """Let every 3D term repair every broken volume; keep the picture in the run folder."""
    from apps.bench.topology_toys import descend_all
    from apps.bench.topology_volumes import VOLUME_TERMS, broken_volumes
    from geo3d.render.previews import contact_sheet, save_png
    from geo3d.topology.betti import betti_numbers

    starts = broken_volumes(seed)
    found = descend_all(100, progress, starts, VOLUME_TERMS)
    repairs = {(repair.toy, repair.term): repair for repair in found}
    rows: list[dict[str, Any]] = [{"term": "truth"}, {"term": "broken"}]
    rows += [{"term": term} for term in VOLUME_TERMS]
    images, labels = [], []
    for toy in starts:
        masks = [toy.true, toy.wrong, *(repairs[toy.name, term].final for term in VOLUME_TERMS)]
        for row, mask in zip(rows, masks, strict=True):
            repair = repairs.get((toy.name, row["term"]))
            numbers = str(betti_numbers(mask))
            needed = repair.steps_needed if repair else None
            row[toy.name] = numbers if needed is None else f"{numbers} after {needed} steps"
            images.append(_shown(mask, toy))
            labels.append(f"{_SHORT.get(row['term'], row['term'])} {numbers}")
    save_png(contact_sheet(images, labels, columns=len(rows)), previews / "volumes.png")
    return rows


def _shown(mask: Any, toy: Any) -> Any:
    """Draw a volume, a tree from its broad side, a hollow body from where it leaks."""
    import numpy as np

    from apps.bench.topology_volumes import painted_surface
    from geo3d.render.cameras import orbit
    from geo3d.render.previews import display_azimuth
    from geo3d.render.shading import render_mesh
    from geo3d.topology.betti import betti_numbers

    whole = painted_surface(toy.true, toy)
    azimuth = display_azimuth(whole)
    if betti_numbers(toy.true)[2]:
        broken = np.argwhere(toy.true & ~toy.wrong) - (np.array(mask.shape) - 1) / 2
        z, _, x = broken.mean(axis=0)
        azimuth = float(np.arctan2(x, z))
    camera = orbit(whole, azimuth, size=200)
    return render_mesh(painted_surface(mask, toy), camera)


_SHORT = {
    "topo_loss, published": "TopoLoss publ.",
    "warping, published": "Warping publ.",
    "betti_matching": "Betti matching",
    "skeleton_recall": "skeleton recall",
}
