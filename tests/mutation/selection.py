"""Which tests a fault concerns: one pytest plugin records calls, another orders tests by them."""

from __future__ import annotations

import ast
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

LONGEST = 4.0
"""Processor seconds of a test above which it is not tried: a score without it is a lower bound."""
KERNEL = "<kernel>"
"""Stands for a compiled function, whose calls nobody sees."""
Call = tuple[str, str]
"""A file and the name of a function in it."""


@dataclass(frozen=True)
class Seen:
    """What one test does: its processor time and the functions it or its fixtures call."""

    seconds: float
    calls: frozenset[Call]


class Recorder:
    """Records for each test which functions of the mutated files it calls."""

    def __init__(self, files: set[str], out: Path) -> None:
        self.files, self.out = files, out
        self.calls: set[Call] = set()
        self.tests: dict[str, tuple[float, list[Call]]] = {}

    def note(self, frame: FrameType, event: str, arg: object) -> None:
        """Remember a call; returning nothing keeps the lines inside it untraced."""
        if frame.f_code.co_filename in self.files:
            self.calls.add((frame.f_code.co_filename, frame.f_code.co_name))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.calls = set()
        began = time.process_time()
        threading.settrace(self.note)  # type: ignore[arg-type]
        sys.settrace(self.note)  # type: ignore[arg-type]
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        self.tests[item.nodeid] = (time.process_time() - began, sorted(self.calls))

    def pytest_sessionfinish(self) -> None:
        self.out.write_text(json.dumps(self.tests))


def read_record(path: Path) -> dict[str, Seen]:
    """Return what a recorder wrote, test by test."""
    tests = json.loads(path.read_text("utf-8"))
    return {
        test: Seen(seconds, frozenset((file, name) for file, name in calls))
        for test, (seconds, calls) in tests.items()
    }


class Order:
    """Runs the given tests only, in their order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        wanted = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(wanted, key=lambda item: self.place[item.nodeid])


def function_at(source: bytes, line: int) -> str | None:
    """Return the name of the outermost function or method of a line that calls can be seen of.

    None at the level of the module or class, `KERNEL` where calls are compiled.
    """

    def search(body: list[ast.stmt]) -> str | None:
        for node in body:
            if isinstance(node, ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0):
                return search(node.body)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if node.lineno <= line <= (node.end_lineno or 0):
                    is_kernel = any("jit" in ast.unparse(d) for d in node.decorator_list)
                    return KERNEL if is_kernel else node.name
        return None

    return search(ast.parse(source).body)


def order_tests(
    path: Path, function: str | None, files: list[str], seen: dict[str, dict[str, Seen]]
) -> list[str]:
    """Return the tests that can notice a fault, those that call the function first, fast first.

    ``seen`` holds for each file of tests what its tests do.  The other tests of a file in which one
    calls the function come last, because a cached result may spare them the call; golden cases
    are files of their own each and keep nothing.
    """

    def hits(test: Seen) -> bool:
        return any(
            file == str(path) and (function is None or name == function)
            for file, name in test.calls
        )

    direct: list[tuple[float, str]] = []
    other: list[tuple[float, str]] = []
    for file in files:
        tests = seen[file]
        calling = {name for name, test in tests.items() if hits(test)}
        direct += [(tests[name].seconds, name) for name in calling]
        if calling and not file.startswith("tests/golden/"):
            other += [(tests[name].seconds, name) for name in tests.keys() - calling]
    if function == KERNEL or (not direct and function is None):
        direct = []
        other = [(test.seconds, name) for file in files for name, test in seen[file].items()]
    return [name for took, name in [*sorted(direct), *sorted(other)] if took <= LONGEST]
