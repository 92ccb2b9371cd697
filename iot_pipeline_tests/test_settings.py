"""Settings: environment over profile over defaults; every mistake is named."""

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.settings import PROJECT_ROOT, SECTIONS, api_key, load_settings, profile_names


def test_the_demo_needs_nothing_and_is_the_default() -> None:
    chosen = load_settings({})
    assert (chosen.profile, chosen.data.source) == ("demo", "simulate")
    assert (chosen.teacher.server, chosen.student.base_model) == ("embedded", "tiny")
    assert chosen.lake_path == PROJECT_ROOT / "data_lake" / "farm_flow-demo"


def test_the_environment_wins_over_the_profile() -> None:
    chosen = load_settings({"IOT_PROFILE": "paper", "IOT_STAGES": "10K, 30K", "IOT_SEED": "7"})
    assert chosen.run.stages == ["10K", "30K"]
    assert chosen.data.seed == 7
    assert chosen.student.base_model == "Qwen/Qwen2.5-1.5B-Instruct"


def test_the_paper_profile_has_the_paper_s_training() -> None:
    chosen = load_settings({"IOT_PROFILE": "paper"})
    assert (chosen.student.lora_r, chosen.student.lora_alpha, chosen.student.lora_targets) == (
        16,
        32,
        "q_proj,k_proj,v_proj,o_proj",
    )
    assert (chosen.student.epochs, chosen.student.learning_rate, chosen.student.warmup_steps) == (5, 2e-4, 100)


def test_a_path_as_data_set_gives_its_name_to_the_lake() -> None:
    assert load_settings({"IOT_DATASET": "/somewhere/mine.yaml"}).lake_path.name == "mine-demo"
    assert load_settings({"IOT_LAKE": "/somewhere/lake"}).lake_path == Path("/somewhere/lake")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"IOT_PROFILE": "demmo"}, "IOT_PROFILE: no profile 'demmo'; there are: demo, paper"),
        ({"IOT_STAGES": "20K"}, "IOT_STAGES"),
        ({"IOT_BASE_POOL": "test"}, "IOT_BASE_POOL"),
        ({"IOT_SEDE": "1"}, "unknown setting IOT_SEDE; did you mean IOT_SEED"),
        ({"IOT_ROWS": "many"}, "IOT_ROWS"),
        ({"IOT_TEACHER_BUDGET_USD": "-1"}, "IOT_TEACHER_BUDGET_USD"),
        ({"IOT_ANSWER_ORDER": "explanation_first"}, "^IOT_ANSWER_ORDER=explanation_first needs IOT_TASKS=both"),
        ({"IOT_KEEP_CHECKPOINT": "best"}, "^IOT_KEEP_CHECKPOINT=best and IOT_PATIENCE need IOT_EVALUATE_EVERY"),
        ({"iot_stages": "30K"}, "^unknown setting iot_stages; did you mean IOT_STAGES"),
        ({"Iot_Stages": "30K"}, "^unknown setting Iot_Stages; did you mean IOT_STAGES"),
        ({"IOT-STAGES": "30K"}, "^unknown setting IOT-STAGES; did you mean IOT_STAGES"),
        ({"IOTSTAGES": "30K"}, "^unknown setting IOTSTAGES; did you mean IOT_STAGES"),
        ({"iot_stage": "30K"}, "^unknown setting IOT_STAGE; did you mean IOT_STAGES"),
        ({"IOT_SERVE_TOKN": "x" * 20}, "^unknown setting IOT_SERVE_TOKN; did you mean IOT_SERVE_TOKEN"),
        ({"IOT_TEACHER": "localhost:8000/v1"}, "^IOT_TEACHER must be .*, or the base URL"),
        ({"IOT_TEACHER": "OpenAI"}, "^IOT_TEACHER must be embedded, openai, replay"),
        ({"IOT_FAILURE_WEBHOOK": "hooks.example/x"}, "^IOT_FAILURE_WEBHOOK: it is no URL; write it as https://host$"),
        ({"IOT_MLFLOW_URI": "https://"}, "^IOT_MLFLOW_URI: it is no URL"),
        ({"IOT_STAGES": ","}, "IOT_STAGES"),
        ({"IOT_TRACKS": " , "}, "IOT_TRACKS"),
        ({"IOT_SEED": "2147483648"}, "IOT_SEED: .*less than or equal to 2147483647"),
        ({"IOT_SEEDS": "1,99999999999999999999"}, "IOT_SEEDS"),
        ({"IOT_SEEDS": "1,-1"}, "IOT_SEEDS"),
        ({"IOT_TEACHER_BUDGET_USD": "inf"}, "IOT_TEACHER_BUDGET_USD: .*finite"),
        ({"IOT_LEARNING_RATE": "inf"}, "IOT_LEARNING_RATE: .*finite"),
        ({"IOT_LAKE": "~nobody_of_this_name/lake"}, "^IOT_LAKE: there is no user of the name ~nobody_of_this_name"),
        ({"IOT_SOURCE": "a.csv,$HOME/b.csv"}, r"^IOT_SOURCE: \$HOME is not known here; in .env write \${HOME}"),
        ({"IOT_SHARD": "true", "IOT_QUANTISATION": "nf4"}, "^IOT_SHARD=true and IOT_QUANTISATION=nf4"),
    ],
)
def test_mistakes_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(environment)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid(name: str) -> None:
    assert load_settings({"IOT_PROFILE": name}).profile == name


