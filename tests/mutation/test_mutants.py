"""The faults that the mutation score counts."""

from __future__ import annotations

from pathlib import Path

from mutation.mutants import Finder

SOURCE = '''"""A doc with 1 < 2."""
from numba import njit; BLOCK = 1 << 9
K: int = 3

@njit(cache=True)
def f(x: "a | b", flag=True):
    """Return 1 + 1."""
    report(x, 1, 2)
    if x is not None and x < 4:
        raise ValueError("no" + str(5))
    x -= abs(x).sum(dim=0)
    g(x)
    return min(x, -2.0 * x) if flag else x.clone()
'''


def test_faults_are_one_change_each_and_leave_what_no_result_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(SOURCE)
    found = Finder(path).all()
    changed = {}
    for mutant in found:
        text = mutant.apply(SOURCE.encode()).decode().splitlines()
        differing = [(a, b) for a, b in zip(SOURCE.splitlines(), text, strict=True) if a != b]
        assert len(differing) == 1 and differing[0][0] == SOURCE.splitlines()[mutant.line - 1]
        changed.setdefault(mutant.line, set()).add(differing[0][1].strip())
    assert changed == {
        3: {"K: int = 4"},
        6: {'def f(x: "a | b", flag=False):'},
        9: {
            "if (not (x is not None and x < 4)):",
            "if x is None and x < 4:",
            "if x is not None or x < 4:",
            "if x is not None and x <= 4:",
            "if x is not None and x < 5:",
        },
        11: {"x += abs(x).sum(dim=0)", "x -= abs(x).mean(dim=0)", "x -= abs(x).sum(dim=1)"},
        12: {"pass"},
        13: {
            "return max(x, -2.0 * x) if flag else x.clone()",
            "return min(x, 2.0 * x) if flag else x.clone()",
            "return min(x, -4.0 * x) if flag else x.clone()",
            "return min(x, -2.0 / x) if flag else x.clone()",
            "return min(x, -2.0 * x) if (not (flag)) else x.clone()",
            "return min(x, -2.0 * x) if flag else x",
        },
    }  # fmt: skip
