"""Tables as text, by hand."""

from __future__ import annotations

import csv

from geo3d.work.tables import aligned, csv_text, markdown_table

ROWS = [{"name": "a|b", "error": 0.123456, "n": 3}, {"name": "two\n lines", "n": None}]
COLUMNS = ("name", "error", "n")


def test_markdown_by_hand() -> None:
    assert markdown_table(COLUMNS, ROWS) == (
        "| name | error | n |\n| --- | --- | --- |\n| a\\|b | 0.123456 | 3 |\n| two lines |  |  |\n"
    )


def test_csv_keeps_all_digits_and_awkward_text() -> None:
    text = csv_text(COLUMNS, ROWS)
    first, second = csv.DictReader(text.splitlines(keepends=True))
    assert first == {"name": "a|b", "error": "0.123456", "n": "3"}
    assert second == {"name": "two\n lines", "error": "", "n": ""}
    assert csv_text(("x", "y"), [(1, None)]) == "x,y\n1,\n"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned(("a", "long name"), [("wide", 1), {"long name": 2.5}]) == (
        "  a     long name\n  wide  1\n        2.5"
    )
