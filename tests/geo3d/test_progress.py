"""Loops that tell how far they are."""

from __future__ import annotations

from typing import Any

from geo3d.progress import tell_each


def test_each_item_is_told_before_it_is_done_and_the_end_after() -> None:
    heard: list[Any] = []
    for item in tell_each("ab", heard.append, "letters"):
        heard.append(item)
    steps = [event if isinstance(event, str) else event["step"] for event in heard]
    assert steps == [0, "a", 1, "b", 2]
    assert {event["stage"] for event in heard[::2]} == {"letters"}
    assert {event["total"] for event in heard[::2]} == {2}
