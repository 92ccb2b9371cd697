"""The Dagster home of a lake: records in SQLite files in the lake, or in PostgreSQL for workers on several hosts."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import held, write_text
from iot_pipeline.lake.store import Lake
from iot_pipeline.lake.yaml_reader import read_yaml
from iot_pipeline.settings import PROJECT_ROOT, Settings

POSTGRES = "IOT_DAGSTER_POSTGRES"  # deploy/dagster.yaml reads it
LOCAL_HOME, SHARED_HOME = ".dagster", ".dagster-postgres"  # in the lake; two, so that neither overwrites the other
RUN_LOCK = "run.lock"
STORAGES = ("storage", "run_storage", "event_log_storage")
INSTALL = "pip install 'iot-pipeline[postgres]'"


def dagster_home(settings: Settings) -> Path:
    """Return the Dagster home of a lake, after writing the project's current dagster.yaml, and set DAGSTER_HOME.

    That is the lake's own, in SQLite; with IOT_DAGSTER_POSTGRES another one, whose records are in that database. A
    DAGSTER_HOME whose dagster.yaml keeps records in PostgreSQL (deploy/, a pod of Dagster's Helm chart) is left alone.

    Raises UserError if it cannot be written, or IOT_DAGSTER_POSTGRES cannot be used.
    """
    lake = Lake(settings.lake_path)
    if "?" in str(lake.root):  # Dagster would make its databases at the path before it
        raise UserError(f"IOT_LAKE: {lake.root} has a `?`, which Dagster cannot have in a path; name another folder")
    lake.check_writable()
    shared = settings.run.dagster_postgres
    if shared is not None:
        check_url(shared.get_secret_value())
        os.environ[POSTGRES] = shared.get_secret_value()  # it may stand in `.env`, which Dagster does not read
    if (deployed := _deployed_home()) is not None:
        return deployed
    source = PROJECT_ROOT / "dagster.yaml" if shared is None else PROJECT_ROOT / "deploy" / "dagster.yaml"
    home = lake.root / (LOCAL_HOME if shared is None else SHARED_HOME)
    try:
        home.mkdir(exist_ok=True)
        write_text(
            home / "dagster.yaml", with_runs_for(source.read_text(encoding="utf-8"), settings.run.ray_slots or 1)
        )
    except OSError as error:
        raise UserError(f"cannot write to {home} ({error.strerror}); mend its permissions or set IOT_LAKE") from None
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def with_runs_for(text: str, trainings: int) -> str:
    """Return a dagster.yaml whose queue takes a run more for each training at once on Ray beyond the first."""
    return re.sub(r"(?<=max_concurrent_runs: )\d+", lambda usual: str(int(usual[0]) + trainings - 1), text)


def _deployed_home() -> Path | None:
    """Return the folder of DAGSTER_HOME if it is none of a lake and keeps its records in PostgreSQL."""
    home = Path(os.environ.get("DAGSTER_HOME") or SHARED_HOME)
    return home.absolute() if home.name not in (LOCAL_HOME, SHARED_HOME) and is_shared(home) else None


def is_shared(home: Path) -> bool:
    """Return True if a Dagster home keeps its records in PostgreSQL, where several workers meet."""
    path = home / "dagster.yaml"
    found = read_yaml(path) or {} if path.is_file() else {}
    return any("postgres" in str(found.get(name, "")) for name in STORAGES)


def check_url(text: str) -> URL:
    """Parse the value of IOT_DAGSTER_POSTGRES; UserError, which never repeats it, if Dagster cannot use it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # both repeat parts of it
        raise UserError(
            f"{POSTGRES} is no URL; write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE, with @ / : in a name or "
            "password as %40 %2F %3A"
        ) from None
    if url.get_backend_name() != "postgresql" or not url.database:
        raise UserError(
            f"{POSTGRES} names no PostgreSQL database; write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    try:
        import dagster_postgres  # noqa: F401
    except ImportError:
        raise UserError(f"{POSTGRES} needs dagster-postgres, which is not installed: {INSTALL}") from None
    return url


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold the run lock of a lake: one `run` at a time, unless PostgreSQL keeps its workers apart.

    The lock is released however the process ends.
    """
    home = dagster_home(settings)
    busy = f"another `iot-pipeline run` is at work here on {Lake(settings.lake_path).address}; wait for it"
    with contextlib.nullcontext() if is_shared(home) else held(home / RUN_LOCK, busy):
        yield
