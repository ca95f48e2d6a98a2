"""Figures of a folder of maps: the shapes behind them, examples of |C|, their mean and spread.

Files: ``prior-shapes.png`` (generated folders only), ``prior-maps.png``, ``prior-mean.png``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from geo3d.config import config_from_dict
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.render.previews import contact_sheet, display_azimuth, save_png, shaded_view
from geo3d.render.shading import position_colors, transfer_colors
from geo3d.synth.creatures import KINDS
from geo3d.synth.creatures.generate import Creature
from geo3d.work.curves import new_figure, save_figure
from shape_matching.prior.families import Member, PriorDataConfig, family
from shape_matching.prior.map_shards import load_maps, load_provenance, read_index

SIZE = 30
FAMILIES_PER_KIND, MEMBERS_SHOWN, PANEL = 2, 4, 140
SUPERSAMPLING = 2
EXAMPLES = 5
DARK, LIGHT = "#7a2048", "#1f6f8b"


def draw_figures(
    folder: str | Path, out: str | Path, progress: ProgressCallback = ignore_progress
) -> list[Path]:
    """Write the figures of a folder of maps and return their files.

    Raises:
        InputError, FileFormatError: see `shape_matching.prior.map_shards.load_maps`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    index = read_index(folder)
    maps, columns = load_maps(folder, SIZE), load_provenance(folder)
    written = [
        save_figure(_mean_figure(maps), out / "prior-mean.png"),
        save_figure(_examples_figure(maps, columns), out / "prior-maps.png"),
    ]
    if index["settings"].get("source") == "creatures":
        known = set(PriorDataConfig.__dataclass_fields__)
        settings = {n: _as_set(v) for n, v in index["settings"].items() if n in known}
        config = config_from_dict(PriorDataConfig, settings)
        written.append(save_png(shape_sheet(config, progress), out / "prior-shapes.png"))
    return written


def shape_sheet(
    config: PriorDataConfig, progress: ProgressCallback = ignore_progress
) -> np.ndarray:
    """Return the first families of each kind, a row per kind; matched points share colours."""
    rows: dict[str, list[tuple[Creature, list[Member]]]] = {kind: [] for kind in KINDS}
    number = 0
    while any(len(found) < FAMILIES_PER_KIND for found in rows.values()):
        report(progress, "shapes", number)
        creature, members = family(config, number)
        number += 1
        if len(rows[creature.kind]) < FAMILIES_PER_KIND:
            rows[creature.kind].append((creature, members))
    images, labels = [], []
    for creature, members in (found for kind in KINDS for found in rows[kind]):
        # first those that show something: relatives and shapes with triangles of their own
        for member in sorted(members, key=_plainness)[-MEMBERS_SHOWN:]:
            images.append(_portrait(creature, member))
            labels.append(_label(creature, member))
    return contact_sheet(images, labels, columns=FAMILIES_PER_KIND * MEMBERS_SHOWN)


def _plainness(member: Member) -> int:
    return int(member.amount > 0) + int(member.is_remeshed)


def _portrait(creature: Creature, member: Member) -> np.ndarray:
    colors = transfer_colors(position_colors(creature.rest), member.template_ids)
    view = shaded_view(
        member.mesh, colors, azimuth=display_azimuth(creature.rest), size=PANEL * SUPERSAMPLING
    )
    return np.asarray(Image.fromarray(view).resize((PANEL, PANEL), Image.Resampling.LANCZOS))


def _label(creature: Creature, member: Member) -> str:
    who = f"relative {member.amount:.2f}" if member.amount else creature.kind
    return f"{who}, {member.mesh.n_vertices}" if member.is_remeshed else who


def _examples_figure(maps: Float32[np.ndarray, "n s s"], columns: Mapping[str, np.ndarray]) -> Any:
    figure = new_figure(7.6, 1.75 * len(parts := _parts(columns, len(maps))) + 0.1)
    grid = figure.subplots(len(parts), EXAMPLES, squeeze=False)
    for axes, (name, rows) in zip(grid, parts.items(), strict=True):
        # spread over the folder, so that they are of different creatures
        chosen = rows[np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(int)]
        for one, row in zip(axes, chosen, strict=True):
            _image(one, maps[row])
            if "kind" in columns:
                one.set_title(KINDS[columns["kind"][row]], fontsize=8)
        axes[0].set_ylabel(name, fontsize=9)
    return figure


def _parts(columns: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Return the rows of each kind of pair that occurs."""
    if "amount_source" not in columns:
        return {"maps": np.arange(n)}
    kin = np.hypot(columns["amount_source"], columns["amount_target"])
    own = columns["remeshed_source"] | columns["remeshed_target"]
    parts = {
        "two poses": (kin == 0) & ~own,
        "two poses,\nown triangles": (kin == 0) & own,
        "relatives": (kin > 0) & ~own,
        "relatives,\nown triangles": (kin > 0) & own,
    }
    return {name: np.flatnonzero(rows) for name, rows in parts.items() if rows.any()}


def _mean_figure(maps: Float32[np.ndarray, "n s s"]) -> Any:
    figure = new_figure(7.6, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    _image(left, maps.mean(axis=0))
    left.set_title(f"mean |C| of {len(maps):,} maps", fontsize=9)
    distance = np.abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE)))
    reach = np.arange(SIZE - 2)
    values = [maps[:, distance == d].ravel() for d in reach]
    low, middle, high = np.array([np.percentile(v, [10, 50, 90]) for v in values]).T
    right.fill_between(reach, low, high, color=LIGHT, alpha=0.25, label="10 to 90 %")
    right.plot(reach, middle, color=LIGHT, label="median")
    right.plot(reach, [v.mean() for v in values], color=DARK, label="mean")
    right.set_xlabel("distance from the diagonal |i - j|", fontsize=9)
    right.set_ylabel("|C|", fontsize=9)
    right.set_xlim(0, reach[-1])
    right.set_ylim(0, 1)
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    right.tick_params(labelsize=8)
    return figure


def _image(axes: Any, matrix: np.ndarray) -> None:
    axes.imshow(matrix, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _as_set(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
