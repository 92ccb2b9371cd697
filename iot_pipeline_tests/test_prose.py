"""The rules of the house for reading: docstrings, file lengths, names, words of the vocabulary, borders of packages."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PRODUCT = sorted((ROOT / "iot_pipeline").rglob("*.py"))
MOST_LINES, MOST_BODY_LINES, DOCUMENTED_FROM = 400, 25, 4
# Words of our own for what the field has a name for: classes, functions, modules, parameters, attributes.
FORMER_NAMES = {
    "Manners", "manners", "garbage", "Hide", "Bench", "Till", "pushed_back", "Tries", "asked_by_others", "Drawn",
    "Spill", "spill", "Survey", "survey", "Learned", "Counting", "ShortOpenAI", "Brief", "brief", "Judge", "Asks",
    "unrecorded", "told_failures", "raised_shares", "deal", "giant", "base_payload", "copying", "exercises", "rung",
    "ladder", "nothing_cut_label_and_end_supervised",
    "few_rows_without_answer", "orders_the_train_pool_alone",
}  # fmt: skip
STAGES, TRACKS = {"10K", "30K", "70K", "150K", "ALL"}, {"original", "paraphrased", "feature_varied"}
PARTITION_KEY = re.compile(r"^\S*\|\S*$")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[Path, ast.Module]:
    """Syntax trees of the product, parsed by the worker of pytest-xdist that runs this file alone."""
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in PRODUCT}


def nodes(kind: type | tuple[type, ...] | object) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of a kind in the product, with its file."""
    for path, tree in trees().items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kind))  # type: ignore[arg-type]


def names(node: ast.AST) -> set[str]:
    """Names that a node introduces or uses."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.arg | ast.keyword):
        return {node.arg or ""}
    if isinstance(node, FUNCTIONS | ast.ClassDef):
        return {node.name}
    return {part for name in node.names for part in name.name.split(".")} if isinstance(node, ast.ImportFrom) else set()


def parameters(function: FUNCTIONS) -> list[str]:
    """Parameters of a function other than self and cls."""
    of = function.args
    every = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
    return [parameter.arg for parameter in every if parameter.arg not in ("self", "cls")]


def test_no_docstring_begins_with_a_question_word() -> None:
    kinds = ast.Module | ast.ClassDef | FUNCTIONS
    begins = [(str(path), told) for path, node in nodes(kinds) if (told := (ast.get_docstring(node) or "")[:60])]
    assert len(begins) > 500
    assert [item for item in begins if re.match(r"(What|How|Whose|Whether|Who)\b", item[1])] == []


def test_no_charter_lists_what_belongs_where() -> None:
    assert [str(path) for path in PRODUCT if "Belongs here" in path.read_text()] == []


def test_public_functions_of_four_parameters_describe_each() -> None:
    bare = []
    for path, node in nodes(FUNCTIONS):
        assert isinstance(node, FUNCTIONS)
        # The docstring of a command is its help, that of an asset its description.
        shown = re.search("command|callback|asset|sensor|check", " ".join(map(ast.unparse, node.decorator_list)))
        long = len(parameters(node)) >= DOCUMENTED_FROM and not node.name.startswith("_") and not shown
        if long and "Args:" not in (ast.get_docstring(node) or ""):
            bare.append(f"{path}: {node.name}")
    assert bare == []


def test_no_file_is_long() -> None:
    files = [*PRODUCT, *(ROOT / "iot_pipeline_tests").rglob("*.py")]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > MOST_LINES] == []


def test_names_are_those_of_the_field() -> None:
    found = {(str(path), name) for path, node in nodes(ast.AST) for name in names(node) & FORMER_NAMES}
    found |= {(str(path), path.stem) for path in trees() if path.stem in FORMER_NAMES}
    assert sorted(found) == []


def test_stages_tracks_and_partition_keys_are_written_once() -> None:
    lists = ast.List | ast.Tuple | ast.Set | ast.Dict
    found = []
    for path, node in nodes(lists | ast.Constant | ast.JoinedStr):
        if path.name == "vocabulary.py":
            continue
        if isinstance(node, ast.Constant):
            words = {node.value} if isinstance(node.value, str) else set()
            key = any(PARTITION_KEY.match(word) and set(word.split("|")) & (STAGES | TRACKS) for word in words)
        elif isinstance(node, ast.JoinedStr):
            told = ast.unparse(node)
            key = "}|{" in told and ("stage" in told or "track" in told)
        else:
            parts = node.keys if isinstance(node, ast.Dict) else node.elts  # type: ignore[attr-defined]
            listed = {part.value for part in parts if isinstance(part, ast.Constant)}
            key = len(listed & STAGES) > 1 or len(listed & TRACKS) > 1
        if key:
            found.append(f"{path}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


def test_asset_bodies_are_short() -> None:
    found = []
    for path, node in nodes(FUNCTIONS):
        assert isinstance(node, FUNCTIONS)
        decorators = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if any(name.endswith("asset") for name in decorators) and body:
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if lines > MOST_BODY_LINES:
                found.append(f"{path}: {node.name} has {lines} lines")
    assert found == []


def test_no_package_imports_an_underscore_name_of_another() -> None:
    found = []
    for path, node in nodes(ast.ImportFrom):
        assert isinstance(node, ast.ImportFrom)
        parts = (node.module or "").split(".")
        private = [name.name for name in node.names if name.name.startswith("_")] + [p for p in parts if p[:1] == "_"]
        private = [name for name in private if not name.startswith("__")]
        if parts[0] == "iot_pipeline" and parts[1:2] != list(path.with_suffix("").parts[1:2]) and private:
            found.append(f"{path}: {private[0]} of {node.module}")
    assert found == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("iot_pipeline", exclude_type_checking_imports=False)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    importing = {module: graph.find_modules_that_directly_import(module) for module in graph.modules}
    left = set(graph.modules)
    while free := {module for module in left if not imported[module] & left or not importing[module] & left}:
        left -= free
    assert sorted(left) == []
