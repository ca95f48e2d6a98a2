"""Tables as text: Markdown, CSV, and aligned columns for a terminal.

A row is a mapping from column names, where what is missing is empty, or a sequence of values.
Written here because a table library (tabulate, pandas) is a dependency for what three joins do, and
would decide about the bytes of files that must not change.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any] | Sequence[Any]


def markdown_table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a Markdown table; its last line ends."""
    lines = [columns, ["---"] * len(columns), *_texts(columns, rows)]
    clean = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in clean)


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return CSV with all digits of numbers; None is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_values(columns, row) for row in rows)
    return stream.getvalue()


def aligned(columns: Sequence[str], rows: Iterable[Row], indent: str = "  ") -> str:
    """Return columns as wide as their widest cell, for a terminal; without a last newline."""
    lines = [columns, *_texts(columns, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"{indent}{'  '.join(line)}".rstrip() for line in padded)


def _texts(columns: Sequence[str], rows: Iterable[Row]) -> list[list[str]]:
    return [[_text(value) for value in _values(columns, row)] for row in rows]


def _values(columns: Sequence[str], row: Row) -> Sequence[Any]:
    return [row.get(name) for name in columns] if isinstance(row, Mapping) else row


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
