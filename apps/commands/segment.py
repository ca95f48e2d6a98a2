"""Find the mortar of brick walls in pictures, and count its components and holes.

  geo3d segment wall.jpg
  geo3d segment *.png --model my.safetensors --tile 1024
  geo3d segment wall.jpg --compare other.safetensors --loss-maps cl_dice topo_loss
  geo3d segment --resume runs/segment/RUN

The run folder holds, for each picture: outputs/NAME-mask.png (0 and 255), NAME-probability.png (of
mortar, 16 bits), NAME-regions.csv (every component and hole: number, pixels, place), and
previews/NAME-overlay.png, where they are outlined and numbered, the largest of each kind first.
With --loss-maps, previews/NAME-loss-map-LOSS.png shows where a loss wants more mortar (blue) or
less (red), compared with --label or, without one, with the prediction freed of small pieces.
Pictures that cannot be read are named; the others are segmented all the same.
"""

from __future__ import annotations

import argparse
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

COMPARED = "-compared"
"""Ending of the names of what the second segmenter makes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d segment``."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures of any size")
    parser.add_argument("--model", metavar="FILE", help="segmenter (default: the shipped one)")
    parser.add_argument("--compare", metavar="FILE", help="second segmenter, to be compared")
    parser.add_argument(
        "--loss-maps", metavar="LOSS", nargs="+", default=[], help="losses to draw gradient maps of"
    )
    parser.add_argument("--label", metavar="FILE", help="label of the picture, for the loss maps")
    parser.add_argument("--tile", metavar="N", type=int, help="side of a tile in pixels")
    parser.add_argument("--overlap", metavar="N", type=int, help="pixels that tiles share")
    add_common(parser, "device", "out", "resume", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Segment the pictures, write the run folder, print the numbers."""
    run_folder, segmenters = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _segment_all(run_folder, segmenters, args.quiet or args.json)
    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    emit(args, {**metrics, "run": str(run_folder.path)}, _text(metrics, run_folder))
    return BAD_INPUT if metrics["failed"] else 0


