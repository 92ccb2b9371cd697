"""Which code makes which artefact stale: changed code does, comments and other groups' code do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_pipeline.defs import catalogue
from iot_pipeline.lake import code_version as versions


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of four modules: top imports middle inside a function, middle names a data file; other is apart."""
    files = {
        "top/__init__.py": "",
        "top/assets.py": "def f() -> int:\n    from iot_pipeline.middle.work import g\n    return g()\n",
        "middle/__init__.py": "",
        "middle/work.py": '"""Doc."""\nRULES = "rules.yaml"\n\n\ndef g() -> int:\n    """Doc."""\n    return 1\n',
        "middle/rules.yaml": "a: 1\n",
        "middle/unread.yaml": "a: 1\n",
        "other.py": "x = 1\n",
        "lake.py": "x = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    monkeypatch.setattr(versions, "STORE", tmp_path / "facts.json")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for cached in (versions.closure, versions._facts, versions._known, versions._imports, versions._digest):
        cached.cache_clear()


def version_after(project: Path, file: str, old: str, new: str) -> tuple[str, str]:
    before = versions.code_version("iot_pipeline.top.assets")
    path = project / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    forget()
    return before, versions.code_version("iot_pipeline.top.assets")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("middle/work.py", "return 1", "return 2"),
        ("middle/rules.yaml", "a: 1", "a: 2"),
        ("top/assets.py", "return g()", "return g() + 1"),
    ],
)
def test_code_and_the_data_it_names_count(project: Path, file: str, old: str, new: str) -> None:
    before, after = version_after(project, file, old, new)
    assert before != after


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("middle/work.py", '"""Doc."""', '"""Another."""'),
        ("middle/work.py", "return 1", "return 1  # why"),
        ("middle/unread.yaml", "a: 1", "a: 2"),
        ("other.py", "x = 1", "x = 2"),
    ],
)
def test_comments_docstrings_and_what_is_not_imported_do_not(project: Path, file: str, old: str, new: str) -> None:
    before, after = version_after(project, file, old, new)
    assert before == after


def test_groups_depend_on_their_own_code() -> None:
    trained = versions.closure(frozenset({"iot_pipeline.training.train"}))
    reported = versions.closure(frozenset({"iot_pipeline.defs.report.assets"}))
    assert "iot_pipeline.training.data" in trained
    assert not any(name.startswith(("iot_pipeline.reporting", "iot_pipeline.teacher")) for name in trained)
    assert "iot_pipeline.reporting.claims" in reported
    assert not any("lake" in name or "settings" in name for name in trained | reported)


def test_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no_such_module is no module"):
        versions.code_version("iot_pipeline.no_such_module")


def test_what_is_left_out_exists() -> None:
    for name in versions.PLUMBING:
        path = Path(versions.__file__).parents[2].joinpath(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_stored_facts_give_the_version_of_parsed_ones_and_a_broken_store_is_parsed_anew(project: Path) -> None:
    parsed = versions.code_version("iot_pipeline.top.assets")
    assert versions.STORE.is_file()
    for content in (versions.STORE.read_text(), "no JSON", '{"another rule": {}}'):
        versions.STORE.write_text(content)
        forget()
        assert versions.code_version("iot_pipeline.top.assets") == parsed


def test_facts_of_an_older_source_and_of_a_deleted_module_are_not_kept(project: Path) -> None:
    version_after(project, "middle/work.py", "return 1", "return 2")
    size = len(versions.STORE.read_text())
    version_after(project, "middle/work.py", "return 2", "return 1")
    assert len(versions.STORE.read_text()) == size
    (project / "middle/work.py").unlink()
    version_after(project, "top/assets.py", "from iot_pipeline.middle.work import g", "g = int")
    assert 'middle.work":' not in versions.STORE.read_text()


@pytest.mark.parametrize(
    ("entry", "module"),
    [
        ("evaluation.assets", "iot_pipeline.evaluation.unknown.scores"),
        ("evaluation.study", "iot_pipeline.evaluation.grid"),
        ("evaluation.unknown", "iot_pipeline.evaluation.unknown.leave_out"),
        ("evaluation.zero_shot", "iot_pipeline.defs.evaluation.arms"),
        ("evaluation.reasons", "iot_pipeline.defs.evaluation.students"),
        ("baseline.distil", "iot_pipeline.defs.baseline.fitting"),
        ("training.paper", "iot_pipeline.defs.training.rows"),
        ("training.class_rows", "iot_pipeline.defs.training.rows"),
    ],
)
def test_code_that_an_asset_reaches_through_a_module_of_its_group_counts(entry: str, module: str) -> None:
    assert module in versions.closure(frozenset({f"iot_pipeline.defs.{entry}"}))


def test_no_module_that_defines_assets_is_imported_by_another_one() -> None:
    """Its code would not count, so what two of them share stands in a module without assets."""
    groups = Path(catalogue.__file__).parent
    modules = [f"iot_pipeline.defs.{path.parent.name}.{path.stem}" for path in groups.glob("*/*.py")]
    define = {name for name in modules if versions._facts(name.removesuffix(".__init__"))["assets"]}
    assert {"iot_pipeline.defs.quality.assets", "iot_pipeline.defs.report.checks"} <= define
    assert {
        name: found for name in modules if (found := versions._imports(name.removesuffix(".__init__")) & define)
    } == {}
