"""Settings: environment over profile over defaults; every mistake is named."""

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.settings import PROJECT_ROOT, load_settings, profile_names


def test_the_demo_needs_nothing_and_is_the_default() -> None:
    chosen = load_settings({})
    assert (chosen.profile, chosen.source) == ("demo", "simulate")
    assert (chosen.teacher, chosen.base_model) == ("embedded", "tiny")
    assert chosen.lake_path == PROJECT_ROOT / "data_lake" / "farm_flow-demo"


def test_the_environment_wins_over_the_profile() -> None:
    chosen = load_settings({"IOT_PROFILE": "paper", "IOT_STAGES": "10K, 30K", "IOT_SEED": "7"})
    assert chosen.stages == ["10K", "30K"]
    assert chosen.seed == 7
    assert chosen.base_model == "Qwen/Qwen2.5-1.5B-Instruct"


def test_the_paper_profile_has_the_paper_s_training() -> None:
    chosen = load_settings({"IOT_PROFILE": "paper"})
    assert (chosen.lora_r, chosen.lora_alpha, chosen.lora_targets) == (16, 32, "q_proj,k_proj,v_proj,o_proj")
    assert (chosen.train_epochs, chosen.learning_rate, chosen.warmup_steps) == (5, 2e-4, 100)


def test_a_path_as_data_set_gives_its_name_to_the_lake() -> None:
    assert load_settings({"IOT_DATASET": "/somewhere/mine.yaml"}).lake_path.name == "mine-demo"
    assert load_settings({"IOT_LAKE": "/somewhere/lake"}).lake_path == Path("/somewhere/lake")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"IOT_PROFILE": "demmo"}, "IOT_PROFILE: no profile 'demmo'; there are: demo, paper"),
        ({"IOT_STAGES": "20K"}, "IOT_STAGES"),
        ({"IOT_SEDE": "1"}, "unknown setting IOT_SEDE; did you mean IOT_SEED"),
        ({"IOT_ROWS": "many"}, "IOT_ROWS"),
        ({"IOT_TEACHER_BUDGET_USD": "-1"}, "IOT_TEACHER_BUDGET_USD"),
        ({"IOT_ANSWER_ORDER": "explanation_first"}, "^IOT_ANSWER_ORDER=explanation_first needs IOT_TASKS=both"),
        ({"IOT_KEEP_CHECKPOINT": "best"}, "^IOT_KEEP_CHECKPOINT=best and IOT_PATIENCE need IOT_EVALUATE_EVERY"),
        ({"IOT_SHARD": "true", "IOT_QUANTISATION": "nf4"}, "^IOT_SHARD=true and IOT_QUANTISATION=nf4"),
    ],
)
def test_mistakes_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(environment)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid(name: str) -> None:
    assert load_settings({"IOT_PROFILE": name}).profile == name
