"""Code versions: a digest of the code behind an artefact, so that changed code makes it stale.

Versions written by hand were forgotten: in its first week `quality` kept "2" through four changes to its counts.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "iot_pipeline"
ROOT = Path(__file__).resolve().parents[1]
# Modules that do not decide the content of artefacts. Reporting counts for the group report only: elsewhere it draws
# figures, which are not part of an artefact's content.
PLUMBING = tuple(
    f"{PACKAGE}.{name}"
    for name in (
        "cli",
        "commands",
        "definitions",
        "errors",
        "interrupts",
        "lake",
        "settings",
        "defs.automation",
        "defs.execute",
        "defs.partitions",
        "defs.plan",
        "defs.recording",
        "defs.resources",
        "defs.run_monitoring",
        "training.gpu_locks",
        "training.launch",
        "training.reporter",
    )
)
REPORTING = f"{PACKAGE}.reporting"
DATA_SUFFIXES = {".yaml", ".json", ".j2", ".css"}


def code_version(*modules: str) -> str:
    """Return the code version of `modules`: a digest of them and of the project modules they import.

    Comments and docstrings do not count. Modules imported inside functions do, and so do data files (YAML, templates)
    that a module names. Assets of other groups do not count: what an asset takes from them is an input.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(frozenset(modules))):
        digest.update(f"{name} {_digest(name)}\n".encode())
    return digest.hexdigest()[:12]


@cache
def closure(entries: frozenset[str]) -> frozenset[str]:
    """Return `entries` and the project modules that they import, directly or through others.

    PLUMBING and assets of other groups are left out, and so is reporting unless an entry belongs to it or to the
    report.
    """
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
    """Return the source file of a project module; None if `name` is not a module."""
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
    """Return the project modules that a module imports anywhere in its code, except for type checkers alone."""
    found = set()
    for node in _running(_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {module if _file(module) else node.module for module in within if module.startswith(PACKAGE)}
    return frozenset(module for module in found if module.startswith(PACKAGE + "."))


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below `node`, except in `if TYPE_CHECKING:` blocks."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


@cache
def _digest(name: str) -> str:
    """Return the digest of a module's code and of the data files that it names, in its folder or below."""
    path, tree = _file(name), _tree(name)
    assert path is not None
    digest = hashlib.sha256(_canonical(tree).encode())
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for file in sorted(path.parent.rglob("*")):
        if file.suffix in DATA_SUFFIXES and file.name in named:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _canonical(node: object) -> str:
    """Return a syntax tree as text without positions, docstrings and empty fields (they vary by Python version)."""
    if isinstance(node, ast.AST):
        fields = ((field, getattr(node, field, None)) for field in node._fields)
        kept = [f"{field}={_canonical(_code(value))}" for field, value in fields if value not in (None, [])]
        return f"{type(node).__name__}({','.join(kept)})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node)}]"
    return repr(node)


def _code(value: object) -> object:
    """Return a body without its docstring, and anything else unchanged."""
    if isinstance(value, list) and value and isinstance(value[0], ast.Expr):
        first = value[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return value[1:]
    return value
