"""The report and the cards: nothing hostile gets through, nothing is fetched, nothing absent is invented."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from iot_pipeline.augmentation.join import variations_by_class
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import figures, figures_data, report
from iot_pipeline.reporting.gather import Example, Facts, Prompt, Track, Used, gather
from iot_pipeline.reporting.report import MISSING, model_card, paper_report
from iot_pipeline.vocabulary import Partition
from iot_pipeline_tests.reporting import example
from iot_pipeline_tests.reporting.example_facts import make_facts

FACTS = make_facts()
ORIGINAL = Partition("10K", "original")
PIXEL = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01"
PLOTS = {
    figures: (
        "accuracy",
        "conflicts",
        "confusion",
        "cost",
        "inference_benchmark",
        "loss_curves",
        "reliability",
        "study",
    ),
    figures_data: ("duplicates", "leakage", "mismatches", "patterns", "profile", "sides"),
}


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    """Figures are one pixel: drawing takes most of a report's time, and test_figures draws them all."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in PLOTS.items():
            for name in names:
                patch.setattr(module, name, lambda *_a, **_k: PIXEL)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("report")
    facts = paper_report(FACTS, folder)
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
    card = model_card(FACTS, ORIGINAL)
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
    assert len(parsed.images) == facts["figures"] == text.count("](figures/figure-")
    assert not re.search(r"\]\((?!figures/figure-\d+\.png\)|#)", text)


def test_what_is_not_real_stands_on_top(written: tuple[str, str, dict[str, Any]]) -> None:
    page, text, _ = written
    for name in ("SIMULATED data", "EMBEDDED teacher", "TINY base"):
        assert page.index(name) < page.index("<main")
        assert f"> **{name}.**" in text
        assert f"> **{name}.**" in model_card(FACTS, ORIGINAL)


def test_real_parts_carry_no_banner(tmp_path: Path) -> None:
    used = Used(source="x.csv", teacher="openai", base_model="Qwen/Qwen2.5-1.5B-Instruct", dataset="farm_flow")
    paper_report(Facts(used=used), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<blockquote" not in page and "SIMULATED" not in page


def test_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "other"):
        paper_report(make_facts(), tmp_path / name)
        pages.append([(tmp_path / name / file).read_text() for file in ("report.html", "report.md")])
    assert pages[0] == pages[1]


def test_an_empty_lake_is_said_to_be_empty(tmp_path: Path) -> None:
    facts = paper_report(Facts(), tmp_path)
    assert facts["figures"] == 0
    for asset in ("track_comparison", "dedup_report", "leakage_report", "eval_metrics", "cost_report", "claims_audit"):
        assert f"{asset}: {MISSING}." in facts["missing"]
    page = (tmp_path / "report.html").read_text()
    assert page.count(MISSING) == len(facts["missing"])
    assert Page(page).open == []


# What classes that a model never saw look like is measured on request only.
NEVER_MISSING = ("data_set", "used", "labels", "prompts", "unknown")
PARTS = [part.name for part in fields(Facts) if part.name not in NEVER_MISSING]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_may_be_absent(part: str, tmp_path: Path) -> None:
    made = paper_report(replace(FACTS, **{part: getattr(Facts(), part)}), tmp_path)
    assert len(made["missing"]) == 1


def test_every_template_counts_for_the_code_version_of_its_module() -> None:
    named = {*report.CHAPTERS, *report.INCLUDED, "head.md.j2", "model_card.md.j2"}
    assert {path.name for path in (report.FOLDER / "chapters").iterdir()} == named


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
    paper_report(replace(FACTS, used=replace(FACTS.used, automl_preset="best_quality")), tmp_path)
    assert "AutoML's best_quality is limited by time" in (tmp_path / "report.md").read_text().replace("\\", "")


def test_rules_that_catch_nothing_and_classes_without_a_rule_are_shown(tmp_path: Path) -> None:
    share = {"coverage": 0.0, "precision": None}
    rule = {"text": "orig_pkts > 9", "distinct": share, "row": share}
    classes = {"Flood": {"rules": [rule], "combined": None}, "Scan": {"rules": [], "combined": None}}
    paper_report(Facts(attack_patterns={**(FACTS.attack_patterns or {}), "classes": classes}), tmp_path)
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


def test_the_share_of_varied_rows_is_told_in_words_and_by_class(tmp_path: Path) -> None:
    counted = [("Flood", "unchanged: the model doubts the label", 3), ("Flood", "varied", 1), ("Scan", "varied", 4)]
    track = Track(report={"rows": 10, **variations_by_class(counted)})
    paper_report(Facts(tracks={Partition("10K", "feature_varied"): track}), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "feature_varied 10K: 62.50 % of the 8 repeat rows were varied." in text
    assert "| 10K | Flood | 4 | 1 | 3 |" in text and "| 10K | Scan | 4 | 4 | 0 |" in text


def test_a_student_that_cannot_be_held_to_its_flows_is_named(tmp_path: Path) -> None:
    explanations = FACTS.explanations | {ORIGINAL: {**FACTS.explanations[ORIGINAL], "grounded": None}}
    paper_report(Facts(explanations=explanations), tmp_path)
    assert "Grounded decoding was not measured of original 10K;" in (tmp_path / "report.md").read_text()


def test_limitations_and_lineage_are_computed(written: tuple[str, str, dict[str, Any]]) -> None:
    page, _, _ = written
    assert "Only stage 10K was evaluated; nothing is known here of 30K, 70K, 150K, ALL." in page
    assert "abc123 v1" in page
    assert "original abababababab" in page


def test_accuracy_has_its_limits_beside_it(written: tuple[str, str, dict[str, Any]]) -> None:
    text = written[1]
    results, split = (text.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0] for title in ("Results", "Split and leak"))
    assert "Its base read 30,000 flow texts without labels, out of 34,568 distinct flows in 278,101 rows" in results
    assert "`IOT_BASE_POOL=10K` makes the control, a base that read the rows of stage 10K alone" in results
    assert "| 10K | 10,000 | 278,101 | 278,101 |" in results
    assert "an estimate with bounds, not a measurement" in results
    assert "| **original** | 10K | 50.00 % | 0.9010 | 0.4505 | 0.8299 | 0.8505 | 0.8750 |" in results
    assert "Near-duplicates: 40.20 % of the 4,321 distinct test flows" in split and "| HTTP_Flood | 77 | 2.0 |" in split
    assert "| 200 | 198 | 180.5 | 180.5 |" in text and "| 180.5 | 180.5 |" in model_card(FACTS, ORIGINAL)