def _start(args: argparse.Namespace) -> tuple[Run, list[Segmenter]]:
    from geo3d.files import atomic_write_json
    from geo3d.runs import start_run
    from geo3d.segmentation.predict import OVERLAP, SHIPPED, TILE

    _check_request(args)
    tile = TILE if args.tile is None else args.tile
    models = [args.model, *([args.compare] if args.compare else [])]
    request = {
        "images": [str(Path(image).resolve()) for image in args.images],
        "models": [str(Path(model).resolve()) if model else None for model in models],
        "label": str(Path(args.label).resolve()) if args.label else None,
        "loss_maps": args.loss_maps,
        "tile": tile,
        "overlap": min(OVERLAP, tile // 4) if args.overlap is None else args.overlap,
        "device": args.device,
    }
    # Before the run folder is made, so that a slip leaves nothing behind.
    segmenters = _segmenters(request)
    files = [*request["images"], *request["models"], request["label"]]
    inputs = [p for p in files if p and Path(p).is_file()]
    name = Path(args.images[0]).stem
    run_folder = start_run("segment", name, None, args.out, 0, args.device, inputs)
    run_folder.record["config"] = {**request, "models": [m or SHIPPED for m in request["models"]]}
    atomic_write_json(run_folder.path / "request.json", request)
    return run_folder, segmenters


def _check_request(args: argparse.Namespace) -> None:
    from geo3d.errors import ConfigError, InputError

    if not args.images:
        raise ConfigError("segment.no_picture", "No picture is given.", "geo3d segment IMAGE")
    for model in (args.model, args.compare):
        if model and not Path(model).is_file():
            raise InputError("segment.no_model", f"There is no model {model}.", "Check the path.")
    if args.label and (len(args.images) > 1 or not args.loss_maps):
        raise ConfigError(
            "segment.label_not_used",
            "A label is for the loss maps of one picture.",
            "geo3d segment IMAGE --label FILE --loss-maps LOSS",
        )
    if args.loss_maps:
        from geo3d.segmentation.loss_maps import check_loss
        from geo3d.segmentation.pictures import read_label

        for loss in args.loss_maps:
            check_loss(loss)
        if args.label:
            read_label(args.label)


def _segmenters(request: Mapping[str, Any]) -> list[Segmenter]:
    from geo3d.segmentation.predict import load_segmenter

    return [load_segmenter(model, request["device"]) for model in request["models"]]


def _open(args: argparse.Namespace) -> tuple[Run, list[Segmenter]]:
    from geo3d.errors import ConfigError, InputError
    from geo3d.runs import open_run, run_state

    given = (args.images, args.model, args.compare, args.tile, args.overlap, args.loss_maps)
    if any(given) or args.label:
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
        return run_folder, []
    return run_folder, _segmenters(json.loads(request.read_text(encoding="utf-8")))


def _segment_all(run_folder: Run, segmenters: Sequence[Segmenter], quiet: bool) -> None:
    from geo3d.errors import InputError
    from geo3d.listeners import cancel_listener, chain, jsonl_listener, tqdm_listener
    from geo3d.progress import report

    request = json.loads((run_folder.path / "request.json").read_text(encoding="utf-8"))
    progress = chain(
        cancel_listener(run_folder),
        jsonl_listener(run_folder.path / "progress.jsonl"),
        tqdm_listener(disable=quiet),
    )
    done: list[list[dict[str, Any]]] = [[] for _ in segmenters]
    failed = []
    images = [Path(image) for image in request["images"]]
    for number, (image, name) in enumerate(zip(images, _names(images), strict=True)):
        report(progress, "pictures", number, len(images))
        try:
            for segmenter, rows, ending in zip(segmenters, done, ("", COMPARED), strict=False):
                summary = run_folder.outputs / f"{name}{ending}.json"
                if not summary.is_file():
                    _segment(image, segmenter, summary, run_folder, (request, progress))
                rows.append(json.loads(summary.read_text(encoding="utf-8")))
        except InputError as error:
            if len(images) == 1:
                raise
            failed.append({"image": str(image), **error.to_dict()})
    report(progress, "pictures", len(images), len(images))
    compared = done[1] if len(done) > 1 else []
    run_folder.finish(
        {"pictures": done[0], "compared": compared, "failed": failed},
        models=[_about(segmenter) for segmenter in segmenters],
    )


def _segment(
    image: Path,
    segmenter: Segmenter,
    summary: Path,
    run_folder: Run,
    how: tuple[Mapping[str, Any], ProgressCallback],
) -> None:
    """Segment one picture; its summary is written last and marks it as done."""
    from geo3d.files import atomic_write_json
    from geo3d.segmentation.outputs import Places, write_loss_maps, write_prediction
    from geo3d.segmentation.pictures import read_label, read_picture

    request, progress = how
    begun = time.perf_counter()
    picture = read_picture(image)
    prediction = segmenter.predict(
        picture.pixels, tile=request["tile"], overlap=request["overlap"], progress=progress
    )
    places = Places(run_folder.outputs, run_folder.previews)
    row = write_prediction(picture.pixels, prediction, summary.stem, places)
    given = read_label(request["label"]) if request["label"] else None
    label = given.mask if given else None
    losses = request["loss_maps"]
    notes = write_loss_maps(picture.pixels, prediction, label, losses, summary.stem, places)
    of_label = [f"label: {note}" for note in given.notes] if given else []
    row["notes"] = [*picture.notes, *row["notes"], *of_label, *notes]
    row["seconds"] = round(time.perf_counter() - begun, 3)
    atomic_write_json(summary, {"image": str(image), **row})


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


def _about(segmenter: Segmenter) -> dict[str, Any]:
    config = segmenter.config
    return {"loss": config.loss, "framework": config.framework, **segmenter.info}


def _text(metrics: Mapping[str, Any], run_folder: Run) -> str:
    lines = []
    for row in (*metrics["pictures"], *metrics["compared"]):
        second = " (second model)" if row["name"].endswith(COMPARED) else ""
        lines.append(
            f"{row['image']}{second}: {row['betti0']} component{'s' * (row['betti0'] != 1)}, "
            f"{row['betti1']} hole{'s' * (row['betti1'] != 1)}, "
            f"{100 * row['mortar_fraction']:.1f} % mortar"
        )
        lines += [f"  note: {note}" for note in row["notes"]]
    for row in metrics["failed"]:
        lines.append(f"{row['image']}: [{row['code']}] {row['message']}")
    lines.append(f"masks: {run_folder.outputs}\noverlays: {run_folder.previews}")
    return "\n".join(lines)
