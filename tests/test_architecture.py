"""The rules of the house that can be read from the source: imports, forbidden calls, sizes."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = ("geo3d", "shape_matching", "scenes", "apps")
MODULES = sorted(p for tree in TREES for p in (ROOT / tree).rglob("*.py"))
NAMES = {path: str(path.relative_to(ROOT)) for path in MODULES}
# Parsed as Python 3.10, the oldest we promise: newer syntax is an error here.
SYNTAX = {
    path: ast.parse(path.read_text("utf-8"), NAMES[path], feature_version=(3, 10))
    for path in MODULES
}

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 8
PICKLE_MODULE = "geo3d/unpickle.py"

METHODS = ("shape_matching", "scenes", "geo3d.segmentation")
# Each part of the core may import itself, plumbing, and what is listed here.
CORE = {
    "work": (),
    "mesh": (),
    "spectral": ("mesh",),
    "render": ("mesh",),
    "fields": ("mesh", "render"),
    "topology": ("mesh",),
    "distill": (),
    "layout": (),
    "synth": ("mesh", "render", "layout"),
}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module of the project that ``path`` imports, anywhere in it."""
    for node in ast.walk(SYNTAX[path]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = dotted(path).split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from geo3d import runs` imports geo3d.runs.
            found = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in found:
            if name.split(".")[0] in TREES:
                yield name, node.lineno


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def part_of_core(name: str) -> str | None:
    """Return "mesh" for geo3d.mesh.io, None for plumbing and for other trees."""
    parts = name.split(".")
    is_core = parts[0] == "geo3d" and len(parts) > 1 and parts[1] in CORE
    return parts[1] if is_core else None


def import_faults(importer: str, imported: str) -> str | None:
    """Return what is wrong with one import, or None."""
    if is_below(imported, "apps") and not is_below(importer, "apps"):
        return "only apps imports apps"
    method = next((m for m in METHODS if is_below(importer, m)), None)
    other = next((m for m in METHODS if is_below(imported, m)), None)
    if other and other != method and not is_below(importer, "apps"):
        return "a method is imported only by apps and by itself"
    if is_below(importer, "geo3d") and method is None:
        mine, theirs = part_of_core(importer), part_of_core(imported)
        if theirs and mine is None:
            return "plumbing imports plumbing only"
        if theirs and theirs != mine and theirs not in CORE[mine or ""]:
            return f"{mine} may not import {theirs}"
    return None


def test_the_rules_catch_what_they_should() -> None:
    assert import_faults("geo3d.mesh.io", "geo3d.spectral.basis")
    assert import_faults("geo3d.runs", "geo3d.mesh.mesh")
    assert import_faults("geo3d.render.cameras", "shape_matching.match")
    assert import_faults("scenes.urban.edit", "shape_matching.match")
    assert import_faults("shape_matching.match", "apps.cli")
    assert import_faults("geo3d.distill.levels", "geo3d.mesh.mesh")
    assert not import_faults("geo3d.spectral.basis", "geo3d.mesh.mesh")
    assert not import_faults("apps.cli", "shape_matching.match")
    assert not import_faults("shape_matching.match", "geo3d.spectral.basis")
    assert not import_faults("geo3d.segmentation.train", "geo3d.topology.betti")


def test_imports_go_one_way() -> None:
    faults = [
        f"{NAMES[path]}:{line} imports {name}: {fault}"
        for path in MODULES
        for name, line in imports(path)
        if (fault := import_faults(dotted(path), name))
    ]
    assert not faults, "\n".join(faults)


def circle(imported: Mapping[str, Iterable[str]]) -> list[str]:
    """Return modules each of which imports the next, the first again at the end; [] if none."""
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_circles_are_seen() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) in (["b", "c", "b"], ["c", "b", "c"])
    assert not circle({"a": ["b", "c"], "b": ["c"]})


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and for type checkers count: they hide circles, no more."""
    modules = {dotted(path): path for path in MODULES}
    imported = {
        name: [found for found, _ in imports(path) if found in modules and found != name]
        for name, path in modules.items()
    }
    assert not circle(imported)


def call_name(node: ast.AST) -> str:
    """Return "a.b.c" for the expression a.b.c, "" for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{call_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST, name: str) -> Iterator[str]:
    """Yield what a module does that no module may."""
    for node in ast.walk(tree):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name.split(".")[0] for alias in node.names}
            modules |= {(getattr(node, "module", None) or "").split(".")[0]}
            bad = modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
            if bad and name != PICKLE_MODULE:
                yield f"{where} imports {bad}"
            if any(alias.name == "*" for alias in node.names):
                yield f"{where} imports *"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{where} has a bare except"
        if isinstance(node, ast.Call):
            yield from forbidden_call(node, name, where)


def forbidden_call(node: ast.Call, name: str, where: str) -> Iterator[str]:
    called = call_name(node.func)
    if called in ("eval", "exec", "compile", "__import__", "breakpoint"):
        yield f"{where} calls {called}"
    if called in ("torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"):
        yield f"{where} calls {called}"
    if called.rpartition(".")[2] == "nan_to_num":
        yield f"{where} calls nan_to_num"
    if called == "print" and not name.startswith("apps/"):
        yield f"{where} prints"
    for keyword in node.keywords:
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if is_true and keyword.arg in ("shell", "allow_pickle", "trust_remote_code"):
            yield f"{where} passes {keyword.arg}=True"


def test_forbidden_code_is_seen() -> None:
    cases = [
        "import pickle",
        "from pickle import loads",
        "from a import *",
        "torch.load('x')",
        "np.load('x', allow_pickle=True)",
        "yaml.load(x)",
        "eval('1')",
        "exec('1')",
        "subprocess.run('x', shell=True)",
        "try:\n    pass\nexcept:\n    pass",
        "print(1)",
        "g.nan_to_num()",
    ]
    assert [c for c in cases if not list(forbidden(ast.parse(c), "geo3d/example.py"))] == []


def test_nothing_forbidden_is_done() -> None:
    found = [fault for path in MODULES for fault in forbidden(SYNTAX[path], NAMES[path])]
    assert not found, "\n".join(found)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(SYNTAX[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def oversized(path: Path) -> Iterator[str]:
    """Yield modules and functions that are too long, and functions with too many parameters."""
    lines = len(path.read_text("utf-8").splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{NAMES[path]} has {lines} lines"
    for node in functions(path):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in given if name not in ("self", "cls")])
        if length > MAX_FUNCTION_LINES:
            yield f"{NAMES[path]}:{node.lineno} {node.name} has {length} lines"
        if count > MAX_PARAMETERS:
            yield f"{NAMES[path]}:{node.lineno} {node.name} has {count} parameters"


def test_sizes_stay_readable() -> None:
    faults = [fault for path in MODULES for fault in oversized(path)]
    assert not faults, "\n".join(faults)


def undocumented(node: ast.AST, prefix: str) -> Iterator[str]:
    """Yield public functions, classes and methods without a docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if child.name.startswith("_"):
                continue
            if not ast.get_docstring(child):
                yield f"{prefix}:{child.lineno} {child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, prefix)


def unexplained(path: Path) -> Iterator[str]:
    """Yield what lacks a docstring, and functions whose signature is not fully typed."""
    tree = SYNTAX[path]
    yield from undocumented(tree, NAMES[path])
    if tree.body and not ast.get_docstring(tree):
        yield f"{NAMES[path]} has no docstring"
    for node in functions(path):
        given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
        if bare or (node.returns is None and node.name != "__init__"):
            yield f"{NAMES[path]}:{node.lineno} {node.name} is not annotated {bare}"


def test_public_names_are_documented_and_typed() -> None:
    faults = [fault for path in MODULES for fault in unexplained(path)]
    assert not faults, "\n".join(faults)


def test_every_package_is_in_the_wheel() -> None:
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"]) - {"geo3d._assets"}
    assert listed == {dotted(path) for path in MODULES if path.name == "__init__.py"}


def test_folders_of_modules_are_packages() -> None:
    lost = {str(p.parent) for p in MODULES if not (p.parent / "__init__.py").is_file()}
    assert not lost


def test_help_and_bare_import_load_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "import geo3d, apps.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try: apps.cli.main(['--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'trimesh', 'gradio', 'matplotlib', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