def test_files_are_named_from_the_root_and_other_names_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "farm_flow").mkdir()
    (tmp_path / "student").mkdir()
    given = {"IOT_DATASET": "mine.yml", "IOT_SOURCE": "a.csv, s3://b/c.csv,d/*.csv", "IOT_BASE_MODEL": "student"}
    chosen = load_settings(given)
    assert chosen.data.dataset == str(tmp_path / "mine.yml")
    assert chosen.data.source == f"{tmp_path}/a.csv,s3://b/c.csv,{tmp_path}/d/*.csv"
    assert chosen.student.base_model == str(tmp_path / "student")
    more = load_settings({"IOT_LAKE": "lake", "IOT_PROMPTS": "p", "IOT_TEACHER_STORE": "t.sqlite"})
    assert (more.run.lake, more.teacher.prompts) == (tmp_path / "lake", tmp_path / "p")
    assert str(more.run.teacher_store) == str(tmp_path / "t.sqlite")
    assert load_settings({"IOT_DATASET": "farm_flow", "IOT_BASE_MODEL": "Qwen/Qwen2.5"}).data.dataset == "farm_flow"


def test_the_env_file_can_be_another_one_so_that_tests_never_read_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "other.env"
    file.write_text("IOT_SEED=99\nOPENAI_API_KEY=sk-other\n")
    assert load_settings().data.seed == 2027 and api_key() is None
    monkeypatch.setenv("IOT_ENV_FILE", str(file))
    key = api_key()
    assert load_settings().data.seed == 99 and key is not None and key.get_secret_value() == "sk-other"


def test_every_setting_has_one_place_and_a_description() -> None:
    chosen = load_settings({})
    told = chosen.describe()
    assert (
        len(told) == len({name for name, _, _ in told}) == 1 + sum(len(kind.model_fields) for kind in SECTIONS.values())
    )
    assert all(description for _, _, description in told)
    assert chosen.value("train_step_rows") == chosen.student.step_rows and chosen.value("profile") == "demo"


def test_students_have_the_seeds_of_their_own_or_the_one_of_all() -> None:
    assert load_settings({"IOT_SEED": "5"}).seeds == [5]
    assert load_settings({"IOT_SEEDS": "7, 8,7"}).seeds == [7, 8]
    with pytest.raises(UserError, match="IOT_SEEDS"):
        load_settings({"IOT_SEEDS": "7,x"})


