"""Every line of the README's list of commands runs, on small files with the names it uses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distill_helpers import settings
from helpers import bumpy_sphere, moved, rotation
from segmentation_helpers import wall_image, wall_label

from geo3d.config import config_from_dict, dump_config
from geo3d.files import asset
from geo3d.mesh.io import load_mesh, save_mesh
from scenes.objects.train_config import DistillConfig

ROOT = Path(__file__).resolve().parents[1]
BATCH = """
preset: smoke
layouts: [{kind: straight, length: 20}]
seeds: [0]
"""


def lines() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8").partition("## Use")[2].partition("```python")[0]
    found = re.findall(r"^    geo3d (.+)$", text, re.MULTILINE)
    return [line.partition(" # ")[0].strip() for line in found]


def test_the_list_is_found() -> None:
    assert len(lines()) > 15 and "app" in lines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the lines name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "shapes" / "off").mkdir(parents=True)
    (folder / "shapes" / "corres").mkdir()
    mesh = bumpy_sphere(2)
    for i, name in enumerate(["cat", "dog"]):
        save_mesh(moved(mesh, rotation(i)), folder / f"{name}.off")
        save_mesh(moved(mesh, rotation(i)), folder / "shapes" / f"{name}.off")
        save_mesh(moved(mesh, rotation(i)), folder / "shapes" / "off" / f"ball{i}.off")
        rows = "\n".join(str(1 + v) for v in range(0, mesh.n_vertices, 5))
        (folder / "shapes" / "corres" / f"ball{i}.vts").write_text(rows, "utf-8")
    save_mesh(mesh, folder / "scan.ply")
    wall_image(folder / "wall.png").rename(folder / "wall.jpg")
    for name in "TAB":
        (folder / name).mkdir()
        for seed in range(3):
            wall_label(folder / name / f"{seed}.png", seed + (name == "B"))
    (folder / "batch.yaml").write_text(BATCH, "utf-8")
    picture = asset("objects/examples/car.png")
    (folder / "picture.png").write_bytes(picture.read_bytes())
    config = config_from_dict(DistillConfig, settings(folder / "latents", "dense", steps=2))
    (folder / "config.yaml").write_text(dump_config(config), "utf-8")
    torch.save({"weight": torch.ones(2, 3)}, folder / "weights.pth")
    return folder


def geo3d(place: Path, words: list[str]) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "apps.cli", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in lines() if line != "app"])
def test_the_line_runs(line: str, place: Path) -> None:
    words = shlex.split(line)
    if "runs/match/RUN" in words:
        if not list(place.glob("runs/match/cat-dog-*")):
            geo3d(place, ["match", "cat.off", "dog.off"])
        run = next(place.glob("runs/match/cat-dog-*")).relative_to(place)
        words[words.index("runs/match/RUN")] = str(run)
    geo3d(place, words)


@pytest.mark.slow
def test_the_lines_of_python_run(place: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (place / "lines.py").write_text(f"{block}\nassert found.confidence.shape == (162,)\n", "utf-8")
    assert load_mesh(place / "dog.off").n_vertices == 162
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "lines.py"], cwd=place, env=env, check=True)
