"""Numbers and tables of a run as HTML.

Every text goes through `html.escape` here; nothing that was read from a file becomes markup.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from apps.report.files import own_files
from apps.report.summary import number

MOST_ROWS, MOST_COLUMNS = 200, 24
_LONGEST = 400
"""Characters of a cell."""
_MOST_BYTES = 4 << 20
_DEEPEST = 3


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; numbers stand to the right."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for row in rows:
        cells = "".join(_cell(value) for value in row)
        lines.append(f"<tr>{cells}</tr>")
    top = f"<thead><tr>{names}</tr></thead>" if names else ""
    return f'<div class="wide"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def numbers_html(numbers: Mapping[str, Any], depth: int = 0) -> str:
    """Return numbers by their names: single ones in a table, rows as tables of their own."""
    plain = {k: v for k, v in numbers.items() if not isinstance(v, Mapping | list)}
    parts = [table((), plain.items())] if plain else []
    for name, value in numbers.items():
        if isinstance(value, Mapping) and value:
            inner = numbers_html(value, depth + 1) if depth < _DEEPEST else _plain(value)
            parts.append(_folded(name, inner))
        elif isinstance(value, list) and value:
            parts.append(_folded(name, _list(value)))
    return "".join(parts)


def csv_tables(run: Path, most: int = 6) -> list[tuple[str, str]]:
    """Return the first tables among a run's outputs: name and HTML."""
    found = []
    for path in own_files(run, "outputs", ".csv")[:most]:
        if path.stat().st_size > _MOST_BYTES:
            continue
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                rows = [row[:MOST_COLUMNS] for row in csv.reader(file)]
            except csv.Error:
                continue
        if len(rows) > 1:
            shown = [[_typed(cell) for cell in row] for row in rows[1 : MOST_ROWS + 1]]
            more = _more(len(rows) - 1)
            name = path.relative_to(run.resolve() / "outputs").as_posix()
            found.append((name, table(rows[0], shown) + more))
    return found


def _folded(name: str, inner: str) -> str:
    return f"<details><summary>{escape(str(name))}</summary>{inner}</details>"


def _list(values: Sequence[Any]) -> str:
    if all(isinstance(value, Mapping) for value in values):
        columns = list(dict.fromkeys(str(key) for row in values for key in row))[:MOST_COLUMNS]
        rows = [[_short(row.get(c)) for c in columns] for row in values[:MOST_ROWS]]
        return table(columns, rows) + _more(len(values))
    return table((), [[_short(value)] for value in values[:MOST_ROWS]]) + _more(len(values))


def _more(count: int) -> str:
    return f"<p>{count - MOST_ROWS} more rows.</p>" if count > MOST_ROWS else ""


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(number, value))
    return value


def _plain(value: Any) -> str:
    return table((), [[_short(value)]])


def _typed(cell: str) -> Any:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        return cell


def _cell(value: Any) -> str:
    text = number(value)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=n' if is_number else ''}>{escape(text)}</td>"
