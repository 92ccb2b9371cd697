"""Code versions: a digest of the code that an artefact is made by, so that changed code makes it stale by itself.

A version written by hand was forgotten: in its first week `quality` kept "2" through four changes of what it counts.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "iot_pipeline"
ROOT = Path(__file__).resolve().parents[1]
# What carries artefacts about without deciding what is in them. Reporting counts for the group report alone:
# elsewhere it draws figures, which are no part of an artefact's content.
PLUMBING = tuple(
    f"{PACKAGE}.{name}"
    for name in (
        "cli",
        "commands",
        "definitions",
        "errors",
        "lake",
        "settings",
        "defs.automation",
        "defs.execute",
        "defs.partitions",
        "defs.plan",
        "defs.resources",
        "defs.step",
        "defs.versions",
        "training.launch",
        "training.lease",
        "training.reporter",
    )
)
REPORTING = f"{PACKAGE}.reporting"
DATA_SUFFIXES = {".yaml", ".json", ".j2", ".css"}


def code_version(*modules: str) -> str:
    """Digest of `modules` and of what they import of the project, comments and docstrings left out.

    Modules imported inside functions count, and so do data files (YAML, templates) that a module names. Of other
    groups' assets nothing counts: what an asset takes from them is an input.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(frozenset(modules))):
        digest.update(f"{name} {_digest(name)}\n".encode())
    return digest.hexdigest()[:12]


@cache
def closure(entries: frozenset[str]) -> frozenset[str]:
    """`entries` and every module of the project that they import, directly or through others."""
    skipped = (
        PLUMBING
        if any(entry.startswith((REPORTING, f"{PACKAGE}.defs.report")) for entry in entries)
        else (*PLUMBING, REPORTING)
    )
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(name) if not _within(other, skipped) and not _is_assets(other)]
    return frozenset(found)


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _is_assets(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 3 and parts[1] == "defs"


def _file(name: str) -> Path | None:
    """The source file of a module of the project; None where `name` is no module."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def _tree(name: str) -> ast.Module:
    path = _file(name)
    if path is None:
        raise ValueError(f"{name} is no module of {PACKAGE}")
    return ast.parse(path.read_text())


@cache
def _imports(name: str) -> frozenset[str]:
    """Modules of the project that a module imports anywhere in its code; not those for type checkers alone."""
    found = set()
    for node in _running(_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {module if _file(module) else node.module for module in within if module.startswith(PACKAGE)}
    return frozenset(module for module in found if module.startswith(PACKAGE + "."))


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node` but for `if TYPE_CHECKING:` blocks."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


@cache
def _digest(name: str) -> str:
    """Digest of a module's code and of the data files in its folder that it names."""
    path, tree = _file(name), _tree(name)
    assert path is not None
    digest = hashlib.sha256(_canonical(tree).encode())
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for file in sorted(path.parent.rglob("*")):
        if file.suffix in DATA_SUFFIXES and file.name in named:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _canonical(node: object) -> str:
    """A syntax tree as text, without places, docstrings and empty fields (which differ between Python versions)."""
    if isinstance(node, ast.AST):
        fields = ((field, getattr(node, field, None)) for field in node._fields)
        kept = [f"{field}={_canonical(_code(value))}" for field, value in fields if value not in (None, [])]
        return f"{type(node).__name__}({','.join(kept)})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node)}]"
    return repr(node)


def _code(value: object) -> object:
    """A body without its docstring; anything else as it is."""
    if isinstance(value, list) and value and isinstance(value[0], ast.Expr):
        first = value[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return value[1:]
    return value
