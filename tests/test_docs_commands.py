"""Every `geo3d ...` in the documentation is a command that exists, with flags it has."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
from pathlib import Path

import pytest

from apps.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
TREES = ("docs", "assets", "geo3d", "shape_matching", "scenes")
PAGES = sorted({*ROOT.glob("*.md"), *(p for tree in TREES for p in (ROOT / tree).rglob("*.md"))})
HELP = sorted((ROOT / "apps" / "commands").glob("*.py"))
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`geo3d +([^`]+)`")
BLOCK = re.compile(r"^ *(?:\$ +)?geo3d +(.+)$", re.MULTILINE)


def commands(text: str) -> set[str]:
    """Return what follows `geo3d` in code spans and at the beginning of lines of code."""
    text = re.sub(r" *\\\n *", " ", text)
    indented = "\n".join(re.findall(r"^ {2,}geo3d .*$", text, re.MULTILINE))
    fenced = "\n".join(FENCED.findall(text))
    found = [*BLOCK.findall(fenced), *BLOCK.findall(indented)]
    found += INLINE.findall(FENCED.sub("", text))
    # An explanation stands behind a # or a wide gap.
    return {re.split(r" # ", " ".join(f.split("   ")[0].split()))[0] for f in found}


@functools.cache
def parser(verb: str) -> argparse.ArgumentParser:
    built = argparse.ArgumentParser(prog=f"geo3d {verb}")
    importlib.import_module(f"apps.commands.{verb.replace('-', '_')}").add_arguments(built)
    return built


def fault(command: str) -> str:
    """Return what is wrong with a command, "" if nothing."""
    verb, *words = re.sub(r"[\[\]|,;]", " ", command).split()
    if verb in ("VERB", "--help", "--version"):
        return ""
    if verb not in VERBS:
        return f"no verb {verb}"
    built = parser(verb)
    parts = [a for a in built._actions if isinstance(a, argparse._SubParsersAction)]
    if parts and words and words[0] not in ("WHAT", "--help"):
        if words[0] not in parts[0].choices:
            return f"no {verb} {words[0]}"
        built = parts[0].choices[words[0]]
    known = built._option_string_actions
    for flag, value in zip(words, [*words[1:], ""], strict=False):
        name, _, joined = flag.partition("=")
        if not flag.startswith("--"):
            continue
        if name not in known:
            return f"no flag {name}"
        choices, given = known[name].choices, joined or value
        if choices and given.islower() and given[0] != "$" and given not in choices:
            return f"{name} knows no {given}"
    return ""


@pytest.mark.parametrize("page", [*PAGES, *HELP], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    faults = {c: fault(c) for c in sorted(commands(page.read_text("utf-8")))}
    assert not {c: why for c, why in faults.items() if why}


def test_commands_are_found_wherever_they_stand() -> None:
    text = """Say `geo3d train prior --data
maps` or

    geo3d match a b           # a comment --with flags
    geo3d match a b --fast    and words --of explanation

```
$ geo3d scene straight \\
    --length 60
```
"""
    found = {"train prior --data maps", "match a b", "match a b --fast"}
    assert commands(text) == {*found, "scene straight --length 60"}


@pytest.mark.parametrize(
    "command, why",
    [
        ("match A B [--seed N]", ""),
        ("train WHAT --help", ""),
        ("bench topology --part toys", ""),
        ("VERB --help", ""),
        ("train-prior", "no verb train-prior"),
        ("train nothing", "no train nothing"),
        ("match A B --sed 1", "no flag --sed"),
        ("bench topology --part all-of-it", "--part knows no all-of-it"),
    ],
)
def test_faults_are_told(command: str, why: str) -> None:
    assert fault(command) == why
