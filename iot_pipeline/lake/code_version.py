"""Code versions: a digest of the code behind an artefact, so that changed code makes it stale.

Versions written by hand were forgotten: in its first week `quality` kept "2" through four changes to its counts.
"""

import ast
import contextlib
import hashlib
import itertools
import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypedDict

from iot_pipeline.lake.atomic import read_json, write_text

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
        "lineage",
        "settings",
        "defs.asset_page",
        "defs.automation",
        "defs.catalogue",
        "defs.checks",
        "defs.column_lineage",
        "defs.dagster_internals",
        "defs.evaluation.on_ray",
        "defs.execute",
        "defs.lake_state",
        "defs.partitions",
        "defs.plan",
        "defs.reads",
        "defs.recording",
        "defs.resources",
        "defs.replay",
        "defs.run_monitoring",
        "defs.run_server",
        "defs.sinks",
        "defs.verification",
        "defs.warm_launcher",
        "inference.ray_session",
        "sinks",
        "training.gpu_locks",
        "training.launch",
        "training.local_ray",
        "training.ranks",
        "training.ray_guard",
        "training.reporter",
    )
)
REPORTING = f"{PACKAGE}.reporting"
DEFINERS = ("asset", "asset_check", "multi_asset", "multi_asset_check")
DATA_SUFFIXES = {".yaml", ".json", ".j2", ".css"}
RULE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # facts found by another rule are not used
STORE = Path(__file__).parent / "__pycache__" / "code_facts.json"


def code_version(*modules: str) -> str:
    """Return the code version of `modules`: a digest of them and of the project modules they import.

    Comments and docstrings do not count. Modules imported inside functions do, and so do data files (YAML, templates)
    that a module names. Modules that define assets do not count: what an asset takes from another one is an input.
    """
    digest, known = hashlib.sha256(), dict(_known())
    for name in sorted(closure(frozenset(modules))):
        digest.update(f"{name} {_digest(name)}\n".encode())
    if _known() != known:  # keep them, if this installation can be written
        present = {name: facts for name, facts in _known().items() if _file(name)}
        with contextlib.suppress(OSError):
            write_text(STORE, json.dumps({RULE: present}))
    return digest.hexdigest()[:12]


@cache
def closure(entries: frozenset[str]) -> frozenset[str]:
    """Return `entries` and the project modules that they import, directly or through others.

    PLUMBING and modules that define assets are left out unless they are entries themselves, and so is reporting unless
    an entry belongs to it or to the report.
    """
    reports = any(entry.startswith((REPORTING, f"{PACKAGE}.defs.report")) for entry in entries)
    skipped = {*PLUMBING} if reports else {*PLUMBING, REPORTING}
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            counted = (other for other in _imports(name) if not skipped & _packages(other))
            waiting += [other for other in counted if not _facts(other)["assets"]]
    return frozenset(found)


def _packages(name: str) -> set[str]:
    """Return a module's name and the names of the packages around it."""
    return set(itertools.accumulate(name.split("."), "{}.{}".format))


def _file(name: str) -> Path | None:
    """Return the source file of a project module; None if `name` is not a module."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


class _Facts(TypedDict):
    """Facts of a module: imports (`from a import b` as [`a.b`, `a`]), digest of its code, data files that it names.

    `source` is the sha256 of the source that was parsed. `assets`: whether it defines Dagster assets or checks.
    """

    source: str
    assets: bool
    imports: list[list[str]]
    digest: str
    data: list[str]


@cache
def _facts(name: str) -> _Facts:
    """Parse a module, or take its facts from the store if its source is known."""
    path = _file(name)
    if path is None:
        raise ValueError(f"{name} is no module of {PACKAGE}")
    code, known = path.read_bytes(), _known()
    source = hashlib.sha256(code).hexdigest()
    if name not in known or known[name]["source"] != source:
        tree = ast.parse(code)
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        texts = {text for text in constants if isinstance(text, str)}
        known[name] = {
            "source": source,
            "assets": any(_is_definer(node) for node in ast.walk(tree)),
            "imports": list(_named_imports(tree)),
            "digest": hashlib.sha256(_canonical(tree).encode()).hexdigest(),
            "data": sorted(text for text in texts if Path(text).suffix in DATA_SUFFIXES),
        }
    return known[name]


def _is_definer(node: ast.AST) -> bool:
    """True for `dg.asset` and `dg.asset_check`, as decorators or calls."""
    return isinstance(node, ast.Attribute) and node.attr in DEFINERS and ast.unparse(node.value) == "dg"


@cache
def _known() -> dict[str, _Facts]:
    """Read the facts that earlier processes found of each module; parsing takes 2 s of every command otherwise."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        stored: dict[str, dict[str, _Facts]] = read_json(STORE)
        return stored[RULE]
    return {}


@cache
def _imports(name: str) -> frozenset[str]:
    """Return the project modules that a module imports anywhere in its code, except for type checkers alone."""
    found = {
        next(module for module in names if _file(module) or module == names[-1]) for names in _facts(name)["imports"]
    }
    return frozenset(module for module in found if module.startswith(PACKAGE + "."))


def _named_imports(tree: ast.Module) -> Iterator[list[str]]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from ([alias.name] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{alias.name}", node.module] for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below `node`, except in `if TYPE_CHECKING:` blocks."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


@cache
def code_commit() -> str:
    """Return the commit of the checkout, with `-dirty` if files were changed; `unknown` outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        return subprocess.check_output(
            command, cwd=ROOT.parent, stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def _digest(name: str) -> str:
    """Return the digest of a module's code and of the data files that it names, in its folder or below."""
    path, facts = _file(name), _facts(name)
    assert path is not None
    digest = hashlib.sha256(facts["digest"].encode())
    for file in sorted(path.parent.rglob("*")) if facts["data"] else []:
        if file.suffix in DATA_SUFFIXES and file.name in facts["data"]:
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
