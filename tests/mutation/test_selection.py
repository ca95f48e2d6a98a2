"""Which tests the mutation score tries for a fault, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutation.selection import KERNEL, LONGEST, Seen, function_at, order_tests

SOURCE = b"""\
K = 3
class A:
    size: int = 4
    @property
    def area(self, twice=False):
        return [x for x in range(2)]

@njit
def kernel(x):
    return x
"""


@pytest.mark.parametrize(
    ("line", "name"), [(1, None), (3, None), (5, "area"), (6, "area"), (10, KERNEL)]
)
def test_lines_belong_to_functions_whose_calls_are_seen(line: int, name: str | None) -> None:
    assert function_at(SOURCE, line) == name


def test_fast_callers_come_first_and_tests_beside_them_last() -> None:
    path = Path("/a.py")

    def seen(seconds: float, *names: str) -> Seen:
        return Seen(seconds, frozenset(("/a.py", name) for name in names))

    golden = "tests/golden/test_golden.py"
    tests = {
        "one": {"slow": seen(2.0, "f", "g"), "cached": seen(0.1), "long": seen(2 * LONGEST, "f")},
        "two": {"fast": seen(1.0, "f"), "other": seen(0.2, "g")},
        "three": {"elsewhere": seen(0.1, "h")},
        golden: {"case": seen(1.5, "f"), "no": seen(0.1)},
    }
    files = list(tests)
    assert order_tests(path, "f", files, tests) == ["fast", "case", "slow", "cached", "other"]
    assert order_tests(path, "unknown", files, tests) == []
    everything = order_tests(path, None, files, tests)
    assert everything[:3] == ["elsewhere", "other", "fast"]
    # What nobody calls in a way that is seen (a kernel, a constant) concerns every test.
    assert len(order_tests(Path("/b.py"), None, files, tests)) == 7
    assert len(order_tests(path, KERNEL, files, tests)) == 7
