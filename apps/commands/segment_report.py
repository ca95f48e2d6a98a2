"""Tell which of several folders of masks is better, and how sure one can be.

  geo3d segment-report --truth masks/ --masks model-a/ model-b/
  geo3d segment-report --truth masks/ --masks a/ b/ c/ --shown 20
  geo3d segment-report --resume runs/segment-report/RUN

Files belong together by name ("-mask" at the end is left out); images, volumes (.nii.gz, .npy).
Foreground is 255 where a file has it, else all but 0; --foreground N takes class N.  Means, paired
significance (random signs, Holm), the annotation floor, and ten readings of the masks: rankings
that flip under one of them are marked.  The run folder gets outputs/report.html (one file, with
images of each wrong component and hole), table.csv, verdicts.csv and a JSON for each image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, show_run, unique_names
from apps.running import (
    Beginning,
    full_path,
    remember,
    request_of,
    require_flag,
    require_folders,
    run_verb,
)
from geo3d.errors import ConfigError, InputError, ShapeError
from geo3d.files import atomic_write_json, atomic_write_text
from geo3d.progress import ProgressCallback, tell_each
from geo3d.runs import Run
from geo3d.work.tables import aligned, csv_text

if TYPE_CHECKING:
    import numpy as np

    from geo3d.segmentation.referee import Verdict

FIXED = "truth masks foreground shown"
SHOWN = 12
"""Wrong regions drawn for each image and method."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d segment-report``."""
    parser.add_argument("--truth", metavar="DIR", help="folder of true masks")
    parser.add_argument("--masks", metavar="DIR", nargs="+", help="two or more folders of masks")
    parser.add_argument("--foreground", metavar="N", type=int, help="number of the class")
    parser.add_argument(
        "--shown", metavar="N", type=int, help=f"wrong regions drawn per image (default {SHOWN})"
    )
    add_common(parser, "seed", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Measure all masks, write tables and page, print the verdicts."""
    done = run_verb(args, "segment-report", partial(_begin, args), _work, FIXED)
    numbers = done.numbers
    head = ["metric", "better", "worse", "difference", "floor", "p", "sure", "flips"]
    rows = [[*list(v.values())[:6], v["sure"], ", ".join(v["flips"])] for v in numbers["verdicts"]]
    text = "\n".join([*numbers["notes"], aligned(head, rows), f"page: {done.outputs}/report.html"])
    show_run(args, done, text)
    return 0


def _begin(args: argparse.Namespace) -> Beginning:
    truth = require_flag(args, "truth", "Name the folder of true masks.")
    require_flag(args, "masks", "Name two or more folders of masks.")
    require_folders(truth, *args.masks)
    if len(args.masks) < 2 or len(set(map(full_path, args.masks))) < len(args.masks):
        raise ConfigError(
            "segment_report.one_folder",
            "A comparison needs two or more folders of masks, each once.",
            "geo3d segment-report --truth DIR --masks DIR DIR",
        )
    request = {
        "truth": full_path(truth),
        "masks": [full_path(folder) for folder in args.masks],
        "foreground": args.foreground,
        "shown": SHOWN if args.shown is None else args.shown,
        "seed": args.seed or 0,
    }
    _paired(request)
    inputs = [request["truth"], *request["masks"]]
    return Beginning(Path(truth).name, None, inputs, remember(request), device="cpu")


def _paired(request: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, dict[str, Path]], int]:
    """Return the true files by name, those of each method, and how many of the truth are left out.

    Raises:
        InputError: ``segment_report.nothing_shared``.
    """
    folders = [Path(folder) for folder in request["masks"]]
    names = unique_names(folders)
    truth = _files(Path(request["truth"]))
    methods = {name: _files(folder) for name, folder in zip(names, folders, strict=True)}
    shared = [name for name in truth if all(name in files for files in methods.values())]
    if not shared:
        raise InputError(
            "segment_report.nothing_shared",
            "No name is in all folders.",
            "Masks of one image have the same name in every folder.",
        )
    kept = {name: truth[name] for name in shared}
    return kept, methods, len(truth) - len(shared)


def _files(folder: Path) -> dict[str, Path]:
    from geo3d.segmentation.rasters import ending_of, stem_of

    files = [path for path in sorted(folder.iterdir()) if ending_of(path.name)]
    masks = [path for path in files if stem_of(path.name).endswith("-mask")]
    # A run of `geo3d segment` holds probabilities beside its masks.
    return {stem_of(path.name).removesuffix("-mask"): path for path in masks or files}


def _mask(path: Path, foreground: int | None) -> np.ndarray:
    from geo3d.segmentation.rasters import read_labels

    values = read_labels(path).values[..., 0]
    if foreground is not None:
        return values == foreground
    return values == 255 if (values == 255).any() else values != 0


def _load(
    name: str, truth: Mapping[str, Path], methods: Mapping[str, Mapping[str, Path]], n: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    true = _mask(truth[name], n)
    masks = {method: _mask(files[name], n) for method, files in methods.items()}
    for method, mask in masks.items():
        if mask.shape != true.shape:
            raise ShapeError(
                "topology.unequal_shapes",
                f"{methods[method][name]} has {mask.shape}, its truth {true.shape}.",
                "Compare masks of one image at one size.",
            )
    return masks, true


def _work(run: Run, progress: ProgressCallback) -> None:
    from geo3d.segmentation.referee import SIGNIFICANT, mean_table, measure_masks, verdicts
    from geo3d.segmentation.referee_page import page

    request = request_of(run)
    truth, methods, left_out = _paired(request)
    results = {}
    for name in tell_each(list(truth), progress, "images"):
        path = run.outputs / "images" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            masks, true = _load(name, truth, methods, request["foreground"])
            atomic_write_json(path, measure_masks(masks, true, name))
        results[name] = json.loads(path.read_text(encoding="utf-8"))
    means, found = mean_table(results), verdicts(results, request["seed"])
    notes = [f"{len(results)} images, {len(methods)} folders: {', '.join(methods)}."]
    if left_out:
        notes.append(f"{left_out} true masks are not in every folder and were left out.")
    smallest = min(1.0, len(found) * 0.5 ** (len(results) - 1))
    if smallest >= SIGNIFICANT:
        notes.append(f"{len(results)} images are too few for significance: p >= {smallest:g}.")
    pictures = _pictures(request, truth, methods)
    atomic_write_text(run.outputs / "report.html", page(means, found, pictures, notes))
    _write_tables(run.outputs, results, found)
    shown = [{**asdict(v), "sure": v.is_sure} for v in found]
    run.finish({"images": len(results), "means": means, "verdicts": shown, "notes": notes})


def _write_tables(folder: Path, results: Mapping[str, Any], found: list[Verdict]) -> None:
    rows = [
        [image, reading, method or "(truth redrawn)", *numbers.values()]
        for image, readings in results.items()
        for reading, measured in readings.items()
        for method, numbers in measured.items()
    ]
    metrics = list(next(iter(next(iter(next(iter(results.values())).values())).values())))
    atomic_write_text(folder / "table.csv", csv_text(["image", "reading", "masks", *metrics], rows))
    lines = [{**asdict(v), "sure": v.is_sure, "flips": "; ".join(v.flips)} for v in found]
    atomic_write_text(folder / "verdicts.csv", csv_text(list(lines[0]), lines))


def _pictures(
    request: Mapping[str, Any],
    truth: Mapping[str, Path],
    methods: Mapping[str, Mapping[str, Path]],
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Draw the largest wrong regions of every image, method by method."""
    from geo3d.segmentation.wrong_regions import draw_region, wrong_regions

    for method, files in methods.items():
        for name in truth:
            masks, true = _load(name, truth, {method: files}, request["foreground"])
            regions = wrong_regions(masks[method], true)
            shown = regions[: request["shown"]]
            more = (
                f", {len(regions) - len(shown)} more not shown" if len(shown) < len(regions) else ""
            )
            for number, region in enumerate(shown):
                of = more if number == len(shown) - 1 else ""
                caption = f"{region.kind}, {region.pixels} pixels{of}"
                yield method, name, caption, draw_region(masks[method], true, region)
