"""Every door of an installed wheel, without extras and away from any checkout (`make wheel-check`).

Run by the environment it checks: each verb does its smallest job, and one whose extra is missing
says which line installs it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geo3d
from geo3d.files import asset

MISSING = 4
"""Exit code of a verb that lacks an extra."""


def verb(folder: Path, *words: str) -> tuple[int, str, float]:
    """Return exit code, all output and wall seconds of a verb."""
    program = Path(sys.executable).with_name("geo3d")
    begin = time.perf_counter()
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - begin


def check(folder: Path) -> list[str]:
    """Return what is wrong."""
    from PIL import Image

    from geo3d.synth.walls import brick_wall

    Image.fromarray(brick_wall(1, 96, 96).image).save(folder / "wall.png")
    shapes = [str(asset(f"shapes/off/biped{i}.off")) for i in (1, 2)]
    doors: dict[tuple[str, ...], int] = {
        ("--help",): 0,
        ("doctor",): 0,
        ("check", shapes[0]): 0,
        ("match", *shapes, "--preset", "fast", "--quiet"): 0,
        ("segment", "wall.png", "--quiet"): 0,
        ("generate", str(asset("objects/examples/car.png")), "--student", "--quiet"): 0,
        ("scene", "straight", "--length", "20", "--preset", "smoke", "--quiet"): 0,
        ("scenes", str(asset("urban/batch-example.yaml")), "--list"): 0,
        ("runs",): 0,
        ("match", shapes[0], "nowhere.off"): 3,
        ("app",): MISSING,
        ("scenes", str(asset("urban/batch-example.yaml")), "--engine", "slurm"): MISSING,
    }
    wrong = []
    for words, wanted in doors.items():
        code, text, seconds = verb(folder, *words)
        sys.stdout.write(f"{seconds:6.1f} s  {code}  geo3d {' '.join(words[:2])}\n")
        if code != wanted or "Traceback" in text:
            wrong.append(f"geo3d {' '.join(words)}: exit code {code}\n{text}")
        if wanted == MISSING and "pip install" not in text:
            wrong.append(f"geo3d {' '.join(words)}: no line that installs it\n{text}")
    return wrong


def main() -> int:
    """Check in an empty folder; 1 if anything is wrong."""
    assert "site-packages" in str(geo3d.__file__), geo3d.__file__
    with tempfile.TemporaryDirectory() as folder:
        wrong = check(Path(folder))
    sys.stdout.write("\n".join(wrong) or "every door opens\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
