"""Tables of segmentation results as Markdown, CSV and JSON.

Numbers measured here and numbers read from the literature never share a table.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geo3d.files import atomic_write_json, atomic_write_text
from geo3d.segmentation.measures import HIGHER_IS_BETTER
from geo3d.segmentation.significance import Comparison
from geo3d.segmentation.tables import OVERALL, Entry, Setting
from geo3d.work.tables import csv_text, markdown_table

SHOWN = ("Betti0", "Betti1", "Betti2", "Dice", "HD95", "clDice")
"""Metrics of the tables for people; the files hold all of them."""
SIGNIFICANT = 0.05

MEASURED = "Measured here"
PUBLISHED = "Published (read from the literature, not measured here)"


def write_tables(
    folder: str | os.PathLike[str],
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison] = (),
    published: Sequence[Entry] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write tables.md, tables.csv, significance.csv and tables.json; return what the JSON holds.

    ``seconds`` are the CPU seconds of a training with each loss, a column of the tables.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    payload = tables_payload(entries, comparisons, published, failures)
    payload |= {"train_cpu_s": dict(seconds)} if seconds else {}
    text = markdown(entries, comparisons, published, failures, seconds)
    atomic_write_text(root / "tables.md", text)
    atomic_write_text(root / "tables.csv", _csv(payload["measured"]))
    if comparisons:
        atomic_write_text(root / "significance.csv", _csv(payload["significance"]))
    atomic_write_json(root / "tables.json", payload)
    return payload


def tables_payload(
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison] = (),
    published: Sequence[Entry] = (),
    failures: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the tables as plain mappings; undefined numbers are None."""
    return {
        "measured": [_plain(entry) for entry in entries],
        "significance": [_plain(comparison) for comparison in comparisons],
        "published": [_plain(entry) for entry in published],
        "failures": [dict(failure) for failure in failures],
    }


def markdown(
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison] = (),
    published: Sequence[Entry] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Return the tables for people.

    Each number is ``mean ± spread over images x seeds [± spread over seeds]``.  A star marks a
    significant improvement on the baseline.
    """
    stars = {
        (c.setting, c.split, c.metric)
        for c in comparisons
        if c.better and c.p_corrected < SIGNIFICANT
    }
    parts = [f"# {MEASURED}\n", _legend(comparisons)]
    for family in _families(entries):
        parts += [_results_table(family, stars, seconds or {})]
        parts += [_groups_table(family), _classes_table(family)]
    if failures:
        rows = [{"run": f.get("cell"), **f} for f in failures]
        parts += ["## Runs that failed\n", markdown_table(["run", "code", "message"], rows)]
    mine = {_family(entry.setting) for entry in entries}
    beside = [entry for entry in published if _family(entry.setting) in mine]
    if beside:
        parts.append(f"# {PUBLISHED}\n")
        parts += [_results_table(family, set(), {}) for family in _families(beside)]
    return "\n".join(parts)


def _legend(comparisons: Sequence[Comparison]) -> str:
    text = (
        "Lower is better, except for "
        + ", ".join(m for m in SHOWN if m in HIGHER_IS_BETTER)
        + ". mean ± spread over images and seeds [± spread of the seeds' means].\n"
    )
    if comparisons:
        text += (
            f"* better than {comparisons[0].baseline} with p < {SIGNIFICANT} (sign-flip test, "
            "corrected). The test is over images: whether another training would do the same, "
            "only the spread of several seeds tells.\n"
        )
    return text


def _results_table(
    family: Sequence[Entry], stars: set[tuple[Setting, str, str]], seconds: Mapping[str, float]
) -> str:
    splits = [s for s in OVERALL if any(e.split == s for e in family)]
    columns = [(s, m) for s in splits for m in SHOWN if any(e.metric == m for e in family)]
    cells = {(e.setting.loss, e.split, e.metric): e for e in family}
    rows = []
    for setting in sorted({entry.setting for entry in family}):
        line = [setting.loss, str(next(e.n_seeds for e in family if e.setting == setting))]
        for split, metric in columns:
            entry = cells.get((setting.loss, split, metric))
            star = "*" if (setting, split, metric) in stars else ""
            line.append(_cell(entry) + star if entry else "")
        if seconds:
            known = seconds.get(setting.loss)
            line.append("" if known is None else f"{known:.0f}")
        rows.append(line)
    head = ["loss", "seeds", *(f"{metric} {split}" for split, metric in columns)]
    head += ["CPU s"] if seconds else []
    return f"## {_title(family[0].setting)}\n\n{markdown_table(head, rows)}"


def _groups_table(family: Sequence[Entry]) -> str:
    """Return Betti errors and Dice group by group: OOD means hide which group they come from."""
    groups = sorted({e.split for e in family} - set(OVERALL))
    if not groups:
        return ""
    shown = ("Betti0", "Betti1", "Dice")
    cells = {(e.setting.loss, e.split, e.metric): e for e in family}
    rows = []
    for loss in sorted({entry.setting.loss for entry in family}):
        line = [loss]
        for group in groups:
            numbers = [cells[loss, group, m].mean for m in shown if (loss, group, m) in cells]
            line.append(" / ".join(_number(n) for n in numbers))
        rows.append(line)
    return f"By group, {' / '.join(shown)}:\n\n{markdown_table(['loss', *groups], rows)}"


def _classes_table(family: Sequence[Entry]) -> str:
    """Return Betti errors and Dice class by class, where there are several."""
    shown, first = ("Betti0", "Betti1", "Dice"), next(s for s in OVERALL if _has(family, s))
    mine = {(e.setting.loss, e.metric): e for e in family if e.split == first}
    labels = list(dict.fromkeys(m.partition(" ")[2] for _, m in mine if " " in m))
    rows = [
        [loss, *(" / ".join(_number(mine[loss, f"{m} {c}"].mean) for m in shown) for c in labels)]
        for loss in sorted({loss for loss, _ in mine})
    ]
    if not labels:
        return ""
    return f"By class, {' / '.join(shown)}:\n\n{markdown_table(['loss', *labels], rows)}"


def _has(family: Sequence[Entry], split: str) -> bool:
    return any(entry.split == split for entry in family)


def _cell(entry: Entry) -> str:
    text = f"{_number(entry.mean)} ± {_number(entry.std)}"
    return text if math.isnan(entry.seed_std) else f"{text} [± {_number(entry.seed_std)}]"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"


def _families(entries: Iterable[Entry]) -> list[list[Entry]]:
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault(_family(entry.setting), []).append(entry)
    return [found[key] for key in sorted(found)]


def _family(setting: Setting) -> tuple[str, str, str]:
    return setting.framework, setting.labels, setting.size


def _title(setting: Setting) -> str:
    return f"{setting.framework}, {setting.labels} labels, {setting.size} training set"


def _plain(row: Entry | Comparison) -> dict[str, Any]:
    values = asdict(row)
    flat = {**values.pop("setting"), **values}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in flat.items()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return csv_text(list(rows[0]), rows) if rows else ""
