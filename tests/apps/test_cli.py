"""The command line: fast help, near names, errors as text or JSON, exit codes."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from apps import cli
from apps.commands import add_common, emit, unique_names
from geo3d import errors

ROOT = Path(__file__).resolve().parents[2]


def geo3d(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "apps.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_is_immediate_and_lists_the_verbs() -> None:
    before = os.times()
    done = geo3d("--help")
    after = os.times()
    # Processor time of the child, which a busy machine does not stretch.
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    assert done.returncode == 0 and spent < 1.0
    assert all(f"\n  {verb} " in done.stdout for verb in cli.VERBS)
    assert geo3d().stdout == done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_listed_verb_is_there_with_help(verb: str) -> None:
    done = geo3d(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"geo3d {verb}" in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_verb_modules_load_nothing_heavy_at_the_top(verb: str) -> None:
    module = verb.replace("-", "_")
    tree = ast.parse((ROOT / "apps" / "commands" / f"{module}.py").read_text("utf-8"))
    heavy = {"torch", "numpy", "scipy", "trimesh", "gradio", "matplotlib"}
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not heavy & {name.split(".")[0] for name in names}


def test_version() -> None:
    from geo3d import __version__

    assert geo3d("--version").stdout == f"geo3d {__version__}\n"


def test_unknown_verbs_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mtch"]) == 2
    assert "Did you mean 'match'?" in capsys.readouterr().err
    assert cli.main(["qqqq"]) == 2
    assert "Did you mean" not in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", "--jsn"])
    assert caught.value.code == 2 and "--jsn" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backends"]["torch"]["is_available"]
    assert cli.main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    source = tmp_path / "m.pt"
    torch.save({"a": torch.ones(2)}, source)
    assert cli.main(["convert", str(source), "--json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["tensors"] == ["a"] and Path(payload["path"]).is_file()
    source.write_bytes(b"nothing")
    assert cli.main(["convert", str(source)]) == 3
    assert "error: [checkpoint.damaged]" in capsys.readouterr().err


def verb_that_raises(error: BaseException) -> ModuleType:
    module = ModuleType("fake")

    def run(args: argparse.Namespace) -> int:
        raise error

    module.run = run  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.ConfigError("config.bad", "Bad.", "Do."), 2, "[config.bad] Bad.\n  hint: Do."),
        (errors.MeshError("mesh.bad", "Bad."), 3, "[mesh.bad]"),
        (errors.BackendUnavailable("backend.unavailable", "No."), 4, "[backend.unavailable]"),
        (errors.NumericalError("eigen.failed", "No."), 5, "[eigen.failed]"),
        (errors.LimitError("mesh.too_big", "Big."), 6, "[mesh.too_big]"),
        (errors.Cancelled(), 130, "[run.cancelled]"),
        (KeyboardInterrupt(), 130, "[run.cancelled] Interrupted."),
        (FileNotFoundError(2, "No such file", "x.off"), 1, "[system.os_error]"),
        (RuntimeError("boom"), 1, "[internal.unexpected] RuntimeError: boom"),
    ],
)
def test_errors_become_messages_and_exit_codes(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    module = verb_that_raises(error)
    assert cli._run(module, argparse.Namespace(json=False)) == code
    out, err = capsys.readouterr()
    assert out == "" and text in err and "Traceback" not in err
    assert cli._run(module, argparse.Namespace(json=True)) == code
    out, err = capsys.readouterr()
    told = json.loads(out)["error"]
    assert told["exit_code"] == code and told["code"] in text + "[run.cancelled]" and err == ""


def test_tracebacks_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEO3D_DEBUG", "1")
    cli._run(verb_that_raises(RuntimeError("boom")), argparse.Namespace())
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m apps.cli doctor | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, cwd=ROOT, check=False
    )
    assert done.stderr == b""


def test_what_a_terminal_would_obey_is_written_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\x1b[31m\u202eb\n.off"
    assert cli.main(["check", str(tmp_path / name)]) == 3
    error = errors.InputError("a.b", f"There is no {name}.", "")
    assert cli._run(verb_that_raises(error), argparse.Namespace(json=False)) == 3
    emit(argparse.Namespace(), {}, f"kept {name}")
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\x1b" not in text and "\u202e" not in text
        assert r"a\x1b[31m\u202eb" in text
    record = logging.LogRecord("x", logging.WARNING, "", 0, "no %s", (name,), None)
    assert cli._plain(record) and record.getMessage() == r"no a\x1b[31m\u202eb\n.off"


def test_two_dashes_end_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert cli.main(["check", "--", "-x.obj"]) == cli.main(["--", "check", "./-x.obj"]) == 0


def test_common_flags() -> None:
    parser = argparse.ArgumentParser()
    names = ("config", "preset", "set", "seed", "device", "out", "resume", "json", "quiet")
    add_common(parser, *names)
    args = parser.parse_args(["--set", "a=1", "--set", "b=2", "--seed", "3", "--json"])
    assert (args.set, args.seed, args.device, args.json) == (["a=1", "b=2"], 3, "auto", True)


def test_emit(capsys: pytest.CaptureFixture[str]) -> None:
    emit(argparse.Namespace(json=True), {"a": Path("x")}, "text")
    assert json.loads(capsys.readouterr().out) == {"a": "x"}
    emit(argparse.Namespace(), {}, "text")
    assert capsys.readouterr().out == "text\n"


def test_equal_names_get_numbers() -> None:
    paths = ["a/one.png", "b/one.jpg", "one-2.png", "../one.png"]
    assert unique_names(paths) == ["one", "one-2", "one-2-2", "one-3"]
