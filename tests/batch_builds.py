"""Stand-ins for the building of scenes, importable by worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from geo3d.errors import InputError, NumericalError
from geo3d.layout.layout import Layout
from geo3d.progress import ProgressCallback, report
from geo3d.runs import Run
from scenes.urban.config import SceneConfig


def build(
    layout: Layout, config: SceneConfig, run: Run, progress: ProgressCallback, device: str
) -> Mapping[str, Any]:
    """Write an image and count the building; what goes wrong is decided by the prompt."""
    for step in range(4):
        report(progress, "building", step, 4)
        time.sleep(0.02)
    log = run.path / "built.txt"
    log.write_text((log.read_text() if log.is_file() else "") + "built\n")
    if "poison" in config.prompt:
        raise InputError("layout.no_ground", "There is no ground.", "Add some.")
    if "crash" in config.prompt:
        os._exit(9)
    if "hang" in config.prompt:
        time.sleep(60)
    if "defect" in config.prompt:
        raise ZeroDivisionError("one | two")
    if "once" in config.prompt and len(log.read_text().splitlines()) < 2:
        raise NumericalError("distill.not_finite", "A loss is not finite.", "")
    Image.new("RGB", (8, 8), "green").save(run.previews / "drive.png")
    return {"primitives": len(layout.primitives), "adherence": {"depth": 0.25}, "method": "none"}
