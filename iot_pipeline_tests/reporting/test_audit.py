"""Every entry of the audit on made lakes whose right verdict is known: it holds, it fails, it cannot be judged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.reporting.arithmetic import QWEN, fitting_shares, nearest_f1
from iot_pipeline.reporting.claims import FAILS, HOLDS, INCOMPARABLE, UNMEASURED, claims_audit, load_claims
from iot_pipeline.reporting.gather import DataSet, Facts, Track, Used
from iot_pipeline.reporting.measurements import CONDITIONS, collect, conditions, is_gpt, is_qwen
from iot_pipeline.vocabulary import STAGES, Partition
from iot_pipeline_tests.reporting.audited import Kind, duplicates, make_lake
from iot_pipeline_tests.reporting.example import PUBLISHED

# Verdicts in the lakes right, wrong and simulated. H holds, F does not hold, C cannot be compared, U not measured.
WORDS = {"H": HOLDS, "F": FAILS, "C": INCOMPARABLE, "U": UNMEASURED}
EXPECTED = {
    "rows": "HFC", "class_table": "HFH", "published_rows": "CCC", "duplicates": "HFC", "distinct_flows": "HFC",
    "duplicates_by_class": "HFC", "merged_flows": "UUU", "train_rows": "CCC", "stage_meaning": "UUU",
    "paraphrase_reached": "CCC", "variation_reached": "CCC", "f1_farm_flow": "HFC", "automl_accuracy": "HFC",
    "automl_apart": "CCC", "accuracy_beside_f1": "FFF", "accuracy_of_always_attack": "CCC", "student_accuracy": "HFC",
    "trainable": "HHH", "parameters": "HHH", "trainable_elsewhere": "FFF", "loss_original": "CCC",
    "loss_paraphrased_10K": "CCC", "loss_paraphrased_30K": "CCC", "loss_varied_10K": "CCC", "loss_varied_30K": "CCC",
    "paraphrase_better": "HFC", "variation_better": "HFC", "length_original": "HFC", "length_paraphrased": "HFC",
    "length_varied": "HFC", "cost_original": "HFC", "cost_paraphrased": "HFC", "cost_varied": "HFC", "cost_gpu": "UUU",
    "latency": "HFC", "latency_dedicated": "FHC", "aim_bf16": "HFC", "aim_int8": "HFC", "aim_int4": "HFC",
    "target_cards": "UUU", "truncation": "HFH", "label_never_trained": "HFH", "class_never_named": "HFF",
    "protocol_accuracy": "HFC", "protocol_accuracy_uncut": "HFH", "held_out_seen": "HFH", "loss_on_prompt": "HFC",
    "never_stops": "HFH", "own_validation_sets": "UUU", "row_split_leaks": "HFH", "ceiling_below_one": "HFH",
    "automl_within_ceiling": "HFC", "student_within_ceiling": "HHC", "zeros_never_move": "HFH",
}  # fmt: skip
KINDS: tuple[Kind, ...] = ("right", "wrong", "simulated")
BUILT_IN = {"held_out_seen", "row_split_leaks", "ceiling_below_one", "zeros_never_move"}


def audit(facts: Facts) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in claims_audit(load_claims(), *collect(facts))}


@pytest.mark.parametrize("place", range(3), ids=KINDS)
def test_every_entry_gets_the_right_verdict(place: int) -> None:
    found = {name: row["verdict"] for name, row in audit(make_lake(KINDS[place])).items()}
    assert found == {name: WORDS[letters[place]] for name, letters in EXPECTED.items()}


def test_every_measure_that_a_claim_names_is_measured() -> None:
    named = {claim.measure for claim in load_claims() if claim.measure}
    for kind in ("right", "wrong"):
        measured, _ = collect(make_lake(kind))
        assert named <= {name for name, found in measured.items() if found.value is not None}


def test_all_conditions_hold_in_the_lake_that_the_claims_are_about() -> None:
    met = conditions(make_lake("right"))
    assert met == CONDITIONS.keys() - {"eight_classes"}
    assert conditions(make_lake("simulated")) == {"seven_classes", "stage_all"}


def test_the_published_table_is_compared_with_a_table_of_eight_classes_alone() -> None:
    eight = replace(make_lake("right"), data_set=DataSet(name="farm_flow_8"))
    eight.dedup_report = duplicates(True, PUBLISHED | {"BotNet_DDOS": 0.99}, rows=405296)
    found = audit(eight)
    assert found["published_rows"]["verdict"] == HOLDS
    for name in ("rows", "duplicates", "distinct_flows", "duplicates_by_class", "automl_accuracy"):
        assert found[name]["verdict"] == INCOMPARABLE and "7 classes" in found[name]["why"]
    eight.dedup_report["rows"] -= 1
    assert audit(eight)["published_rows"]["verdict"] == FAILS
    seven = audit(make_lake("right"))["published_rows"]
    assert seven["verdict"] == INCOMPARABLE and "8 classes" in seven["why"] and seven["measured"] == 347685


def test_the_hoped_for_accuracy_fails_where_no_text_can_tell_it() -> None:
    lake = make_lake("right")
    lake.label_conflicts = {**(lake.label_conflicts or {}), "ceilings": {"row": 0.94}}
    found = audit(lake)["student_within_ceiling"]
    assert found["verdict"] == FAILS and found["why"].startswith("claimed 0.9500, found 0.9400")


def test_a_cost_is_the_sum_of_all_increments() -> None:
    lake = make_lake("right")
    assert audit(lake)["cost_original"]["measured"] == pytest.approx(150)
    assert lake.cost_report is not None
    lake.cost_report["rows"] = [row for row in lake.cost_report["rows"] if row["stage"] in ("30K", "ALL")]
    found = audit(lake)["cost_original"]
    assert found["verdict"] == INCOMPARABLE and found["measured"] == pytest.approx(60)
    assert found["why"] == f"{CONDITIONS['stage_all']}; increments 30K, ALL only"


def test_answers_are_as_long_as_over_all_increments() -> None:
    lake = make_lake("right")
    for place, stage in enumerate(STAGES):
        track = Track(report={"rows": 100 * (place + 1)}, answer_characters_mean=1000.0 * (place + 1))
        lake.tracks[Partition(stage, "original")] = track
    assert audit(lake)["length_original"]["measured"] == pytest.approx(55_000 / 15)


def test_rows_that_were_changed_add_up_stage_by_stage() -> None:
    measured = audit(make_lake("right"))
    for name in ("paraphrase_reached", "variation_reached"):
        assert measured[name]["measured"] == {stage: 900 * (n + 1) for n, stage in enumerate(STAGES)}


def test_what_the_old_protocol_loses_holds_nothing_of_our_label_weight() -> None:
    lake = make_lake("wrong")
    found = audit(lake)["protocol_accuracy"]
    assert found["measured"] == pytest.approx(0.01) and found["verdict"] == FAILS
    assert "majority class 0.4000" in found["why"] and "label weight 1 in both" in found["why"]


def test_an_arm_without_a_class_to_learn_is_said_to_be_unscored() -> None:
    found = audit(make_lake("simulated"))["protocol_accuracy"]
    assert (found["verdict"], found["measured"]) == (INCOMPARABLE, None)
    assert found["why"] == "cannot be scored: no class token is trained"


def test_findings_that_the_simulator_builds_in_say_so() -> None:
    simulated, real = audit(make_lake("simulated")), audit(make_lake("right"))
    said = {name for name, row in simulated.items() if row["why"].startswith("holds by construction: the simulator")}
    assert said == BUILT_IN == {claim.id for claim in load_claims() if claim.built_in}
    assert not [name for name, row in real.items() if "by construction" in row["why"]]


def test_a_speed_is_that_of_a_gpu_only_if_its_own_variant_ran_on_one() -> None:
    lake = make_lake("right")
    assert lake.inference_benchmark is not None
    lake.inference_benchmark["variants"][0]["device"] = "cpu"
    found = audit(lake)
    assert found["latency"]["verdict"] == INCOMPARABLE and found["aim_bf16"]["verdict"] == HOLDS


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt-4o-mini", True),
        ("gpt-4o-mini-2024-07-18", True),
        ("gpt-4o-mini+gpt-4o-mini-2024-07-18", True),
        ("gpt-4o-mini-audio-preview", False),
        ("not-gpt-4o-mini", False),
        ("gpt-4o-mini+gpt-4o", False),
        ("gpt-4o", False),
    ],
)
def test_a_dated_model_is_the_model(name: str, wanted: bool) -> None:
    assert is_gpt(name) is wanted
    lake = make_lake("right")
    lake.tracks[Partition("10K", "original")].usage["model"] = name
    assert ("gpt_teacher" in conditions(lake)) is wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", True),
        ("mirror/qwen2.5-1.5b-instruct", True),
        ("Qwen/Qwen2.5-1.5B", False),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", False),
        ("someone/distilled-from-qwen2.5-1.5b-instruct", False),
        ("tiny", False),
        ("", False),
    ],
)
def test_a_base_of_the_hub_is_told_by_its_name(name: str, wanted: bool) -> None:
    assert is_qwen(name) is wanted


def test_a_base_in_a_folder_is_told_by_its_config(tmp_path: Path) -> None:
    for folder, config in (
        ("mine", QWEN),
        ("qwen2.5-1.5b-instruct", {**QWEN, "num_hidden_layers": 24}),
        ("coder", {**QWEN, "max_position_embeddings": 4096}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "empty").mkdir()
    found = [is_qwen(str(tmp_path / name)) for name in ("mine", "qwen2.5-1.5b-instruct", "coder", "empty")]
    assert found == [True, False, False, False]


def test_flows_of_unknown_source_are_not_taken_for_real() -> None:
    assert conditions(Facts(used=Used(dataset="farm_flow"))) == set()
    path = Facts(used=Used(dataset="/data/farm_flow.yaml", source="x.csv"))
    assert conditions(path) == {"real_flows", "captured_flows"}


def test_an_f1_that_a_table_allows_is_found_and_another_is_not() -> None:
    # Of 1,000 rows 100 are rare. 20 errors: 0.9 of the rare class if all are false alarms or misses of 90 hits.
    assert nearest_f1(0.98, 0.9, 100, 1000) == pytest.approx(0.9, abs=0.005)
    assert nearest_f1(0.98, 0.989, 100, 1000) == pytest.approx(0.989, abs=0.001)  # of the common class
    assert nearest_f1(0.98, 0.5, 100, 1000) == pytest.approx(80 / 90, abs=0.01)  # all errors are misses
    low, high = fitting_shares(0.98, 0.9)
    assert (low, high) == (pytest.approx(0.09), pytest.approx(0.11))