def test_a_class_without_a_test_flow_has_no_recall() -> None:
    facts = copy.deepcopy(FACTS)
    scored = facts.evaluation[ORIGINAL]["views"]["distinct"]["per_class"]["Normal"]
    scored |= {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0.0}
    for text in (report.render("evaluation.md.j2", facts, images=[]), model_card(facts, ORIGINAL)):
        assert "| Normal | – | – | – |" in text and "| Normal | 0.0000 |" not in text


def test_of_several_training_seeds_the_results_say_whose_students_they_show() -> None:
    told = "Students here, and in all chapters but the study, are those of the first of 3 training seeds"
    assert told in report.render("results.md.j2", FACTS, images=[])
    facts = copy.deepcopy(FACTS)
    facts.study = example.study(1)
    assert "training seeds, and" not in report.render("results.md.j2", facts, images=[])


def test_model_card() -> None:
    card = model_card(FACTS, ORIGINAL)
    _, front, body = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "peft"
    assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.921
    assert values["model-index"][0]["results"][0]["dataset"]["name"].startswith("simulated: ")
    for heading in ("What it is", "Data", "Training", "Evaluation", "Explanations", "Limits", "Licence", "Origin"):
        assert f"## {heading}\n" in body
    assert "0.9210 [0.91, 0.93]" in body
    bare = model_card(Facts(training={ORIGINAL: example.run(0)}), ORIGINAL)
    assert f"## Evaluation\n\n{MISSING}." in bare
    with pytest.raises(UserError, match=r"no checkpoint 30K\|original"):
        model_card(FACTS, Partition("30K", "original"))


def test_students_stand_in_the_order_of_the_method(tmp_path: Path) -> None:
    folders = {}
    names = [("150K", "original"), ("30K", "original"), ("10K", "feature_varied"), ("10K", "original")]
    told = {"data_version": "v", "code_version": "1", "inputs": {}, "settings": {}, "provenance": {}}
    for stage, track in names:
        artefact = ArtefactId(f"training_split_{stage}", track)
        folders[artefact] = tmp_path / stage / track
        folders[artefact].mkdir(parents=True)
        manifest = told | {"asset": artefact.asset, "partition": track}
        (folders[artefact] / "manifest.json").write_text(json.dumps(manifest))
        (folders[artefact] / "stats.json").write_text("{}")
    assert [*gather(folders).tensors] == [Partition(*name) for name in reversed(names)]


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
        row_split__json={"accuracy": 0.97},
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
    found = gather(folders)
    assert found.used == Used(dataset="farm_flow", seed=42, teacher="embedded")
    assert found.dedup_report == {"rows": 3}
    assert found.prompts == {"original": Prompt("Explain.", "v-prompt")}
    track = found.tracks[ORIGINAL]
    assert track.examples == [Example("x: 0", "CLASSIFICATION: A"), Example("x: 2", "CLASSIFICATION: B")]
    assert (track.usage, track.answer_characters_mean) == ({"requests": 2}, len("CLASSIFICATION: A"))
    # The preset beside the fixed configuration never takes its place.
    assert set(found.baselines["ALL"]) == {"automl", "automl_best_quality", "lightgbm"}
    automl = {"views": {}, "timings": {"total_s": 9.0}, "row_split": {"accuracy": 0.97}}
    assert found.baselines["ALL"]["automl"] == automl
    assert found.training[ORIGINAL].curve == [{"step": 1, "loss": 2.0}]
    assert set(found.evaluation) == {ORIGINAL}
    origin = found.origin(ORIGINAL)
    assert origin and origin.prompts == {"original": "v-prompt"}
    assert (origin.seed, origin.code_commit, origin.run_id) == (2027, "c0", "r0")
    assert gather({}, load_spec("rt_iot2022")).data_set.published("row_split_prompt_leak") == 0.918


@pytest.mark.parametrize(
    ("done", "into", "told"),
    [
        ("group", "Rare", "grouped into Rare"),
        ("leave_out", None, "whose rows were left out"),
        ("keep", None, "kept, though a side lacks them"),
    ],
)
def test_rare_classes_are_told(done: str, into: str | None, told: str) -> None:
    facts = make_facts()
    assert facts.flows is not None
    rare = [{"name": "a|b", "rows": 37, "distinct_flows": 3}]
    facts.flows["rare_classes"] = {"needed": 8, "done": done, "into": into, "rare": rare, "classes": []}
    text = report.render("data.md.j2", facts)
    assert f"too few distinct flows for every side of the split, 8 at least, {told}. Asset: flows." in text
    assert "| a\\|b | 37 | 3 |" in text
