"""README and docs hold to what they speak of: committed results, settings, commands and paths that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from iot_pipeline.commands.estimate import DATA
from iot_pipeline.settings import DESCRIPTIONS

NO_SETTINGS = {"serve_token", "postgres_password"}  # secrets, which are not listed with the settings and their values
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
ALL = README + "".join(DOCS.values())


def test_results_are_the_committed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = importlib.import_module("readme_table")
    tables, comparisons = made.tables(), made.comparisons()
    assert all(part.count("\n") > 2 for part in (*tables, *comparisons))
    assert tables[0] in README
    assert all(part in DOCS["results.md"] for part in (tables[1], *comparisons))


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"\bIOT_([A-Z_]+)\b", ALL + (ROOT / ".env.example").read_text()))
    assert len(named) > 10
    assert {name.lower() for name in named} <= set(DESCRIPTIONS) | NO_SETTINGS


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    assert set(re.findall(r"make ([a-z]+)", README)) - {"run"} <= known


def test_every_path_that_is_named_exists() -> None:
    named = set(re.findall(r"(?<![\w/-])(?:iot_pipeline|benchmarks|docs|deploy)/[\w*-]*[./][\w./*-]*", ALL))
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("/.")))]
    assert missing == []


def test_the_estimate_comes_after_what_it_reads() -> None:
    assert re.findall(r"run --until (\w+) && \S*iot-pipeline estimate", ALL) == [DATA]


def test_every_link_between_pages_leads_somewhere() -> None:
    for folder, pages in ((ROOT, {"README.md": README}), (ROOT / "docs", DOCS)):
        for name, text in pages.items():
            for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
                assert (folder / link).exists(), f"{name}: {link}"
