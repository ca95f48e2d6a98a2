"""A file or folder that is not there: one message, exit code 3, at once, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

IMAGE = "here.png"
NONE = "there-is-nothing"
CASES = {
    "segment image": ("segment", NONE),
    "segment model": ("segment", IMAGE, "--model", NONE),
    "segment other model": ("segment", IMAGE, "--compare", NONE),
    "segment label": ("segment", IMAGE, "--loss-maps", "cl_dice", "--label", NONE),
    "generate image": ("generate", NONE),
    "generate model": ("generate", IMAGE, "--model", NONE),
    "generate encoder": ("generate", IMAGE, "--encoder", NONE),
    "match shapes": ("match", NONE, NONE),
    "match landmarks": ("match", IMAGE, IMAGE, "--landmarks", NONE),
    "match map": ("match", IMAGE, IMAGE, "--initial-map", NONE),
    "evaluate data": ("evaluate", "--data", NONE),
    "evaluate pairs": ("evaluate", "--data", ".", "--pairs", NONE),
    "scene layout": ("scene", NONE),
    "scene teacher": ("scene", "straight", "--teacher", NONE),
    "scene controlnet": ("scene", "straight", "--controlnet", NONE),
    "scene insert": ("scene", "--edit", NONE, "--insert", NONE, "0", "0"),
    "scene edit": ("scene", "--edit", NONE, "--list"),
    "scenes": ("scenes", NONE),
    "scenes list": ("scenes", NONE, "--list"),
    "convert": ("convert", NONE),
    "train prior data": ("train", "prior", "--data", NONE),
    "train prior evaluate": ("train", "prior", "--evaluate", NONE),
    "train segmenter data": ("train", "segmenter", "--data", NONE),
    "train segmenter evaluate": ("train", "segmenter", "--evaluate", NONE),
    "train objects": ("train", "objects", "--stage", "cells", "--objects", NONE),
    "train street-teacher data": ("train", "street-teacher", "--data", NONE),
    "train street-teacher evaluate": ("train", "street-teacher", "--evaluate", NONE),
    "train street-segmenter": ("train", "street-segmenter", "--data", NONE),
    "data prior dfaust": ("data", "prior", "--out", NONE, "--dfaust", NONE),
    "data prior compare": ("data", "prior", "--out", NONE, "--compare", NONE),
    "bench segment data": ("bench", "segment", "--data", NONE),
    "bench segment tables": ("bench", "segment", "--tables", NONE),
    "bench topology": ("bench", "topology", "--data", NONE),
    "bench conditions": ("bench", "conditions", "--data", NONE),
    **{
        f"resume {verb}": (*verb.split(), "--resume", NONE)
        for verb in ("match", "segment", "scene", "scenes", "evaluate", "distill", "bench segment")
    },
}
RUN_ALL = """
import contextlib, io, json, sys
from apps.cli import main
told = {}
for name, arguments in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    told[name] = [code, out.getvalue(), err.getvalue(), "torch" in sys.modules]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, bool]]:
    folder = tmp_path_factory.mktemp("missing")
    (folder / IMAGE).write_bytes(b"")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){RUN_ALL}"]
    done = subprocess.run(
        command, input=json.dumps(CASES), capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == [IMAGE]
    return json.loads(done.stdout.splitlines()[-1])


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_nothing_else(
    name: str, told: dict[str, tuple[int, str, str, bool]]
) -> None:
    """Before anything heavy is loaded, and without a folder (case `segment_missing_file`)."""
    code, out, err, has_torch = told[name]
    assert (code, out) == (3, ""), err
    assert err.startswith("error: [") and NONE in err and len(err.splitlines()) <= 2
    # Nothing heavy was loaded on the way.  (The trainings look at --resume later than that.)
    assert not has_torch or name.startswith("resume")
