"""Credentials of a source's address stand nowhere: no file of the lake, no output, whatever the server answers.

Run by the real command line against a server on loopback that wants a password and a token.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline.commands.datasets import check
from iot_pipeline.commands.doctor import _source, told_settings
from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import hide, without_credentials
from iot_pipeline.flows.source import local_files
from iot_pipeline.settings import PROJECT_ROOT, load_settings
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.loopback import Handler, listening

USER, PASSWORD, TOKEN = "annD15T1NCT", "pa55D15T1NCTword", "t0kenD15T1NCT"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = [b"D15T1NCT", BASIC.removeprefix("Basic ").encode()]


class Guarded(Handler):
    """Gives files to those who say password and token; tells every other request what it was sent."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        known = self.headers.get("Authorization") == BASIC and parse_qs(url.query).get("sig") == [TOKEN]
        status = 200 if known and url.path in self.files else 404 if known else 401
        body = self.files[url.path] if status == 200 else f"{self.path} {self.headers}".encode()
        self.send_response(status, None if status == 200 else f"refused {self.path}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a server that has a good table and a broken one."""
    folder = tmp_path_factory.mktemp("table")
    simulate_farm_flow(folder / "t.parquet", rows=200)
    pa_csv.write_csv(pq.read_table(folder / "t.parquet"), folder / "t.csv")
    files = {"/t.csv": (folder / "t.csv").read_bytes(), "/broken.zip": b"PK\x03\x04 no zip"}
    with listening(type("Files", (Guarded,), {"files": files})) as host:
        yield host


def command(lake: Path, source: str, *arguments: str) -> tuple[int, bytes]:
    """Exit code and all output of one command."""
    environment = os.environ | {"IOT_LAKE": str(lake), "IOT_SOURCE": source, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "iot_pipeline", *arguments], env=environment, cwd=PROJECT_ROOT, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def told_in(folder: Path, said: bytes) -> list[str]:
    """Where a secret stands: files of a folder, and the output."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [str(path) for path in files if any(secret in path.read_bytes() for secret in SECRETS)]
    return found + [f"output: {said.decode()}" for secret in SECRETS if secret in said]


def test_a_run_tells_no_credential_of_its_source(host: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    address = f"http://{USER}:{PASSWORD}@{host}/t.csv?sig={TOKEN}#{TOKEN}"
    code, said = command(lake, f"{address}, {address}", "run", "--until", "raw_flows", "--json")
    assert code == 0, said.decode()
    assert (lake / "raw_flows" / "manifest.json").is_file() and f"http://{host}/t.csv".encode() in b"".join(
        path.read_bytes() for path in lake.rglob("*.json")
    )
    assert told_in(lake, said) == []
    settings = load_settings({"IOT_SOURCE": f"{address}, {address}"})
    assert told_in(lake, repr([told_settings(settings), _source(settings)]).encode()) == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"http://{USER}:{PASSWORD}@{{host}}/none.csv?sig={TOKEN}", "does not exist"),
        (f"http://{USER}:x{PASSWORD}@{{host}}/t.csv?sig={TOKEN}", "cannot be read: 401"),
        (f"http://{USER}:{PASSWORD}@{{host}}/broken.zip?sig={TOKEN}", "cannot be unpacked"),
        (f"http://{USER}:{PASSWORD}@{{host}}/t.csv?sig=a,{TOKEN}", "cannot be read: 401"),
        (f"http://{USER}:{PASSWORD}/@{{host}}/t.csv?sig={TOKEN}", "cannot be read"),
        (f"s3://{USER}:{PASSWORD}@bucket/t.csv?sig={TOKEN}", "cannot be read"),
    ],
)
def test_no_error_tells_them(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    for name, value in {
        "NO_PROXY": "127.0.0.1", "AWS_ENDPOINT_URL": f"http://{host}", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=why) as caught:
        check("farm_flow", address.format(host=host), 0.01)
    assert "\n" not in str(caught.value)
    assert told_in(tmp_path, str(caught.value).encode()) == []


def test_a_failed_run_tells_none_to_dagster(host: str, tmp_path: Path) -> None:
    address = f"http://{USER}:x{PASSWORD}@{host}/t.csv?sig={TOKEN}"
    code, said = command(tmp_path / "lake", address, "run", "--until", "raw_flows", "--json")
    assert code == 1 and b"401" in said
    assert told_in(tmp_path, said) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:p@ss@host/x.csv", "http://host/x.csv"),
        ("http://me:pa/ss@host/x.csv", "http://host/x.csv"),
        ("http://me:pa,ss@host/x.csv", "http://host/x.csv"),
        ("HTTPS://me:pw@host/x.csv?token=1", "HTTPS://host/x.csv"),
        ("s3://bucket/t.csv?X-Amz-Signature=1", "s3://bucket/t.csv"),
        ("simplecache::https://me:pw@host/x?token=t", "simplecache::https://host/x"),
        ("http://host:8080/a@b/c.csv", "http://host:8080/a@b/c.csv"),
        ("see http://host:80: ask a@b", "see http://host:80: ask a@b"),
    ],
)
def test_credentials_are_found_where_they_should_not_be(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_a_message_hides_parts_of_an_address_too() -> None:
    url = "http://ann%40x:s3cret@host/x?sig=abcdef%3D"
    assert hide("bad user ann@x, password s3cret, sig abcdef=", url) == (
        "bad user [hidden], password [hidden], sig [hidden]"
    )


def test_the_rest_of_an_address_behind_a_comma_is_not_told(tmp_path: Path) -> None:
    for source in ("https://h/a,b.csv?sig=hush", f"{tmp_path},https://h/a,b.csv?sig=hush"):
        with pytest.raises(UserError, match=r"what follows the comma after a URL .*: write %2C") as told:
            local_files(source)
        assert "hush" not in str(told.value)
