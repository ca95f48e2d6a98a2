"""How good the small street teacher is: numbers by style, and images to look at.

* PSNR of samples against the generator's image of the same view and style.  It cannot be high:
  the colours of single houses and cars, the sun and the clouds are not told to the teacher.
* Class-colour L1: mean over classes of |mean colour in the sample - in the generator's image|.
* mIoU of what the segmenter sees in samples with the layout's classes, beside what it sees in the
  generator's own images of the same views, which bounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8

from geo3d.device import item_noise
from geo3d.files import atomic_path
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.synth.streets.styles import STYLES
from geo3d.work.tables import markdown_table
from scenes.urban.conditions import semantic_colors
from scenes.urban.street_data import StreetImages
from scenes.urban.street_segmenter import StreetSegmenter, agreement, shipped_segmenter
from scenes.urban.street_teacher import StreetTeacher, sample

_AT_ONCE = 16


def sampled_images(
    teacher: StreetTeacher,
    data: StreetImages,
    *,
    seed: int = 0,
    steps: int = 20,
    progress: ProgressCallback = ignore_progress,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Return the teacher's image of every view of ``data`` in its style."""
    parts = []
    for start in range(0, len(data), _AT_ONCE):
        items = range(start, min(start + _AT_ONCE, len(data)))
        conditions = torch.from_numpy(np.stack([data.condition(i) for i in items]))
        noise = item_noise(seed, items, (3, *conditions.shape[2:]))
        styles = [data.style(i) for i in items]
        made = sample(teacher, conditions, styles, noise, steps=steps, guidance_scale=1.5)
        parts.append(((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        report(progress, "sampling", items.stop, len(data))
    return np.concatenate(parts)


def evaluate_teacher(
    teacher: StreetTeacher,
    data: StreetImages,
    *,
    per_style: int = 12,
    seed: int = 0,
    steps: int = 20,
    segmenter: StreetSegmenter | None = None,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, Any]:
    """Return numbers by style on images that the teacher never saw.

    Args:
        teacher: see `scenes.urban.street_teacher`.
        data: held-out images; those of one style are measured, and pairs as "pairs".
        per_style: images of each style.
        seed: of the noise.
        steps: of sampling.
        segmenter: judge of the layout; the shipped one if None.
        progress: receives an event per batch.

    Raises:
        InputError: ``asset.missing``.
    """
    judge = segmenter or shipped_segmenter()
    groups = {name: np.flatnonzero(data.styles == name)[:per_style] for name in STYLES}
    pairs = np.flatnonzero([len(data.style(i)) > 1 for i in range(len(data))])
    groups["pairs"] = pairs[:per_style]
    chosen = data.part(np.concatenate(list(groups.values())))
    made = sampled_images(teacher, chosen, seed=seed, steps=steps, progress=progress)
    rows, start = {}, 0
    for name, items in groups.items():
        part = slice(start, start + len(items))
        start += len(items)
        if len(items):
            rows[name] = _compare(made[part], chosen.part(part), judge)
    rows["all"] = _compare(made, chosen, judge)
    return {"styles": rows, "pictures": len(chosen)}


def psnr(a: UInt8[np.ndarray, "*n"], b: UInt8[np.ndarray, "*n"]) -> float:
    """Return the peak signal-to-noise ratio in dB of 8-bit images; inf where they are equal."""
    error = float(np.square(a.astype(float) / 255 - b.astype(float) / 255).mean())
    return float(-10 * np.log10(error)) if error > 0 else float("inf")


def class_color_error(
    a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"], labels: Int[np.ndarray, "h w"]
) -> float:
    """Return the mean over classes of the distance of their mean colours, of 0..1."""
    colors = a.astype(float) / 255 - b.astype(float) / 255
    return float(np.mean([np.abs(colors[labels == i].mean(axis=0)) for i in np.unique(labels)]))


def table(numbers: Mapping[str, Any]) -> str:
    """Return the numbers as a Markdown table."""
    columns = ("style", "PSNR dB", "class-colour L1", "mIoU samples", "mIoU generator", "n")
    shares = ("color_error", "miou", "miou_generator")
    rows = [
        [name, f"{row['psnr']:.1f}", *(f"{row[key]:.3f}" for key in shares), row["n"]]
        for name, row in numbers["styles"].items()
    ]
    return markdown_table(columns, rows)


def draw_samples(
    path: str | Path,
    teacher: StreetTeacher,
    data: StreetImages,
    *,
    samples: int = 2,
    seed: int = 0,
    steps: int = 20,
) -> Path:
    """Draw one row per style: condition, generator's image, samples; two views side by side."""
    from PIL import Image

    rows = []
    present = [name for name in STYLES if (data.styles == name).any()]
    for name in present or [str(data.styles[0])]:
        views = np.resize(np.flatnonzero(data.styles == name)[:2], 2)
        rows.append(_row(teacher, data.part(np.repeat(views, samples)), seed, steps))
    size = data.images.shape[1]
    gap = np.full((rows[0].shape[0], 4, 3), 255, np.uint8)
    sheet = np.concatenate([np.concatenate([row, gap], axis=1) for row in rows])
    image = Image.fromarray(sheet)
    scale = max(1, 144 // size)
    with atomic_path(path) as temporary:
        large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        large.save(temporary, optimize=True)
    return Path(path)


def _row(teacher: StreetTeacher, data: StreetImages, seed: int, steps: int) -> np.ndarray:
    """Draw two views, each of which fills half of ``data``."""
    made, samples = sampled_images(teacher, data, seed=seed, steps=steps), len(data) // 2
    cells = []
    for view in (0, samples):
        cells += [semantic_colors(data.labels[view].astype(int)), data.images[view]]
        cells += list(made[view : view + samples])
    return np.concatenate(cells, axis=1)


def _compare(
    made: UInt8[np.ndarray, "n h w 3"], data: StreetImages, judge: StreetSegmenter
) -> dict[str, float]:
    triples = list(zip(made, data.images, data.labels, strict=True))
    seen = agreement(judge.labels(made), data.labels)
    bound = agreement(judge.labels(data.images), data.labels)
    return {
        "psnr": float(np.mean([psnr(a, b) for a, b, _ in triples])),
        "color_error": float(np.mean([class_color_error(*triple) for triple in triples])),
        "miou": seen["miou"],
        "miou_generator": bound["miou"],
        "n": len(made),
    }
