"""The report and the cards: nothing hostile gets through, nothing is fetched, nothing absent is invented."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting.blocks import MISSING
from iot_pipeline.reporting.cards import model_card
from iot_pipeline.reporting.gather import gather
from iot_pipeline.reporting.report import markdown, paper_report
from iot_pipeline_tests.reporting import example
from iot_pipeline_tests.reporting.example_context import make_context

CONTEXT = make_context()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("report")
    facts = paper_report(CONTEXT, folder)
    yield (folder / "report.html").read_text(), (folder / "report.md").read_text(), facts


class Page(HTMLParser):
    """Tags, addresses and ids of a page; complains about tags that do not nest."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert not [name for name in found if name.startswith("on")]
        self.tags.append(tag)
        self.addresses += [value for name in ("src", "href", "srcset", "action", "data") if (value := found.get(name))]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_hostile_text_never_appears_raw(written: tuple[str, str, dict[str, Any]]) -> None:
    page, text, _ = written
    card = model_card(CONTEXT, "10K|original")
    assert "<script" not in page.lower()
    assert "&lt;script&gt;" in page
    assert "<script" not in text.lower()
    assert "&lt;script&gt;" in text
    assert "<script" not in card.split("---\n", 2)[2].lower()


def test_page_is_self_contained_and_well_formed(written: tuple[str, str, dict[str, Any]]) -> None:
    page, text, facts = written
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parsed.addresses)
    assert not re.search(r"@import|url\((?!data:)", page)
    assert {address[1:] for address in parsed.addresses if address.startswith("#")} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(image["alt"] for image in parsed.images)
    assert len(parsed.images) == facts["figures"] == text.count("](data:image/png;base64,")
    assert not re.search(r"\]\((?!data:)", text)


def test_what_is_not_real_stands_on_top(written: tuple[str, str, dict[str, Any]]) -> None:
    page, text, _ = written
    for name in ("SIMULATED data", "EMBEDDED teacher", "TINY base"):
        assert page.index(name) < page.index("<main")
        assert f"> **{name}.**" in text
        assert f"> **{name}.**" in model_card(CONTEXT, "10K|original")


