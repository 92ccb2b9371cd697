"""A lake in a bucket behaves as one in a folder: on another host, with two writers, after kills and damage."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from iot_pipeline.commands import doctor
from iot_pipeline.defs.leased_worker import worker_of
from iot_pipeline.defs.recording import progress
from iot_pipeline.defs.workers import Worker
from iot_pipeline.errors import UserError
from iot_pipeline.lake import artefact_log, leases
from iot_pipeline.lake.artefact_log import BusyError
from iot_pipeline.lake.atomic import sha256_file, write_text
from iot_pipeline.lake.remote import Remote, mirror
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.lake.verify import verify
from iot_pipeline.settings import load_settings
from iot_pipeline.teacher_factory import open_teacher
from iot_pipeline_tests.lake.s3_server import BUCKET, KEY, SECRET, Server, s3_server

A, B = ArtefactId("a"), ArtefactId("b", "10K|original")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as served:
        yield served


@pytest.fixture(autouse=True)
def credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(artefact_log, "FRESH_S", 0.0)  # what another host published is seen at once


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Let clients read the environment anew, and those of later tests too."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid))}"


def host(address: str, folder: Path) -> Lake:
    """The lake as a host of its own sees it: another mirror, another owner."""
    root = mirror(address, folder)
    lake = Lake(root)
    here = leases.this_owner()
    lake.remote = Remote(root, address, owner=leases.Owner(folder.name, folder.name, folder.name, 1, here.seen))
    return lake


def make(lake: Lake, artefact: ArtefactId, text: str, inputs: dict[str, str] | None = None) -> Manifest:
    with lake.replacing(artefact) as folder:
        write_text(folder / "data.txt", text)
        write_text(folder / "deep" / "timing.txt", str(time.time_ns()))
        manifest = Manifest(artefact.asset, artefact.partition, "", "1", inputs or {}, {"setting seed": 42}, {})
        return finish_artefact(folder, manifest, {"deep/timing.txt"})


def present(name: str) -> object:
    return {"setting seed": 42}.get(name)


def object_key(address: str, lake: Lake, artefact: ArtefactId, name: str = "data.txt") -> str:
    manifest = lake.manifest(artefact)
    assert manifest is not None
    return f"{address.removeprefix(f's3://{BUCKET}/')}/objects/{manifest.files[name]['sha256']}"


def test_another_host_reads_what_one_made_and_finds_it_fresh(address: str, tmp_path: Path, server: Server) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    version = make(one, A, "x").data_version
    make(one, B, "from x", {A.input_key: version})
    assert two.artefacts() == [A, B]
    assert two.stale_reasons(B, "1", present) == [] and two.stale_reasons(A, "1", present) == []
    assert not (two.place(B) / "data.txt").exists()  # looking fetches nothing
    assert (two.verified(B) / "data.txt").read_text() == "from x" and (two.folder(A) / "deep" / "timing.txt").is_file()
    assert two.manifest(B) == one.manifest(B)
    make(two, A, "y")
    assert one.stale_reasons(B, "1", present) == ["input a changed"]
    assert (one.folder(A) / "data.txt").read_text() == "y"
    assert not server.keys(f"{address.removeprefix(f's3://{BUCKET}/')}/owners")  # nobody holds a lease


def test_a_file_of_the_same_hash_is_neither_uploaded_nor_fetched_again(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    make(one, A, "x")
    two.folder(A)
    assert one.remote and two.remote
    moved: list[str] = []
    for store, way in ((one.remote.objects, "upload"), (two.remote.objects, "download")):
        call = getattr(store, way)
        monkeypatch.setattr(store, way, lambda *some, call=call, way=way: (moved.append(way), call(*some))[1])
    make(one, A, "x")  # its timing is another
    assert (two.folder(A) / "data.txt").read_text() == "x"
    assert moved == ["upload", "download"]


def test_two_writers_of_one_artefact_do_not_meet_and_of_two_do(address: str, tmp_path: Path) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    with one.replacing(A) as folder:
        write_text(folder / "data.txt", "x")
        finish_artefact(folder, Manifest("a", "", "", "1", {}, {}, {}), set())
        with pytest.raises(BusyError, match="a@ is being made on one"), two.replacing(A):
            pass
        make(two, B, "beside it")
    assert two.manifest(A) is not None and one.manifest(B) is not None


def test_a_reader_on_the_same_mirror_does_not_bring_the_old_files_back(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = (host(address, tmp_path / "one") for _ in range(2))
    make(writer, A, "old")
    monkeypatch.setattr(artefact_log, "FRESH_S", 2.0)
    old = reader.manifest(A)
    make(writer, A, "new")
    data = writer.folder(A) / "data.txt"
    reader.manifest(A)  # by a listing from before
    assert data.read_text() == "new"
    assert old is not None and reader.remote is not None  # what it would have fetched, had the listing been used
    assert not reader.remote.fetch(A.file_name, data.parent, old.files, tmp_path / "known.json")
    assert data.read_text() == "new" and verify(reader).mismatches == []


def test_a_body_that_fails_publishes_nothing_and_gives_the_lease_back(address: str, tmp_path: Path) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    make(one, A, "old")
    with pytest.raises(ZeroDivisionError), one.replacing(A) as folder:
        write_text(folder / "data.txt", "new")
        raise ZeroDivisionError
    assert (two.folder(A) / "data.txt").read_text() == "old"
    make(two, A, "newer")


def test_a_writer_whose_lease_was_taken_over_publishes_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    with pytest.raises(UserError, match=r"lease of a@ was lost to two .*nothing was published"):
        with one.replacing(A) as folder:
            write_text(folder / "data.txt", "slow")
            finish_artefact(folder, Manifest("a", "", "", "1", {}, {}, {}), set())
            monkeypatch.setattr(leases, "TTL_S", -1.0)
            make(two, A, "quick")
            monkeypatch.setattr(artefact_log, "CHECK_S", 1e9)  # it does not look before it publishes
    assert (one.folder(A) / "data.txt").read_text() == (two.folder(A) / "data.txt").read_text() == "quick"
    with one.replacing(A) as folder:  # and it can go on
        finish_artefact(folder, Manifest("a", "", "", "2", {}, {}, {}), set())


def test_a_lost_lease_is_noticed_while_the_body_runs(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    with pytest.raises(UserError, match="stopped before it publishes"), one.replacing(A):
        one.check_lease(A)
        monkeypatch.setattr(leases, "TTL_S", -1.0)
        make(two, A, "quick")
        monkeypatch.setattr(artefact_log, "CHECK_S", 0.0)
        one.check_lease(A)


KILLED = """
import sys, time
from pathlib import Path
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.remote import mirror
from iot_pipeline.lake.store import ArtefactId, Lake
with Lake(mirror(sys.argv[1], Path(sys.argv[2]))).replacing(ArtefactId("a")) as folder:
    write_text(folder / "data.txt", "half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lease_of_a_killed_process_of_this_host_is_free_at_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Lake(mirror(address, tmp_path / "one")), A, "old")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, address, str(tmp_path / "two")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        mine = Lake(mirror(address, tmp_path / "one"))
        with pytest.raises(BusyError), mine.replacing(A):
            pass
        process.kill()
    assert (mine.folder(A) / "data.txt").read_text() == "old"
    make(mine, A, "new")
    elsewhere = host(address, tmp_path / "three")
    assert (elsewhere.folder(A) / "data.txt").read_text() == "new"


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_made_again(
    address: str, tmp_path: Path, server: Server
) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    make(one, A, "x")
    (one.place(A) / "data.txt").write_text("cut")
    (one.place(A) / "manifest.json").write_text("{")
    assert one.stale_reasons(A, "1", present) == [] and (one.folder(A) / "data.txt").read_text() == "x"
    server.client().put_object(Bucket=BUCKET, Key=object_key(address, one, A), Body=b"z")
    with pytest.raises(UserError, match=r"data\.txt was changed in the bucket"):
        two.folder(A)
    (reason,) = two.stale_reasons(A, "1", present)
    assert reason.startswith("file data.txt was changed in the bucket (expected sha256 ")
    (found, *_) = verify(two).mismatches
    assert found.artefact == "a" and "data.txt" in found.file
    make(two, A, "x")
    assert two.stale_reasons(A, "1", present) == []
    assert (host(address, tmp_path / "three").folder(A) / "data.txt").read_text() == "x"


def test_a_missing_object_is_named_by_looking_and_by_verify(address: str, tmp_path: Path, server: Server) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    make(one, A, "x")
    server.client().delete_object(Bucket=BUCKET, Key=object_key(address, one, A))
    assert two.stale_reasons(A, "1", present) == ["file data.txt is missing in the bucket"]
    assert {(one.artefact, one.found) for one in verify(two).mismatches} >= {("a", "no file")}
    assert not verify(one).mismatches  # it has a copy, which heals the bucket when the artefact is made again


def test_what_a_mirror_has_beside_the_bucket_does_not_count(address: str, tmp_path: Path) -> None:
    one = host(address, tmp_path / "one")
    make(one, A, "x")
    write_text(one.root / "b" / "10K" / "original" / "manifest.json", "{}")
    assert one.artefacts() == [A] and one.manifest(B) is None
    assert not verify(one).mismatches


def test_stale_marks_and_snapshots_reach_another_host(address: str, tmp_path: Path) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    make(one, A, "x")
    kept = one.keep_snapshot("a prompt")
    one.mark_stale(A, "verdicts withdrawn")
    assert two.stale_reasons(A, "1", present) == ["verdicts withdrawn"]
    assert two.snapshot(kept.stem).read_text() == "a prompt"
    make(two, A, "x")
    assert one.stale_reasons(A, "1", present) == two.stale_reasons(A, "1", present) == []


def test_work_of_a_lost_host_is_gone_on_with(address: str, tmp_path: Path, server: Server) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    work = [lake.root / ".work" / A.file_name / "print" for lake in (one, two)]
    for folder in work:
        folder.mkdir(parents=True)
    assert one.remote and two.remote
    write_text(work[0] / "checkpoint", "step 7")
    write_text(work[0] / "deep" / "log", "1\n")
    stamps: dict[str, tuple[int, int, str]] = {}
    one.remote.work.upload(A.file_name, work[0], stamps)
    write_text(work[0] / "checkpoint", "step 10")
    one.remote.work.upload(A.file_name, work[0], stamps)
    assert two.keep_work(A, work[1]) and not two.keep_work(A, work[1])
    assert (work[1] / "checkpoint").read_text() == "step 10" and (work[1] / "deep" / "log").is_file()
    write_text(work[1] / "checkpoint", "step 11")
    two.remote.work.upload(A.file_name, work[1], {})
    assert one.keep_work(A, work[0]) and (work[0] / "checkpoint").read_text() == "step 11"
    for lake in (one, two):
        lake.drop_work(A)
    assert not server.keys(f"{address.removeprefix(f's3://{BUCKET}/')}/work")


def test_a_diagnosis_looks_into_the_bucket_and_writes_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "engine_evidence", lambda lake: looked.append(lake.artefacts()))
    looked: list[list[ArtefactId]] = []
    make(host(address, tmp_path / "one"), A, "x")
    chosen = load_settings({"IOT_LAKE": address, "IOT_LAKE_CACHE": str(tmp_path / "mirrors")})
    found = {one.topic: one for one in doctor.examine(chosen)}
    assert (found["lake"].state, looked) == ("ok", [[A]])
    assert f"{address}, 1 artefacts; copies in {chosen.lake_path}" in found["lake"].text
    assert not (tmp_path / "mirrors").exists()
    assert Lake(chosen.lake_path).artefacts() == [A] and chosen.lake_path.is_dir()


