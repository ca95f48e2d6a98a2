"""Find the mortar of brick walls in pictures, and count its components and holes.

  geo3d segment wall.jpg
  geo3d segment *.png --model my.safetensors --tile 1024
  geo3d segment --resume runs/segment/RUN

The run folder holds, for each picture: outputs/NAME-mask.png (0 and 255), NAME-probability.png (of
mortar, 16 bits), NAME-regions.csv (every component and hole: number, pixels, place), and
previews/NAME-overlay.png, where they are outlined and numbered, the largest of each kind first.
Pictures that cannot be read are named; the others are segmented all the same.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.progress import ProgressCallback
    from geo3d.runs import Run
    from geo3d.segmentation.predict import Segmenter

BAD_INPUT = 3
"""Exit code when some of several pictures could not be segmented."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d segment``."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures of any size")
    parser.add_argument("--model", metavar="FILE", help="segmenter (default: the shipped one)")
    parser.add_argument("--tile", metavar="N", type=int, help="side of a tile in pixels")
    parser.add_argument("--overlap", metavar="N", type=int, help="pixels that tiles share")
    add_common(parser, "device", "out", "resume", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Segment the pictures, write the run folder, print the numbers."""
    run_folder, segmenter = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _segment_all(run_folder, segmenter, args.quiet or args.json)
    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    emit(args, {**metrics, "run": str(run_folder.path)}, _text(metrics, run_folder))
    return BAD_INPUT if metrics["failed"] else 0


def _start(args: argparse.Namespace) -> tuple[Run, Segmenter | None]:
    from geo3d.errors import ConfigError, InputError
    from geo3d.files import atomic_write_json
    from geo3d.runs import start_run
    from geo3d.segmentation.predict import OVERLAP, SHIPPED, TILE, load_segmenter

    if not args.images:
        raise ConfigError("segment.no_picture", "No picture is given.", "geo3d segment IMAGE")
    tile = TILE if args.tile is None else args.tile
    request = {
        "images": [str(Path(image).resolve()) for image in args.images],
        "model": str(Path(args.model).resolve()) if args.model else None,
        "tile": tile,
        "overlap": min(OVERLAP, tile // 4) if args.overlap is None else args.overlap,
        "device": args.device,
    }
    if args.model and not Path(args.model).is_file():
        raise InputError("segment.no_model", f"There is no model {args.model}.", "Check the path.")
    # Before the run folder is made, so that a slip leaves nothing behind.
    segmenter = load_segmenter(request["model"], args.device)
    inputs = [p for p in (*request["images"], request["model"]) if p and Path(p).is_file()]
    name = Path(args.images[0]).stem
    run_folder = start_run("segment", name, None, args.out, 0, args.device, inputs)
    shown = {**request, "model": request["model"] or SHIPPED}
    run_folder.record["config"] = shown
    atomic_write_json(run_folder.path / "request.json", request)
    return run_folder, segmenter


def _open(args: argparse.Namespace) -> tuple[Run, Segmenter | None]:
    from geo3d.errors import ConfigError, InputError
    from geo3d.runs import open_run, run_state
    from geo3d.segmentation.predict import load_segmenter

    if args.images or args.model or args.tile or args.overlap:
        raise ConfigError(
            "segment.resume_is_complete", "A resumed run has its pictures.", "Give --resume alone."
        )
    request = Path(args.resume) / "request.json"
    if run_state(args.resume)["record"]["verb"] != "segment" or not request.is_file():
        raise InputError(
            "segment.cannot_resume",
            f"{args.resume} is not a run of `geo3d segment` that can go on.",
            "Start it again.",
        )
    run_folder = open_run(args.resume)
    if run_folder.is_done:
        return run_folder, None
    wanted = json.loads(request.read_text(encoding="utf-8"))
    return run_folder, load_segmenter(wanted["model"], wanted["device"])


def _segment_all(run_folder: Run, segmenter: Segmenter | None, quiet: bool) -> None:
    from geo3d.errors import InputError
    from geo3d.listeners import cancel_listener, chain, jsonl_listener, tqdm_listener
    from geo3d.progress import report

    request = json.loads((run_folder.path / "request.json").read_text(encoding="utf-8"))
    progress = chain(
        cancel_listener(run_folder),
        jsonl_listener(run_folder.path / "progress.jsonl"),
        tqdm_listener(disable=quiet),
    )
    done, failed = [], []
    images = [Path(image) for image in request["images"]]
    for number, (image, name) in enumerate(zip(images, _names(images), strict=True)):
        report(progress, "pictures", number, len(images))
        summary = run_folder.outputs / f"{name}.json"
        try:
            if segmenter is not None and not summary.is_file():
                _segment(image, name, segmenter, run_folder, (request, progress))
            done.append(json.loads(summary.read_text(encoding="utf-8")))
        except InputError as error:
            if len(images) == 1:
                raise
            failed.append({"image": str(image), **error.to_dict()})
    report(progress, "pictures", len(images), len(images))
    run_folder.finish({"pictures": done, "failed": failed}, model=_about(segmenter))


def _segment(
    image: Path,
    name: str,
    segmenter: Segmenter,
    run_folder: Run,
    how: tuple[Mapping[str, Any], ProgressCallback],
) -> None:
    """Segment one picture; its summary is written last and marks it as done."""
    from PIL import Image

    from geo3d.files import atomic_path, atomic_write_json, atomic_write_text
    from geo3d.segmentation.overlay import draw_overlay, find_topology
    from geo3d.segmentation.pictures import read_picture, save_mask

    request, progress = how
    begun = time.perf_counter()
    picture = read_picture(image)
    prediction = segmenter.predict(
        picture.pixels, tile=request["tile"], overlap=request["overlap"], progress=progress
    )
    mask, mortar = prediction.mask, prediction.probabilities[1]
    topology = find_topology(mask)
    save_mask(run_folder.outputs / f"{name}-mask.png", mask)
    pictures = {
        run_folder.outputs / f"{name}-probability.png": (mortar * 65535).round().astype("uint16"),
        run_folder.previews / f"{name}-overlay.png": draw_overlay(picture.pixels, topology),
    }
    for path, pixels in pictures.items():
        with atomic_path(path) as beside:
            Image.fromarray(pixels).save(beside, format="PNG")
    atomic_write_text(run_folder.outputs / f"{name}-regions.csv", _regions_csv(topology.regions))
    components, holes = topology.betti
    summary = {
        "image": str(image),
        "name": name,
        "width": mask.shape[1],
        "height": mask.shape[0],
        "betti0": components,
        "betti1": holes,
        "mortar_fraction": float(mask.mean()),
        "notes": [*picture.notes, *prediction.notes],
        "seconds": round(time.perf_counter() - begun, 3),
    }
    atomic_write_json(run_folder.outputs / f"{name}.json", summary)


def _regions_csv(regions: Sequence[Any]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["kind", "number", "pixels", "row", "column"])
    writer.writerows([r.kind, r.number, r.pixels, r.row, r.column] for r in regions)
    return stream.getvalue()


def _names(images: Sequence[Path]) -> list[str]:
    """Return a harmless name per picture; equal ones get a number."""
    from geo3d.files import slug

    names: list[str] = []
    for image in images:
        name, number = slug(image.stem), 2
        while name in names:
            name, number = f"{slug(image.stem)}-{number}", number + 1
        names.append(name)
    return names


def _about(segmenter: Segmenter | None) -> dict[str, Any]:
    if segmenter is None:
        return {}
    config = segmenter.config
    return {"loss": config.loss, "framework": config.framework, **segmenter.info}


def _text(metrics: Mapping[str, Any], run_folder: Run) -> str:
    lines = []
    for row in metrics["pictures"]:
        lines.append(
            f"{row['image']}: {row['betti0']} component{'s' * (row['betti0'] != 1)}, "
            f"{row['betti1']} hole{'s' * (row['betti1'] != 1)}, "
            f"{100 * row['mortar_fraction']:.1f} % mortar"
        )
        lines += [f"  note: {note}" for note in row["notes"]]
    for row in metrics["failed"]:
        lines.append(f"{row['image']}: [{row['code']}] {row['message']}")
    lines.append(f"masks: {run_folder.outputs}\noverlays: {run_folder.previews}")
    return "\n".join(lines)
