"""Every loading of somebody's files says that no code of theirs may run: read from the syntax trees of the project."""

from __future__ import annotations

import ast
from pathlib import Path

import iot_pipeline

ROOT = Path(iot_pipeline.__file__).parent
LOADERS = {"from_pretrained", "from_config", "pipeline", "load_dataset"}
OTHERS = {"DagsterInstance"}  # has a from_config of its own, which reads dagster.yaml


def loading_calls(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) in LOADERS or getattr(node.func, "id", None) in LOADERS)
        and getattr(getattr(node.func, "value", None), "attr", None) not in OTHERS
    ]


def trusts_nobody(call: ast.Call) -> bool:
    given = [word.value for word in call.keywords if word.arg == "trust_remote_code"]
    return len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is False


def test_every_loading_call_forbids_code_from_outside() -> None:
    found = {path: loading_calls(ast.parse(path.read_text())) for path in sorted(ROOT.rglob("*.py"))}
    assert sum(map(len, found.values())) >= 5, "the calls are written in another way now: mend this test"
    wrong = [f"{path}:{call.lineno}" for path, calls in found.items() for call in calls if not trusts_nobody(call)]
    assert wrong == []


def test_the_rule_sees_what_it_forbids() -> None:
    for text in ("A.from_pretrained(x)", "A.from_config(x, trust_remote_code=True)", "A.from_config(x, **options)"):
        (call,) = loading_calls(ast.parse(text))
        assert not trusts_nobody(call)