@pytest.mark.parametrize("name", ["../../escaped.txt", "/{place}/escaped.txt", "deep/../../../escaped.txt"])
def test_a_manifest_in_the_bucket_names_no_file_outside_its_folder(address: str, tmp_path: Path, name: str) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    facts = make(one, A, "x").files["data.txt"]
    assert one.remote
    hostile = Manifest("a", "", facts["sha256"], "1", {}, {}, {name.format(place=tmp_path): facts})
    one.remote.log.publish(one.remote.log.claim(A.file_name), json.dumps(asdict(hostile)))
    for look in (two.manifest, two.verified, two.folder):
        with pytest.raises(UserError, match="leads out of the artefact's folder"):
            look(A)
    assert not list(tmp_path.rglob("*escaped*"))


def told(address: str, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        make(host(address, folder), A, "x")
    assert SECRET not in str(error.value) and KEY not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_bucket_is_said_in_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_clients: None
) -> None:
    assert "there is no such bucket" in told("s3://nowhere/lake", tmp_path)
    assert "cannot create an object only if" in told("memory://lake", tmp_path)
    for wrong in ("s3://key:secret@bucket/lake", "s3://bucket/lake?versionId=1"):
        with pytest.raises(UserError, match="credentials belong in AWS"):
            mirror(wrong, tmp_path)
    with s3_server(lax=True) as lax:
        S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_ENDPOINT_URL", lax.environment["AWS_ENDPOINT_URL"])
        assert "ignores If-None-Match" in told(f"{address}-lax", tmp_path)
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the driver's own patience is not the matter
    assert "the store cannot be reached" in told(address, tmp_path)


