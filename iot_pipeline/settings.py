"""All settings of the project, typed: `IOT_*` variables or `.env`, over the defaults of a profile."""

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from iot_pipeline.env_file import INTERNAL_VARIABLES, PATHS, PROJECT_ROOT, SERVE_TOKEN, absolute, dotenv, env_file
from iot_pipeline.errors import UserError
from iot_pipeline.lake.remote import mirror
from iot_pipeline.lake.yaml_reader import read_own_yaml
from iot_pipeline.setting_sections import (
    SEED,
    BaselineSettings,
    DataSettings,
    EvaluationSettings,
    RunSettings,
    Section,
    ServingSettings,
    StudentSettings,
    TeacherSettings,
)
from iot_pipeline.vocabulary import DISTILLED

PROFILES = Path(__file__).parent / "profiles"
OWN_SEEDS = ("split_seed", "teacher_seed", "base_seed")


class Settings(BaseModel):
    """Settings of a run, by what they steer. Units are in each description; `None` lets the component choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = Field("demo", description="named set of defaults: demo or paper")
    data: DataSettings
    baseline: BaselineSettings
    teacher: TeacherSettings
    student: StudentSettings
    evaluation: EvaluationSettings
    serving: ServingSettings
    run: RunSettings

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        """Refuse combinations that would fail only after teacher and training were paid for."""
        student, server = self.student, self.teacher.server.strip()
        if server not in ("embedded", "openai", "replay") and not server.lower().startswith(("http://", "https://")):
            raise ValueError(  # which does not repeat it: it may contain a key
                "IOT_TEACHER must be embedded, openai, replay, or the base URL of a compatible server "
                "(http://host:port/v1)"
            )
        if self.teacher.answer_order == "explanation_first" and student.tasks == "explain":
            raise ValueError(
                "IOT_ANSWER_ORDER=explanation_first needs IOT_TASKS=both: a class is scored before its reasons"
            )
        if student.evaluate_every is None and (student.keep == "best" or student.patience is not None):
            raise ValueError("IOT_KEEP_CHECKPOINT=best and IOT_PATIENCE need IOT_EVALUATE_EVERY")
        if (zone := self.run.schedule_timezone) != "UTC" and zone not in available_timezones():
            raise ValueError(f"IOT_SCHEDULE_TIMEZONE={zone}: no time zone; write it as Europe/Lisbon or UTC")
        if self.run.distil and student.class_rows == 0:
            raise ValueError("IOT_DISTIL=true needs IOT_CLASS_ROWS above 0: it learns from the baseline in class rows")
        if self.run.distil and "original" not in self.run.tracks:
            raise ValueError("IOT_DISTIL=true needs IOT_TRACKS to name original")
        if self.run.controls and "original" not in self.run.tracks:
            raise ValueError("IOT_CONTROLS needs IOT_TRACKS to name original, which every control is made from")
        if "repeated_originals" in self.run.controls and "paraphrased" not in self.run.tracks:
            raise ValueError(
                "IOT_CONTROLS=repeated_originals needs IOT_TRACKS to name paraphrased, whose tokens it has as many of"
            )
        if self.run.grid and student.stage_chain == "warm_start":
            raise ValueError("IOT_GRID=true needs IOT_STAGE_CHAIN=independent: each cell starts from the base")
        if self.run.ray_gpus is not None and 0 < self.run.ray_gpus < 1 and (self.run.processes or 1) > 1:
            raise ValueError("IOT_RAY_GPUS below 1 needs IOT_PROCESSES=1: workers of one training cannot share a GPU")
        if self.run.shard and student.quantisation == "nf4":
            raise ValueError("IOT_SHARD=true and IOT_QUANTISATION=nf4 do not go together: choose one")
        return self

    @property
    def dataset_name(self) -> str:
        """Name of the data set, also if the setting is a path."""
        return Path(self.data.dataset).stem

    @property
    def remote_lake(self) -> str:
        """Address of a lake in a bucket; empty if the lake is a folder."""
        return self.run.lake if isinstance(self.run.lake, str) else ""

    @property
    def lake_path(self) -> Path:
        """Absolute folder of the artefacts of this data set and profile; of a lake in a bucket, its mirror here."""
        if self.remote_lake:
            return mirror(self.remote_lake, self.run.lake_cache or PROJECT_ROOT / "data_lake" / ".mirrors")
        if self.run.lake is not None:
            return Path(self.run.lake).expanduser().absolute()
        return PROJECT_ROOT / "data_lake" / f"{self.dataset_name}-{Path(self.profile).stem}"

    @property
    def base_cache_path(self) -> Path:
        """Folder of the tiny-base build cache."""
        return self.run.base_cache or PROJECT_ROOT / "data_lake" / ".bases"

    @property
    def beside(self) -> list[str]:
        """Arms beside the tracks: the distilled student and the controls."""
        return [*([DISTILLED] if self.run.distil else []), *self.run.controls]

    @property
    def seeds(self) -> list[int]:
        """Seeds that students are trained with."""
        return list(dict.fromkeys(self.student.seeds or [self.data.seed]))

    def with_run(self, **changes: Any) -> "Settings":
        """Copy the settings with other values in the section `run`; None leaves a value as it is."""
        given = {name: value for name, value in changes.items() if value is not None}
        return self.model_copy(update={"run": RunSettings.model_validate(self.run.model_dump(by_alias=True) | given)})

    def value(self, name: str) -> Any:
        """Return the setting of a variable, whose name comes without `IOT_` in lower case; None if there is none."""
        section, field = FIELDS.get(name, ("", name))
        return getattr(getattr(self, section) if section else self, field, None)

    def describe(self) -> list[tuple[str, Any, str]]:
        """Return (variable, value, description) of every setting, for `doctor` and the README."""
        return [(f"IOT_{name.upper()}", self.value(name), description) for name, description in DESCRIPTIONS.items()]


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
# Variable without IOT_, in lower case -> section and field.
FIELDS = {
    field.alias or name: (section, name)
    for section, kind in SECTIONS.items()
    for name, field in kind.model_fields.items()
}
DESCRIPTIONS = {"profile": Settings.model_fields["profile"].description or ""} | {
    name: SECTIONS[section].model_fields[field].description or "" for name, (section, field) in FIELDS.items()
}


def profile_names() -> list[str]:
    """List the names of the profiles that come with the project."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_settings(environment: dict[str, str] | None = None, **overrides: Any) -> Settings:
    """Load settings from, in order of precedence: `overrides`, environment, `.env`, the profile, the defaults.

    Raises UserError naming the variable for an unknown name, an unknown profile or a bad value.
    """
    values = _from_env_file() | _named(dict(os.environ)) if environment is None else _named(environment)
    values |= {key: value for key, value in overrides.items() if value is not None}
    for name in values:
        if name not in DESCRIPTIONS:
            near = difflib.get_close_matches(f"IOT_{name.upper()}", SPELT.values(), n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}?" if near else "; `iot-pipeline doctor` lists all"
            raise UserError(f"unknown setting IOT_{name.upper()}{hint}")
    values = _profile(str(values.get("profile", "demo"))) | values
    values = {name: values.get("seed", SEED) for name in OWN_SEEDS} | values
    values |= {name: absolute(name, values[name]) for name in PATHS if name in values}
    sections: dict[str, Any] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        (sections[FIELDS[name][0]] if name in FIELDS else sections)[name] = value
    try:
        return Settings(**sections)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # settings that conflict: the message names them
            raise UserError(first["msg"].removeprefix("Value error, ")) from None
        name = str(first["loc"][1 if first["loc"][0] in SECTIONS else 0])
        # An address may hold a password (IOT_RAY_ADDRESS=ray://user:password@head).
        told = "" if _is_secret(name) or "://" in str(first["input"]) else f" (got {first['input']!r})"
        raise UserError(f"IOT_{name.upper()}: {first['msg'].removeprefix('Value error, ')}{told}") from None


