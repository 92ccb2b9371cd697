"""The file `.env`, and file names in settings: those in `.env` count from its folder, others from the current one."""

import os
import re
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
# Internal: set by the project for its own subprocesses and tests.
ENV_FILE = "IOT_ENV_FILE"
ONLY_WANTED = "IOT_ONLY_WANTED"  # set by `ui`: what the settings do not ask for cannot be materialised by a click
RUN_SOCKET = "IOT_RUN_SOCKET"  # set by `ui`: the Unix socket on which runs are launched
INTERNAL_VARIABLES = {"IOT_PARENT_PID", ENV_FILE, ONLY_WANTED, RUN_SOCKET}
SERVE_TOKEN = "IOT_SERVE_TOKEN"  # a secret, so no setting: settings are listed and recorded with their values
# Settings that may name files. Subprocesses run in other folders, so names must not depend on the current directory.
PATHS = (
    "dataset",
    "source",
    "base_model",
    "audit_tokenizer",
    "lake",
    "lake_cache",
    "base_cache",
    "prompts",
    "teacher_store",
)


def env_file() -> Path:
    """Return the path of `.env`, which need not exist."""
    return Path(os.environ.get(ENV_FILE, PROJECT_ROOT / ".env")).absolute()


def dotenv() -> dict[str, str]:
    """Read the variables in `.env`; UserError if it cannot be read, or has a line that sets none."""
    from dotenv import dotenv_values

    if env_file().is_dir():
        raise UserError(f"{env_file()} is a folder, not a file of settings; rename or remove it")
    try:
        _check_lines(env_file())
        return {key: value for key, value in dotenv_values(env_file()).items() if value is not None}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{env_file()} cannot be read ({error.strerror}); mend or remove it") from None
    except UnicodeDecodeError:
        raise UserError(f"{env_file()} is not UTF-8; write it anew, or remove it") from None


def _check_lines(file: Path) -> None:
    """Raise UserError for a line that the parser would leave out, or a setting with two values; no value is told."""
    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    with file.open(encoding="utf-8-sig") as lines:
        for found in parse_stream(lines):
            text = found.original.string
            number = found.original.line + text[: len(text) - len(text.lstrip())].count("\n")
            if "\0" in text or found.error or (found.key is not None and found.value is None):
                raise UserError(
                    f"{file}, line {number}: it must be NAME=value, in quotes that are closed, or a # comment"
                )
            if found.key is None or found.value is None or not found.key.startswith(("IOT_", "OPENAI_")):
                continue
            if values.setdefault(found.key, found.value) != found.value:
                raise UserError(f"{file}, line {number}: {found.key} has another value above; remove one of the lines")


def expanded(path: Path, whose: str = "") -> Path:
    """Return a path with a home folder in place of `~`; UserError, begun by `whose`, for a user who does not exist."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{whose}there is no user of the name {path.parts[0]}") from None


def absolute(name: str, value: Any, folder: Path | None = None) -> Any:
    """Make file names in a setting (a spec, sources and globs, a model) absolute, from `folder` or the current one."""
    start = Path.cwd() if folder is None else folder

    def made(path: Path) -> Path:
        if path.parts[:1] and path.parts[0].startswith("$"):
            raise UserError(
                f"IOT_{name.upper()}: {path.parts[0]} is not known here; in .env write ${{HOME}}, in braces"
            )
        return (start / expanded(path, f"IOT_{name.upper()}: ")).absolute()

    def is_file(part: str) -> bool:
        if name == "dataset":
            return part.endswith((".yaml", ".yml"))
        if name in ("base_model", "audit_tokenizer"):
            return part not in ("tiny", "smollm2") and made(Path(part)).is_dir()
        return part not in ("", "simulate") and "://" not in part

    def placed(part: str) -> str:
        return str(made(Path(part))) if is_file(part) else part

    if isinstance(value, Path):
        return made(value)
    if name == "teacher_store" and (url := re.match(r"(sqlite(?:\+pysqlite)?:///)([^/:?].*)", str(value))):
        return url[1] + str(made(Path(url[2])))
    if not isinstance(value, str):
        return value
    return ",".join(placed(part.strip()) for part in value.split(",")) if name == "source" else placed(value)
