"""The whole job with the lake in a bucket makes what it makes in a folder, and a second host has it all."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iot_pipeline_tests.command_line import call
from iot_pipeline_tests.lake.s3_server import BUCKET, Server, s3_server
from iot_pipeline_tests.teacher.postgres import cluster
from iot_pipeline_tests.test_end_to_end import SMALL, state_of

pytestmark = pytest.mark.slow
ADDRESS = f"s3://{BUCKET}/whole-job"
# Measured times, and the pages that print them.
TIMED = {"inference_benchmark", "cost_report", "claims_audit", "model_card", "paper_report"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as served:
        yield served


def command(server: Server, mirrors: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    variables = SMALL | server.environment | {"IOT_LAKE": ADDRESS, "IOT_LAKE_CACHE": str(mirrors)}
    return call(*arguments, **variables | more)


def versions(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads(done.stdout)
    assert {row["state"] for row in rows} == {"fresh"}
    return {row["artefact"]: row["data_version"] for row in rows}


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Mirror of the host that ran the job, and what it reported."""
    mirrors = tmp_path_factory.mktemp("one")
    done = command(server, mirrors, "run", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return mirrors, json.loads(done.stdout)


def test_it_has_the_data_versions_of_a_lake_in_a_folder(
    made: tuple[Path, dict[str, Any]], server: Server, tmp_path: Path
) -> None:
    folder = {"IOT_LAKE": str(tmp_path / "lake")}
    assert call("run", **SMALL | folder).returncode == 0
    there, here = (versions(done) for done in (command(server, made[0], "status", "--json"),
                                               call("status", "--json", **SMALL | folder)))  # fmt: skip
    assert {name for name in here if here[name] != there[name]} <= TIMED
    assert here.keys() == there.keys()


def test_it_has_them_with_records_and_answers_in_postgresql_too(
    made: tuple[Path, dict[str, Any]], server: Server, tmp_path: Path
) -> None:
    with cluster() as database:
        hosts = {"IOT_LAKE": f"{ADDRESS}-pg", "IOT_DAGSTER_POSTGRES": database(), "IOT_TEACHER_STORE": database()}
        done = command(server, tmp_path, "run", "--json", **hosts)
        assert done.returncode == 0 and json.loads(done.stdout)["failed"] == [], done.stderr[-3000:]
        there = versions(command(server, tmp_path, "status", "--json", **hosts))
    here = versions(command(server, made[0], "status", "--json"))
    assert here.keys() == there.keys() and {name for name in here if here[name] != there[name]} <= TIMED


def test_every_command_works_on_a_second_host(
    made: tuple[Path, dict[str, Any]], server: Server, tmp_path: Path
) -> None:
    second = tmp_path / "two"
    assert versions(command(server, second, "status", "--json"))
    done = command(server, second, "run", "--json")
    assert json.loads(done.stdout)["made"] == [] and json.loads(done.stdout)["failed"] == [], done.stderr
    done = command(server, second, "verify", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["mismatches"] == [], done.stdout
    assert ADDRESS in command(server, second, "doctor").stdout
    (mirror,) = second.iterdir()
    flows = pq.read_table(mirror / "flows" / "flows.parquet").slice(0, 4).to_pandas()
    flows.drop(columns=["row_id", "label", "flow_group", "occurrence"]).to_csv(tmp_path / "new.csv", index=False)
    (answers,) = made[0].rglob("teacher.sqlite")  # a bundle holds them; without a database they stay on their host
    done = command(server, second, "export-bundle", str(tmp_path / "bundle"))
    assert done.returncode == 2 and "IOT_TEACHER_STORE names it" in done.stderr
    for arguments in (
        ("trace", "table-1"),
        ("trace", "row", "1", "--stage", "10K", "--track", "paraphrased"),
        ("classify", str(tmp_path / "new.csv"), "--out", str(tmp_path / "events.jsonl")),
        ("export-bundle", str(tmp_path / "bundle")),
        ("estimate", "--json"),
        ("run", "--dry-run"),
    ):
        # Each works from what it fetches itself.
        done = command(server, tmp_path / "three", *arguments, IOT_TEACHER_STORE=str(answers))
        assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 4


def test_looking_again_fetches_and_writes_nothing(
    made: tuple[Path, dict[str, Any]], server: Server, tmp_path: Path
) -> None:
    assert command(server, tmp_path, "status").returncode == 0
    before = state_of(tmp_path)
    assert command(server, tmp_path, "status").returncode == 0
    assert state_of(tmp_path) == before and not [name for name in before if name.endswith(".parquet")]