def _is_secret(name: str) -> bool:
    """Return True for a setting whose value is never shown, not even a wrong one."""
    section, field = FIELDS.get(name, ("", ""))
    return bool(section) and SecretStr in get_args(SECTIONS[section].model_fields[field].annotation)


def _named(given: dict[str, str]) -> dict[str, Any]:
    """Return the settings among variables, by their names in lower case; empty ones are as if unset.

    Raises UserError for a setting in another spelling (`iot_stages`, `IOT-STAGES`), which would be without effect.
    """
    found = {}
    for key, value in given.items():
        if value == "" or key in {*INTERNAL_VARIABLES, SERVE_TOKEN}:
            continue
        if (meant := SPELT.get(_plain(key), key)) != key:
            raise UserError(f"unknown setting {key}; did you mean {meant}?")
        if key.upper().startswith("IOT_"):
            found[key[len("IOT_") :].lower()] = value
    return found


def _plain(key: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", key.upper())


SPELT = {_plain(name): name for name in (SERVE_TOKEN, *(f"IOT_{name.upper()}" for name in DESCRIPTIONS))}


def _from_env_file() -> dict[str, Any]:
    """Return the settings in `.env`; file names in it count from its own folder, wherever a command is run."""
    values = _named(dotenv())
    return {
        name: absolute(name, value, env_file().parent) if name in PATHS else value for name, value in values.items()
    }


def _profile(name: str) -> dict[str, Any]:
    if name not in profile_names():  # a path could lead to a stranger's file, beside the settings of a bundle
        raise UserError(f"IOT_PROFILE: no profile {name!r}; there are: {', '.join(profile_names())}")
    return {"profile": name, **read_own_yaml(PROFILES / f"{name}.yaml")}


def api_key() -> SecretStr | None:
    """Return the teacher's key from OPENAI_API_KEY in the environment or `.env`; never stored or printed."""
    value = os.environ.get("OPENAI_API_KEY") or dotenv().get("OPENAI_API_KEY")
    return SecretStr(value) if value else None


def serve_token() -> SecretStr | None:
    """Return the token of `serve` from IOT_SERVE_TOKEN in the environment or `.env`; never stored or printed."""
    value = os.environ.get(SERVE_TOKEN) or dotenv().get(SERVE_TOKEN)
    return SecretStr(value) if value else None


@cache
def settings() -> Settings:
    """Return the settings of this process, loaded once."""
    return load_settings()
