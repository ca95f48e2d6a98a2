"""No name is there for the tests alone: a verb leads to it, or the documentation names it.

Read from the source: a name is reached where code outside its own definition refers to it, and
that code is reached itself.  Methods count as reached by name, whoever's method it is.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = ("geo3d", "shape_matching", "scenes", "apps")
PAGE = ROOT / "docs" / "python-api.md"
# Called by torch, yaml, pickle, logging or http.server.
HOOKS = {"forward", "backward", "setup_context", "jvp", "extra_repr", "find_class"}
HOOKS |= {"_build_loss", "on_train_epoch_start", "_compute_tensor", "aggregate"}  # nnU-Net, MONAI
HOOKS |= {
    "persistent_load",
    "emit",
    "format",
    "construct_mapping",
    "log_message",
    "do_GET",
    "handleError",
}
# Found by name: verbs by `apps.cli`, presets by `geo3d.config`, the child by `-m`.
ROOTS = {("apps.cli", "main"), ("geo3d", "__version__"), ("geo3d.mesh.sandbox_child", "main")}
# Found by `apps.commands.train_nnunet` by the name that a user gives.
NNUNET = ROOT / "geo3d" / "segmentation" / "nnunet" / "trainers.py"
ROOTS |= {
    ("geo3d.segmentation.nnunet.trainers", node.name)
    for node in ast.parse(NNUNET.read_text("utf-8")).body
    if isinstance(node, ast.ClassDef)
}
# What `apps.viewer.image_tab` asks of the module it is given.
ROOTS |= {
    (f"apps.viewer.{module}", name)
    for module in ("generate_job", "segment_job")
    for name in ("EXAMPLES", "example", "read_upload", "image_of")
}

Name = tuple[str, str]
"""Module and name, "Class.method" for a method."""


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined(tree: ast.Module) -> dict[str, tuple[int, int]]:
    """Return the first and last line of each name at the top of a module and of each method."""
    found = {}
    for node in tree.body:
        span = (node.lineno, node.end_lineno or node.lineno)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = span
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("__"):
                    found[f"{node.name}.{child.name}"] = (child.lineno, child.end_lineno or 0)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            found |= dict.fromkeys(names, span)
    return found


class References(ast.NodeVisitor):
    """Which names a module refers to, and inside which definitions of its own it does."""

    def __init__(self, module: str, tree: ast.Module, modules: set[str]) -> None:
        self.module, self.modules = module, modules
        self.spans = defined(tree)
        self.bound: dict[str, str] = {}
        self.names: dict[Name, list[frozenset[Name]]] = defaultdict(list)
        self.attributes: dict[str, list[frozenset[Name]]] = defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                self.bound |= {a.asname: a.name for a in node.names if a.asname}
        self.visit(tree)

    def inside(self, line: int) -> frozenset[Name]:
        return frozenset((self.module, q) for q, (a, b) in self.spans.items() if a <= line <= b)

    def refer(self, path: str, line: int) -> None:
        module, _, name = path.rpartition(".")
        if module in self.modules:
            self.names[module, name].append(self.inside(line))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.refer(self.bound.get(node.id, f"{self.module}.{node.id}"), node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.attributes[node.attr].append(self.inside(node.lineno))
        path = ast.unparse(node)
        head, _, rest = path.partition(".")
        self.refer(f"{self.bound.get(head, head)}.{rest}", node.lineno)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        # Annotations in quotes, and names of attributes for getattr.
        if isinstance(node.value, str) and len(node.value) < 300:
            if node.value.isidentifier():
                self.attributes[node.value].append(self.inside(node.lineno))
            for word in re.findall(r"[A-Za-z_]\w*", node.value):
                if word in self.bound:
                    self.refer(self.bound[word], node.lineno)


def documented() -> set[str]:
    """Return the names that the page of the Python API lists and those that examples import."""
    found = set(re.findall(r"^\* `([\w.]+)", PAGE.read_text("utf-8"), re.MULTILINE))
    pages = [p for p in ROOT.rglob("*.md") if not {"tests", ".venv"} & set(p.parts)]
    for page in pages:
        text = page.read_text("utf-8")
        for module, names in re.findall(r"from ([\w.]+) import (\w+(?:, \w+)*)", text):
            if module.partition(".")[0] in TREES:
                found |= {f"{module}.{name.strip()}" for name in names.split(",")}
    return found


def unreached() -> list[str]:
    trees = {
        dotted(path): ast.parse(path.read_text("utf-8"))
        for top in TREES
        for path in (ROOT / top).rglob("*.py")
    }
    names: dict[Name, list[frozenset[Name]]] = defaultdict(list)
    attributes: dict[str, list[frozenset[Name]]] = defaultdict(list)
    everything: set[Name] = set()
    for module, tree in trees.items():
        found = References(module, tree, set(trees))
        everything |= {(module, name) for name in found.spans}
        for key, places in found.names.items():
            names[key] += places
        for attribute, places in found.attributes.items():
            attributes[attribute] += places
    listed, dead = documented(), set[Name]()

    def is_reached(item: Name) -> bool:
        module, name = item
        last = name.rpartition(".")[2]
        is_verb = module.startswith("apps.commands.") and name in ("run", "add_arguments")
        is_found_by_name = item in ROOTS or is_verb or name == "PRESETS" or last in HOOKS
        if is_found_by_name or name.startswith("__") or f"{module}.{name}" in listed:
            return True
        places = attributes[last] if "." in name else names[item]
        return any(item not in place and not place & dead for place in places)

    while new := {item for item in everything - dead if not is_reached(item)}:
        dead |= new
    return sorted(f"{module}.{name}" for module, name in dead)


def test_no_public_name_is_there_for_the_tests_alone() -> None:
    assert not unreached()


def test_the_page_of_the_python_api_names_what_is_there() -> None:
    for path in documented():
        parts = path.split(".")
        for i in range(len(parts) - 1, 0, -1):
            try:
                found: object = importlib.import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                continue
            for part in parts[i:]:
                found = getattr(found, part)
            break
        else:
            raise AssertionError(path)
