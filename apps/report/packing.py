"""Models as numbers in a page: places in 16 bits, the rest in 8, in base64.

    bytes of a model: places 3 x u16 | colours 3 x u8 per set | faces 3 x u32
                      | scales 3 x u8, turns 4 x i8, opacities u8 | matches i32 | scalars u16 each

Each block begins at a multiple of four bytes; a header of plain numbers says where.  panes.js reads
this.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from apps.report.shapes import Group, Model

_OUTLIERS = 1.0
"""Percent of points that a camera need not see, if they are far off."""
_FAR = 1.5
"""How much larger all is than most where some points are far off."""


def packed_group(group: Group, first: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the header of a group, and the numbers of its models by the ids of their places.

    Args:
        first: number of the group's first model in the page.
    """
    frames = [_frame([model]) for model in group.models]
    if group.one_frame:
        frames = [_frame(group.models)] * len(frames)
    models, data = [], {}
    for i, (model, frame) in enumerate(zip(group.models, frames, strict=True)):
        header, numbers = _packed(model, frame)
        models.append({**header, "id": f"model-{first + i}"})
        data[f"model-{first + i}"] = numbers
    sets = [name for model in group.models for name in (*model.colors, *model.scalars)]
    scalars = {name: told for model in group.models for name, told in model.scalars.items()}
    shown = {
        name: {"map": told.map, "from": told.low, "to": told.high, "unit": told.unit}
        for name, told in scalars.items()
    }
    about = {name: told.about for name, told in scalars.items() if told.about}
    header = {
        "models": models,
        "sets": list(dict.fromkeys(sets)),
        "scalars": shown,
        "about": {**group.about, **about},
        "one_frame": group.one_frame,
    }
    return header, data


Frame = tuple[Float[np.ndarray, "3"], float]
"""Middle and radius of what a camera is to see."""


def _frame(models: Sequence[Model]) -> Frame:
    """Return where the models' points lie; a few that are far off need not be seen."""
    points = np.concatenate([model.points for model in models])
    if not len(points):
        return np.zeros(3), 1.0
    most, everything = _ball(points, _OUTLIERS), _ball(points, 0.0)
    return everything if everything[1] < _FAR * most[1] else most


def _ball(points: Float[np.ndarray, "n 3"], left_out: float) -> Frame:
    """Return middle and radius of a ball around points but for a percentage of them."""
    low, high = np.percentile(points, [left_out, 100 - left_out], axis=0)
    middle = 0.5 * (low + high)
    away = np.linalg.norm(points - middle, axis=1)
    return middle, max(float(np.percentile(away, 100 - left_out)), 1e-9)


def _packed(model: Model, frame: Frame) -> tuple[dict[str, Any], str]:
    blocks: list[bytes] = []

    def add(array: np.ndarray, kind: str) -> int:
        start = sum(map(len, blocks))
        data = np.ascontiguousarray(array).astype(kind).tobytes()
        blocks.append(data + bytes(-len(data) % 4))
        return start

    points = model.points
    low = points.min(0) if len(points) else np.zeros(3)
    size = np.maximum(np.ptp(points, axis=0) if len(points) else np.ones(3), 1e-12)
    places = np.rint((points - low) / size * 65535)
    header: dict[str, Any] = {
        "title": model.title,
        "count": len(points),
        "low": low.tolist(),
        "size": size.tolist(),
        "center": frame[0].tolist(),
        "radius": frame[1],
        "places": add(places, "<u2"),
        "colors": {name: add(shades, "<u1") for name, shades in model.colors.items()},
    }
    if model.faces is not None:
        header |= {"faces": len(model.faces), "corners": add(model.faces, "<u4")}
    if model.splats is not None:
        header["splats"] = _packed_splats(model, add)
    if model.matches is not None:
        header["matches"] = add(model.matches, "<i4")
    header["scalars"] = {
        name: _packed_scalars(told.values, add) for name, told in model.scalars.items()
    }
    return header, base64.b64encode(b"".join(blocks)).decode("ascii")


def _packed_scalars(values: Float[np.ndarray, " v"], add: Any) -> dict[str, Any]:
    """Return where the numbers begin, and what 0 and 65534 stand for; 65535 is NaN."""
    seen = np.isfinite(values)
    known = values[seen]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    steps = np.full(len(values), 65535.0)
    steps[seen] = np.rint((known - low) / max(high - low, 1e-12) * 65534)
    at = add(steps, "<u2")
    return {"at": at, "low": low, "high": high}


def _packed_splats(model: Model, add: Any) -> Mapping[str, Any]:
    """Return where the splats' numbers begin; scales are logarithms between two bounds."""
    assert model.splats is not None
    logs = np.log(np.maximum(model.splats.scales, 1e-9))
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (0.0, 1.0)
    span = max(high - low, 1e-9)
    return {
        "low": low,
        "span": span,
        "scales": add(np.rint((logs - low) / span * 255), "<u1"),
        "turns": add(np.rint(model.splats.turns * 127), "<i1"),
        "opacities": add(np.rint(255 * model.splats.opacities), "<u1"),
    }
