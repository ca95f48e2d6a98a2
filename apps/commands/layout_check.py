"""Say what is wrong with a layout, by name; any format that `geo3d layout import` reads.

Exit code 3 if there are errors.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from apps.commands import add_common, emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d layout check``."""
    parser.add_argument("file", help="layout")
    add_common(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    from scenes.urban.imports.door import import_layout
    from scenes.urban.validate import check_layout

    layout = import_layout(Path(args.file)).layout
    findings = check_layout(layout)
    counts = Counter(p.name for p in layout.primitives)
    payload = {
        "name": layout.name,
        "primitives": len(layout.primitives),
        "classes": dict(counts),
        "cameras": len(layout.trajectory),
        "findings": [vars(finding) for finding in findings],
    }
    lines = [
        f"{layout.name}: {len(layout.primitives)} primitives, {len(layout.trajectory)} cameras"
    ]
    lines += [f"{f.severity}: [{f.code}] {f.message} {f.hint}".rstrip() for f in findings]
    emit(args, payload, "\n".join(lines if findings else [*lines, "nothing is wrong"]))
    return 3 if any(finding.severity == "error" for finding in findings) else 0