def test_real_parts_carry_no_banner(tmp_path: Path) -> None:
    used = {"source": "x.csv", "teacher": "openai", "base_model": "Qwen/Qwen2.5-1.5B-Instruct", "dataset": "farm_flow"}
    paper_report({"used": used}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<aside class="banner"' not in page


def test_same_context_gives_the_same_bytes(written: tuple[str, str, dict[str, Any]], tmp_path: Path) -> None:
    paper_report(make_context(), tmp_path)
    assert (tmp_path / "report.html").read_text() == written[0]
    assert (tmp_path / "report.md").read_text() == written[1]


def test_an_empty_lake_is_said_to_be_empty(tmp_path: Path) -> None:
    facts = paper_report({}, tmp_path)
    assert facts["figures"] == 0
    for asset in ("track_comparison", "dedup_report", "leakage_report", "eval_metrics", "cost_report", "claims_audit"):
        assert f"{asset}: {MISSING}." in facts["missing"]
    page = (tmp_path / "report.html").read_text()
    assert page.count(MISSING) == len(facts["missing"])
    assert Page(page).open == []


@pytest.mark.parametrize("part", sorted(set(CONTEXT) - {"spec", "used", "labels", "training_order", "prompts"}))
def test_each_part_may_be_absent(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "duplicates",
        "conflicts",
        "profile",
        "confusion",
        "loss_curves",
        "accuracy",
        "reliability",
        "cost",
        "inference_ladder",
        "leakage",
    ):
        monkeypatch.setattr(f"iot_pipeline.reporting.figures.{name}", lambda *_a, **_k: PIXEL)
    facts = paper_report({key: value for key, value in CONTEXT.items() if key != part}, tmp_path)
    assert len(facts["missing"]) == 1


PIXEL = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01"


def test_a_time_limited_preset_is_said_not_to_be_reproducible(
    written: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    chapter = written[1].split("\n## Baselines", 1)[1].split("\n## ", 1)[0]
    lines = {line.split(" | ")[0].strip("| "): line for line in chapter.splitlines() if " | ALL | " in line}
    fixed, limited = lines["AutoML"], lines["AutoML best_quality (not reproducible)"]
    assert "| yes |" in fixed and "LightGBM" in fixed and "10 min 00 s" not in fixed
    assert "| no |" in limited and "10 min 00 s" in limited and "LightGBMXT_BAG_L1" in limited
    assert "| 0.9660 | 99.38 % | 0.2100 | 0.1900 |" in fixed  # accuracy, its share of the ceiling 0.972, log-losses
    assert "| orig_pkts | 0.4000 |" in chapter
    assert "random forest, binary F1" in chapter and "0.9224" in chapter
    used = {**CONTEXT["used"], "automl_preset": "best_quality"}
    paper_report({**CONTEXT, "used": used}, tmp_path)
    assert "AutoML's best_quality is limited by time" in (tmp_path / "report.md").read_text().replace("\\", "")


def test_rules_that_catch_nothing_and_classes_without_a_rule_are_shown(tmp_path: Path) -> None:
    share = {"coverage": 0.0, "precision": None}
    rule = {"text": "orig_pkts > 9", "distinct": share, "row": share}
    classes = {"Flood": {"rules": [rule], "combined": None}, "Scan": {"rules": [], "combined": None}}
    paper_report({"attack_patterns": {**CONTEXT["attack_patterns"], "classes": classes}}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| Flood | orig_pkts &gt; 9 | 0.00 % | nothing caught |" in text
    assert "| Scan | none: no part of the flows is mostly of this class | 0.00 % | nothing caught |" in text


def test_outliers_are_told_by_class_the_largest_first(written: tuple[str, str, dict[str, Any]]) -> None:
    lines = [line for line in written[1].splitlines() if line.startswith("| ") and " | resp_pkts | " in line]
    assert [line.split(" | ")[-1] for line in lines] == [f"{share}.00 % |" for share in (6, 5, 4, 3, 2, 1)]


def test_explanations_are_held_against_what_automl_relies_on(written: tuple[str, str, dict[str, Any]]) -> None:
    # Of three features two cost AutoML something; one explanation names one of them and one other, the next one alone.
    line = "| paraphrased | 10K | 2 | 75.00 % | 66.67 % | orig_pkts, resp_pkts |"
    assert line in written[1]


def test_what_the_student_writes_stands_beside_what_the_decoder_makes_of_it(
    written: tuple[str, str, dict[str, Any]],
) -> None:
    chapter = written[1].split("\n## Quality of explanations", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in chapter.splitlines() if line.startswith("| paraphrased | 10K | ")][:2]
    assert [row.split(" | ")[2:4] for row in rows] == [["free", "48"], ["grounded", "48"]]
    assert "0.997" in rows[0] and "0.997" not in rows[1] and "true by construction" in chapter
    assert "| track | stage | decoding | explained | numbers grounded | features real | directions true |" in chapter


def test_a_student_that_cannot_be_held_to_its_flows_is_named(tmp_path: Path) -> None:
    context = make_context()
    found = context["explanations"]
    found["10K|original"] = {**found["10K|original"], "grounded": None}
    paper_report(context, tmp_path)
    assert "Grounded decoding was not measured of original 10K;" in (tmp_path / "report.md").read_text()


def test_limitations_and_lineage_are_computed(written: tuple[str, str, dict[str, Any]]) -> None:
    page, _, _ = written
    assert "Only stage 10K was evaluated; nothing is known here of 30K, 70K, 150K, ALL." in page
    assert "abc123 v1" in page
    assert "original abababababab" in page


@given(st.text(max_size=60))
def test_markdown_text_carries_no_markup(value: str) -> None:
    made = str(markdown(value))
    assert "\n" not in made
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[|<]", made)


def test_model_card() -> None:
    card = model_card(CONTEXT, "10K|original")
    _, front, body = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "peft"
    assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.921
    assert values["model-index"][0]["results"][0]["dataset"]["name"].startswith("simulated: ")
    for heading in ("What it is", "Data", "Training", "Evaluation", "Explanations", "Limits", "Licence", "Origin"):
        assert f"## {heading}\n" in body
    assert "0.9210 [0.91, 0.93]" in body
    bare = model_card({"training": {"10K|original": example.run(0)}}, "10K|original")
    assert f"## Evaluation\n\n{MISSING}." in bare
    with pytest.raises(UserError, match=r"no checkpoint 30K\|original"):
        model_card(CONTEXT, "30K|original")


def test_gather_reads_a_lake(tmp_path: Path) -> None:
    def make(asset: str, partition: str, inputs: dict[str, str], settings: dict[str, Any], **files: Any) -> None:
        artefact = ArtefactId(asset, partition)
        folder = tmp_path / str(len(folders))
        folder.mkdir()
        manifest = {
            "asset": asset,
            "partition": partition,
            "data_version": f"v-{asset}",
            "code_version": "1",
            "inputs": inputs,
            "settings": settings,
            "provenance": {"label": f"made by {asset}", "code_commit": "c0", "run_id": "r0"},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(value if isinstance(value, str) else json.dumps(value))
        folders[artefact] = folder

    folders: dict[ArtefactId, Path] = {}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"x: {n}"},
                {"role": "assistant", "content": f"CLASSIFICATION: {label}"},
            ]
        }
        for n, label in enumerate(["A", "A", "B"])
    ]
    make("dedup_report", "", {"flows@": "1"}, {"setting dataset": "farm_flow"}, dedup_report__json={"rows": 3})
    make("prompt", "original", {}, {}, prompt__md="Explain.")
    make(
        "original",
        "10K",
        {"prompt@original": "1"},
        {"setting seed": 42, "setting teacher": "embedded"},
        track__jsonl="".join(json.dumps(row) + "\n" for row in rows),
        usage__json={"requests": 2},
    )
    make("training_split_10K", "original", {"original@10K": "1"}, {}, stats__json={"rows": 3})
    make(
        "automl_baseline",
        "ALL",
        {},
        {},
        eval_automl__json={"views": {}},
        timing_automl__json={"total_s": 9.0},
        eval_automl_best_quality__json={"views": {}},
        eval_lightgbm__json={"views": {}},
    )
    make(
        "lora_checkpoint_10K",
        "2027|original",
        {"training_split_10K@original": "1"},
        {},
        training__json={"facts": {}},
        loss__jsonl='{"step": 1, "loss": 2.0}\n',
    )
    make("eval_metrics_10K", "2027|original", {}, {}, eval__json={"views": {}})
    found = gather(folders, {"name": "farm_flow"})
    assert found["used"] == {"dataset": "farm_flow", "seed": 42, "teacher": "embedded"}
    assert found["dedup_report"] == {"rows": 3}
    assert found["prompts"] == {"original": {"text": "Explain.", "version": "v-prompt"}}
    assert [e["prompt"] for e in found["tracks"]["10K|original"]["examples"]] == ["x: 0", "x: 2"]
    assert found["tracks"]["10K|original"]["answer_characters_mean"] == len("CLASSIFICATION: A")
    # The preset beside the fixed configuration never takes its place.
    assert set(found["baselines"]["ALL"]) == {"automl", "automl_best_quality", "lightgbm"}
    assert found["baselines"]["ALL"]["automl"] == {"views": {}, "timings": {"total_s": 9.0}}
    assert found["training"]["10K|original"]["curve"] == [{"step": 1, "loss": 2.0}]
    assert set(found["evaluation"]) == {"10K|original"}
    checkpoint = next(row for row in found["lineage"] if row["asset"] == "lora_checkpoint_10K")
    assert checkpoint["prompts"] == {"original": "v-prompt"}
    assert (checkpoint["seed"], checkpoint["code_commit"], checkpoint["run_id"]) == (2027, "c0", "r0")