def test_split_teacher_and_base_have_seeds_of_their_own_or_the_one_of_all() -> None:
    def seeds(**variables: str) -> tuple[int, ...]:
        chosen = load_settings(variables)
        return chosen.data.seed, chosen.data.split_seed, chosen.teacher.seed, chosen.student.base_seed

    assert seeds() == (2027,) * 4
    assert seeds(IOT_SEED="5") == (5,) * 4
    assert seeds(IOT_SEED="5", IOT_SPLIT_SEED="6", IOT_TEACHER_SEED="7", IOT_BASE_SEED="8") == (5, 6, 7, 8)


def test_names_in_the_env_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "student", here / "student"):
        folder.mkdir(parents=True)
    written = "IOT_LAKE=lake\nIOT_SOURCE=a.csv,s3://b/c.csv\nIOT_BASE_MODEL=student\nIOT_TEACHER_STORE=sqlite:///t.db\n"
    (home / ".env").write_text(f"{written}IOT_DATASET=mine.yaml\nIOT_PROMPTS=../p\nIOT_BASE_CACHE=~/bases\n")
    monkeypatch.setenv("IOT_ENV_FILE", str(home / ".env"))
    monkeypatch.delenv("IOT_BASE_CACHE")
    monkeypatch.chdir(here)
    chosen = load_settings()
    assert (chosen.lake_path, chosen.data.source) == (home / "lake", f"{home}/a.csv,s3://b/c.csv")
    assert (chosen.student.base_model, chosen.data.dataset) == (str(home / "student"), str(home / "mine.yaml"))
    assert (chosen.run.teacher_store, chosen.teacher.prompts) == (f"sqlite:///{home}/t.db", home / "../p")
    assert chosen.run.base_cache == Path.home() / "bases"
    monkeypatch.setenv("IOT_LAKE", "lake")  # a variable of the shell counts from where the command is run
    assert load_settings().lake_path == here / "lake"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\n# a\nIOT_STAGES: 30K\n", "line 3: it must be NAME=value"),
        ("IOT_SEED=3\nIOT_STAGES\n", "line 2: it must be NAME=value"),
        ("IOT_SEED=3\n\nIOT_STAGES='30K\nIOT_ROWS=300\n", "line 3: it must be NAME=value, in quotes that are closed"),
        ("IOT_LAKE=/tmp/a\0b\n", "line 1: it must be NAME=value"),
        ("IOT_SEED=3\nIOT_STAGES=10K\nIOT_SEED=4\n", "line 3: IOT_SEED has another value above"),
        ("OPENAI_API_KEY=secret\nOPENAI_API_KEY=hidden\n", "line 2: OPENAI_API_KEY has another value above"),
    ],
)
def test_a_line_of_the_env_file_without_effect_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, told: str
) -> None:
    (tmp_path / ".env").write_text(content)
    monkeypatch.setenv("IOT_ENV_FILE", str(tmp_path / ".env"))
    with pytest.raises(UserError, match=rf"\.env, {told}") as caught:
        load_settings()
    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)


def test_a_password_in_a_wrong_address_is_not_told() -> None:
    with pytest.raises(UserError, match="IOT_RAY_ADDRESS") as caught:
        load_settings({"IOT_RAY_ADDRESS": "ray://me:hunter2@head:10001"})
    assert "hunter2" not in str(caught.value)


def test_what_a_list_names_twice_counts_once() -> None:
    chosen = load_settings({"IOT_STAGES": "30K, 10K,30K", "IOT_SEEDS": "2,1,2"})
    assert (chosen.run.stages, chosen.student.seeds) == (["30K", "10K"], [2, 1])


@pytest.mark.parametrize("content", [None, b"\xff\xfeI\0O\0T\0"])
def test_an_env_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / ".env"
    file.mkdir() if content is None else file.write_bytes(content)
    monkeypatch.setenv("IOT_ENV_FILE", str(file))
    with pytest.raises(UserError, match=r"\.env (is a folder|is not UTF-8)"):
        load_settings()
