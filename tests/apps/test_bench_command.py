"""The verb bench: every part it names can be measured."""

from __future__ import annotations

import inspect

import pytest

from apps.commands.bench import BENCHES, functions


@pytest.mark.parametrize("what", BENCHES)
def test_every_part_has_a_function_that_flags_can_fill(what: str) -> None:
    bench, found = BENCHES[what], functions(what)
    assert found.keys() == bench.parts.keys()
    known = {*bench.flags, "seed", "progress", "previews", "overrides", "config"}
    for function in found.values():
        needed = inspect.signature(function).parameters.values()
        assert {p.name for p in needed if p.default is p.empty} <= known
