"""What a user installs: the wheel holds all packages and shipped files and works anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import apps.cli, geo3d
from geo3d.files import asset, asset_roots
root = asset_roots()[0]
files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
print(json.dumps([geo3d.__file__, [str(asset(name)) for name in files]]))
"""


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building without isolation needs setuptools 77")
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    build = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", *build, "-w", str(tmp_path), str(checkout)], check=True)
    (wheel,) = tmp_path.glob("geo3d-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert not [n for n in names if n.startswith("tests/") or "__pycache__" in n]
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(site)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    where, assets = json.loads(done.stdout)
    assert Path(where).is_relative_to(site)
    shipped = sorted(p for p in (checkout / "assets").rglob("*") if p.is_file())
    assert len(assets) == len(shipped) > 0


WITHOUT_EXTRAS = """
import argparse, importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from apps.cli import VERBS, main
for verb in VERBS:
    module = importlib.import_module("apps.commands." + verb.replace("-", "_"))
    module.add_arguments(argparse.ArgumentParser())
sys.exit(main(["app", "--runs", sys.argv[2]]))
"""


def test_every_verb_tells_its_help_without_extras(tmp_path: Path) -> None:
    extras = "gradio,psutil,diffusers,transformers,accelerate,cv2,nibabel,av,igl,open3d,h5py"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, extras, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 4 and "pip install" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_licence_of_every_shipped_file_is_told() -> None:
    text = (ROOT / "assets" / "LICENCES.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    listed = subprocess.run(
        ["git", "ls-files", "assets"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [line.removeprefix("assets/") for line in listed.stdout.splitlines()]
    files = [name for name in files if not name.endswith(".md")]
    assert files
    lost = [f for f in files if not any(f == t or (t[-1] == "/" and f.startswith(t)) for t in told)]
    assert not lost
    assert not [t for t in told if not (ROOT / "assets" / t).exists()]


def test_the_shipped_files_fit_into_a_package_index() -> None:
    files = [p for p in (ROOT / "assets").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 90e6


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_dockerfiles_keep_to_the_rules(name: str) -> None:
    """What linters of Dockerfiles ask for, as far as it can be read without one."""
    text = (ROOT / "docker" / f"Dockerfile.{name}").read_text("utf-8")
    steps = re.sub(r" *\\\n *", " ", text)
    images = re.findall(r"^FROM (\S+)", steps, re.MULTILINE)
    assert images and all(":" in image and "latest" not in image for image in images)
    words = {line.split()[0] for line in steps.splitlines() if line and line[0] not in "# "}
    known = "FROM WORKDIR COPY RUN ENV USER VOLUME ENTRYPOINT CMD".split()
    assert words <= set(known) and "ADD" not in words
    assert steps.rindex("USER geo3d") > steps.rindex("RUN ")
    assert "sudo" not in text and "curl" not in text and "apt-get" not in text
    assert re.findall(r'^ENTRYPOINT \["geo3d"\]$', steps, re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", steps, re.MULTILINE)
    assert all((ROOT / source).exists() for source in copied)
    extras = re.findall(r"\[([a-z,]+)\]\"$", steps, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert extras and all(f"\n{e} = [" in project for e in extras[0].split(","))


def test_constraints_pin_what_is_asked_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["viewer"], *extras["test"]]:
        wanted = Requirement(text)
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier, text
    assert pins["torch"] == "2.13.0"
    torch = next(r for r in map(Requirement, project["dependencies"]) if r.name == "torch")
    assert {s.operator for s in torch.specifier} == {">="}
