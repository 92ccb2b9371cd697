"""README and docs hold to what they speak of: committed results, settings, commands and paths that exist."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.commands.estimate import DATA
from iot_pipeline.settings import DESCRIPTIONS

NO_SETTINGS = {"serve_token", "postgres_password"}  # secrets, which are not listed with the settings and their values
NAMES = {"automl": "AutoML", "lightgbm": "LightGBM"}
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


def committed(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_figures_of_unseen_classes_are_the_committed_ones() -> None:
    found = [committed(f"unknown_detection-{name}") for name in ("farm_flow", "rt_iot2022")]
    many = [one["mean_of_classes_of_10_flows"] for one in found]
    (baseline,) = {one["baseline"] for one in found}
    for title, model, measure in (
        ("student", "student", "auroc"),
        (f"{NAMES[baseline]}'s greatest probability", baseline, "auroc"),
    ):
        told = " | ".join(f"{of[model][measure]:.3f}" for of in many)
        assert f"| mean AUROC, {title} | {told} |" in DOCS["results.md"]
        for of in many:
            assert f"{of[model][measure]:.3f}" in README
    for title, measure in (
        ("false alarms where 1 % were allowed, student", "false_alarms_0.01"),
        ("unseen flows called `unknown` at that rate", "found_0.01"),
        ("the same where 5 % were allowed", "found_0.05"),
    ):
        line = next(line for line in DOCS["results.md"].splitlines() if line.startswith(f"| {title}"))
        digits = 1 if "alarms" in measure else 0
        cells = [
            f"{100 * of['student'][measure]:.{digits}f} % ({100 * of[baseline][measure]:.{digits}f} %)" for of in many
        ]
        assert line.endswith(f"| {cells[0]} | {cells[1]} |"), line


@pytest.mark.parametrize(
    ("model", "title"), [("student", "student 10K"), ("lightgbm", "LightGBM"), ("automl", "AutoML")]
)
def test_the_table_of_categories_is_the_committed_one(model: str, title: str) -> None:
    found = committed("categories-rt_iot2022")[model]["distinct"]
    cells = [title, str(len(found["arms"]["with"]["accuracy"]["by_seed"]))]
    for metric, digits in (("accuracy", 4), ("macro_f1", 3)):
        for arm in ("without", "with"):
            of = found["arms"][arm][metric]
            spread = f" ± {of['spread']:.4f}" if of["spread"] and metric == "accuracy" else ""
            cells.append(f"{of['mean']:.{digits}f}{spread}")
        row = next(row for row in found["contrasts"] if row["metric"] == metric)
        bounds = f"[{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"
        verdict = row["verdict"].removeprefix("one seed: ")
        cells.append(f"{row['difference']:+.{digits}f} {bounds}, {verdict}")
    assert f"| {' | '.join(cells)} |" in DOCS["results.md"]


def test_shares_of_faultless_explanations_and_the_cost_of_a_label_are_the_committed_ones() -> None:
    ways: dict[str, list[Any]] = {"free": [], "grounded": []}
    for name in ("farm_flow-demo", "rt_iot2022-demo"):
        for row in committed(f"study-{name}")["explanations"]:
            if row["arm"] == "original 10K":
                ways[row["way"]].append(row["faultless"])
    free, held = ([f"{of['mean']:.2f}" for of in ways[way]] for way in ("free", "grounded"))
    spread = [f"{of['spread']:.2f}" for of in ways["grounded"]]
    assert f"| written freely | {free[0]} | {free[1]} |" in DOCS["results.md"]
    line = f"| by the grammar of the flow's facts | {held[0]} ± {spread[0]} | {held[1]} ± {spread[1]} "
    assert line in DOCS["results.md"] and {*free, *held} <= set(re.findall(r"\d\.\d\d\b", README))
    engines = committed("inference_engines")
    fastest = next(one for one in engines["variants"] if one["name"] == engines["old_way"]["best"])
    chosen = engines["profiles"]["aggressive"]
    assert f"A label costs {1000 * fastest['cpu_seconds_a_flow']:.2f} ms of a core" in README
    plain = next(one for one in engines["variants"] if one["name"] == "label only, transformers as it is")
    ratios = (plain["cpu_seconds_a_flow"] / fastest["cpu_seconds_a_flow"], chosen["times_reference"])
    told = (f"{engines['old_way']['times_cpu']:,.0f} times", *(f"{ratio:.1f} times" for ratio in ratios))
    cost = " ".join(README[README.index("A label costs") :].split("\n- ")[0].split())
    assert all(part in cost for part in (*told, f"{100 * chosen['agreement']:.2f} %"))


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