def test_wrong_credentials_and_none_are_told_apart(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_clients: None
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHERKEYANOTHER")
    assert "refuses these credentials" in told(address, tmp_path)
    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    assert "there are no credentials" in told(address, tmp_path)


def test_a_file_is_uploaded_under_its_hash(address: str, tmp_path: Path, server: Server) -> None:
    lake = host(address, tmp_path)
    make(lake, A, "x")
    digest = sha256_file(lake.place(A) / "data.txt")
    assert object_key(address, lake, A) in server.keys("") and object_key(address, lake, A).endswith(digest)


def test_a_worker_passes_over_what_another_host_makes(address: str, tmp_path: Path) -> None:
    one, two = host(address, tmp_path / "one"), host(address, tmp_path / "two")
    worker, told = worker_of(Worker(), two), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    progress.addHandler(handler)
    try:
        with one.claimed([A]):
            assert not worker.claim(A) and not worker.claim(A) and worker.claim(B)
            make(one, A, "x")
            assert worker.claim(A)
            with two.claimed([A]), pytest.raises(BusyError):
                one.claimed([B, A]).__enter__()
            assert worker.claim(B)  # what it took before it met the busy one was given back
    finally:
        progress.removeHandler(handler)
    assert told == ["it is being made on one (process 1)"]
    assert worker_of(plain := Worker(), Lake(tmp_path)) is plain


def test_answers_of_a_paid_teacher_need_a_store_that_hosts_share(address: str, tmp_path: Path) -> None:
    here = {"IOT_LAKE": address, "IOT_LAKE_CACHE": str(tmp_path)}
    paid = load_settings(here | {"IOT_TEACHER": "https://api.example.com/v1"})
    with pytest.raises(UserError, match="IOT_TEACHER_STORE is not set"), open_teacher(paid):
        pass
    said: list[str] = []
    with open_teacher(load_settings(here | {"IOT_TEACHER": "http://127.0.0.1:9/v1"}), said.append):
        pass
    assert said[0].startswith("answers are kept on this host alone, in ")
    assert load_settings(here).lake_path.parent == tmp_path
