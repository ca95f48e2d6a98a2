"""One-line faults of a source file: what a slip of the pen makes of an operator, number or call.

A mutant replaces the bytes ``start`` to ``end`` of a file.  Left alone is what no result depends
on: annotations, decorators, messages, error branches' own text, progress and log lines.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
TWINS = {
    **{a: b for pair in (("min", "max"), ("amin", "amax"), ("minimum", "maximum")) for a, b in
       (pair, pair[::-1])},
    **{a: b for pair in (("argmin", "argmax"), ("any", "all"), ("floor", "ceil"), ("sin", "cos"),
                         ("sum", "mean"), ("zeros_like", "ones_like")) for a, b in
       (pair, pair[::-1])},
}  # fmt: skip
"""Functions and methods that are taken for each other."""
DROPPED = ("abs", "detach", "flip", "sqrt", "square", "clone", "contiguous")
"""Methods without which an expression still means something."""
IDLE = ("dtype", "device", "strict", "exist_ok", "parents", "relative_cost")
"""Keywords whose loss changes no number of a right program."""
SILENT = ("report", "warn", "debug", "info", "warning", "check_cancelled")
"""Calls that tell somebody something and change no result."""

BLOCKS = re.compile(r"_?(BLOCK|CHUNK)(_ENTRIES)?$")
"""Constants that say how much is worked on at once, whatever comes out."""


@dataclass(frozen=True)
class Mutant:
    """One fault: bytes ``start`` to ``end`` of ``path`` become ``new``."""

    path: Path
    line: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        """Return ``source`` with the fault."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def called(node: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


class Finder:
    """Lists the mutants of one file."""

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, path.read_bytes()
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def all(self) -> list[Mutant]:
        """Return every mutant that still parses."""
        found = {(m.start, m.end, m.new): m for m in self.visit(ast.parse(self.source))}
        return [m for m in found.values() if self._parses(m)]

    def _parses(self, mutant: Mutant) -> bool:
        try:
            ast.parse(mutant.apply(self.source))
        except SyntaxError:
            return False
        return True

    def start(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def cut(self, start: int, end: int, new: str) -> Mutant:
        line = self.source.count(b"\n", 0, start) + 1
        return Mutant(self.path, line, start, end, self.source[start:end].decode(), new)

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[Mutant]:
        """Replace the operator that stands between two operands."""
        start, end = self.end(left), self.start(right)
        word = rf"\b{old}\b".replace(" ", r"\s+") if old[0].isalpha() else re.escape(old)
        hit = re.search(word, self.source[start:end].decode())
        if hit:
            yield self.cut(start + hit.start(), start + hit.end(), new)

    def visit(self, node: ast.AST) -> Iterator[Mutant]:
        """Yield the mutants of a node and of all that counts below it."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Call) and called(node) in SILENT:
            return
        if isinstance(node, ast.Assign) and BLOCKS.match(getattr(node.targets[0], "id", "")):
            return
        yield from getattr(self, f"of_{type(node).__name__}", lambda _: ())(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.visit(child)

    def of_Compare(self, node: ast.Compare) -> Iterator[Mutant]:
        for (left, right), op in zip(
            pairwise([node.left, *node.comparators]), node.ops, strict=True
        ):
            yield from self.between(left, right, *COMPARISONS[type(op)])

    def of_BinOp(self, node: ast.BinOp) -> Iterator[Mutant]:
        is_text = any(isinstance(n, ast.JoinedStr) for n in (node.left, node.right))
        if type(node.op) in ARITHMETIC and not is_text:
            yield from self.between(node.left, node.right, *ARITHMETIC[type(node.op)])

    def of_AugAssign(self, node: ast.AugAssign) -> Iterator[Mutant]:
        if type(node.op) in ARITHMETIC:
            yield from self.between(node.target, node.value, *ARITHMETIC[type(node.op)])

    def of_BoolOp(self, node: ast.BoolOp) -> Iterator[Mutant]:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            yield from self.between(left, right, *words)

    def of_UnaryOp(self, node: ast.UnaryOp) -> Iterator[Mutant]:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            if node.operand.value == 1:  # the last axis or entry of two is also number 1
                return
        yield self.cut(self.start(node), self.start(node.operand), "")

    def of_Constant(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self.cut(self.start(node), self.end(node), str(not value))
        elif isinstance(value, int):
            yield self.cut(self.start(node), self.end(node), str(value + 1))
        elif isinstance(value, float):
            yield self.cut(self.start(node), self.end(node), repr(2 * value or 1.0))

    def of_If(self, node: ast.If | ast.While | ast.IfExp) -> Iterator[Mutant]:
        start, end = self.start(node.test), self.end(node.test)
        yield self.cut(start, end, f"(not ({self.source[start:end].decode()}))")

    of_While = of_IfExp = of_If

    def of_Expr(self, node: ast.Expr) -> Iterator[Mutant]:
        if isinstance(node.value, ast.Call) and called(node.value) not in SILENT:
            yield self.cut(self.start(node), self.end(node), "pass")

    def of_Call(self, node: ast.Call) -> Iterator[Mutant]:
        name, end = called(node), self.end(node.func)
        if name in TWINS:
            yield self.cut(end - len(name), end, TWINS[name])
        if name in DROPPED and isinstance(node.func, ast.Attribute) and not node.args:
            yield self.cut(self.end(node.func.value), self.end(node), "")
        parts = [*node.args, *node.keywords]
        for before, part in pairwise(sorted(parts, key=self.start)):
            if isinstance(part, ast.keyword) and part.arg and part.arg not in IDLE:
                yield self.cut(self.end(before), self.end(part), "")
