"""The end of a batch: one table of all scenes (CSV, Markdown, JSON) and a sheet of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo3d.files import atomic_path, atomic_write_json, atomic_write_text
from geo3d.work.tables import csv_text, markdown_table
from scenes.batch_plan import ItemRecord

if TYPE_CHECKING:
    from PIL import Image

TILE, CAPTION = 160, 30
_HEAD = ("item", "layout", "prompt", "seed", "status", "attempts", "seconds", "code", "message")
_SHOWN_METRICS = 5


def write_report(folder: Path, records: Sequence[ItemRecord]) -> dict[str, Any]:
    """Write outputs/scenes.{csv,md,json} and previews/contact.png; return the summary."""
    rows = [_row(record) for record in records]
    failed = [row for row in rows if row["status"] == "failed"]
    summary = {
        "scenes": len(rows),
        "done": sum(row["status"] == "done" for row in rows),
        "failed": len(failed),
        "open": sum(row["status"] == "open" for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "failures": [{k: row[k] for k in ("item", "code", "message")} for row in failed],
    }
    outputs = folder / "outputs"
    atomic_write_json(outputs / "scenes.json", {**summary, "rows": rows})
    atomic_write_text(outputs / "scenes.csv", table_csv(rows))
    atomic_write_text(outputs / "scenes.md", table_markdown(rows))
    with atomic_path(folder / "previews" / "contact.png") as path:
        contact_sheet(folder, records).save(path)
    return summary


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, all numbers of all scenes."""
    columns = [*_HEAD, "run", *_metric_names(rows)]
    return csv_text(columns, [{**row, **row["metrics"]} for row in rows])


def table_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, with the first few numbers of scenes."""
    columns = [*_HEAD, *_metric_names(rows)[:_SHOWN_METRICS]]
    return markdown_table(columns, [{**row, **row["metrics"]} for row in rows])


def contact_sheet(folder: Path, records: Sequence[ItemRecord]) -> Image.Image:
    """Return one image with a tile per scene; a scene without images shows why."""
    from PIL import Image, ImageDraw

    columns = max(1, min(6, len(records)))
    height = -(-len(records) // columns) * (TILE + CAPTION)
    sheet = Image.new("RGB", (columns * TILE, max(height, 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, record in enumerate(records):
        x, y = number % columns * TILE, number // columns * (TILE + CAPTION)
        tile = _tile(folder, record)
        if tile is None:
            draw.rectangle((x + 2, y + 2, x + TILE - 3, y + TILE - 3), fill="#dddddd")
            code = (record.error or {}).get("code", "not finished yet")
            draw.text((x + 8, y + TILE // 2), code, fill="#aa0000")
        else:
            sheet.paste(tile, (x + 2, y + 2))
        name = record.item.name
        draw.text((x + 4, y + TILE), f"{name[:25]}\n{name[25:50]}", fill="black")
    return sheet


def _tile(folder: Path, record: ItemRecord) -> Image.Image | None:
    from PIL import Image

    if record.status != "done" or record.run is None:
        return None
    run = folder / record.run
    found = sorted((run / "outputs" / "frames").glob("*.png"))
    found = found[len(found) // 2 :] or sorted((run / "previews").glob("*.png"))
    if not found:
        return None
    with Image.open(found[0]) as tile:
        size = (TILE - 4, TILE - 4)
        return tile.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _row(record: ItemRecord) -> dict[str, Any]:
    error = record.error or {}
    return {
        "item": record.item.name,
        "layout": record.item.layout.label,
        "prompt": record.item.prompt,
        "seed": record.item.seed,
        "status": record.status,
        "attempts": record.attempts,
        "seconds": record.seconds,
        "code": error.get("code", ""),
        "message": error.get("message", ""),
        "run": record.run or "",
        "metrics": dict(_numbers(record.metrics or {})),
    }


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Return all numbers of nested metrics by dotted name."""
    found: list[tuple[str, float]] = []
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{key}", value))
    return found


def _metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))
