"""A real web server of the UI, asked as a browser with a page of another site would ask it."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from iot_pipeline.commands.lake_files import LakeFiles
from iot_pipeline.commands.webserver import is_loopback

QUERY = b'{"query": "{ version }"}'
CHANGE = "mutation%7BreloadWorkspace%7B__typename%7D%7D"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a server without a code location, which starts sooner."""
    folder: Path = tmp_path_factory.mktemp("home")
    (folder / "workspace.yaml").write_text("load_from: []\n")
    lake = folder / "lake"
    (lake / "paper_report").mkdir(parents=True)
    (lake / "paper_report" / "report.html").write_text("<script>alert(1)</script>")
    (lake / "paper_report" / "<b>.json").write_text("{}")
    (lake / "a b").mkdir()
    (lake / ".dagster").mkdir()
    (lake / ".dagster" / "x.txt").write_text("hidden")
    (lake / "teacher.sqlite").write_text("answers")
    (folder / "secret.txt").write_text("secret")
    (lake / "out.txt").symlink_to(folder / "secret.txt")
    (lake / "around").symlink_to(lake / ".dagster")
    (lake / "inside.txt").symlink_to(lake / "paper_report" / "report.html")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    workspace = str(folder / "workspace.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "iot_pipeline.commands.webserver", "127.0.0.1", str(free), workspace],
        env=os.environ | {"DAGSTER_HOME": str(folder), "IOT_LAKE": str(lake)},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", free)):
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield free
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, path: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """Status of the answer to a GET, or to a POST where there is a body."""
    headers = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/", {}, None, 200),
        ("/", {"Host": "localhost:8080"}, None, 200),  # through a tunnel, which has a port of its own
        ("/", {"Host": "[::1]:PORT"}, None, 200),
        ("/", {"Host": "rebound.example:PORT"}, None, 403),
        ("/", {"Host": "127.0.0.1.rebound.example"}, None, 403),
        ("/", {"Host": "localhost@rebound.example"}, None, 403),
        ("/graphql", {"Accept": "text/html"}, None, 200),
        ("/graphql", JSON, QUERY, 200),
        ("/graphql", JSON | {"Origin": "http://127.0.0.1:PORT"}, QUERY, 200),
        ("/graphql", JSON | {"Origin": "http://other.example"}, QUERY, 403),
        ("/graphql", JSON | {"Origin": "http://127.0.0.1:1"}, QUERY, 403),
        ("/graphql", JSON | {"Origin": "http://localhost:PORT"}, QUERY, 403),
        ("/graphql", JSON | {"Origin": "null"}, QUERY, 403),
        ("/graphql", JSON | {"Host": "rebound.example", "Origin": "http://rebound.example"}, QUERY, 403),
        (f"/graphql?query={CHANGE}", {}, None, 405),
        (f"/graphql/?query={CHANGE}", {}, None, 405),
        (f"/graphql?query={CHANGE}", {"Content-Type": "text/plain", "Origin": "http://other.example"}, b"x", 403),
        ("/lake/paper_report/report.html", {}, None, 200),
        ("/lake/", {}, None, 200),
        ("/lake/a%20b/", {}, None, 200),
        ("/lake/inside.txt", {}, None, 200),
        ("/lake/paper_report/report.html", {"Host": "rebound.example"}, None, 403),
        ("/lake/paper_report/report.html", {}, b"x", 405),
        ("/lake/out.txt", {}, None, 404),
        ("/lake/around/x.txt", {}, None, 404),
        ("/lake/.dagster/x.txt", {}, None, 404),
        ("/lake/teacher.sqlite", {}, None, 404),
        ("/lake/../secret.txt", {}, None, 404),
        ("/lake/%2e%2e/secret.txt", {}, None, 404),
        ("/lake/..%2fsecret.txt", {}, None, 404),
        ("/lake//etc/passwd", {}, None, 404),
        ("/lake/paper_report/%00", {}, None, 404),
        ("/report_asset_materialization/flows", {"Origin": "http://other.example"}, b"x", 403),
    ],
)
def test_only_pages_of_the_server_itself_are_answered(
    port: int, path: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    assert ask(port, path, headers, body) == status


def test_a_page_cannot_be_shown_within_another_site(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize("origin", ["http://other.example", "http://127.0.0.1:1", "null"])
def test_a_web_socket_of_another_site_is_refused(port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/graphql", origin=origin, subprotocols=["graphql-ws"])
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("named", [True, False])
def test_a_web_socket_of_its_own_page_is_opened(port: int, named: bool) -> None:
    origin = f"http://127.0.0.1:{port}" if named else None
    with connect(f"ws://127.0.0.1:{port}/graphql", origin=origin, subprotocols=["graphql-ws"]) as opened:
        opened.send('{"type": "connection_init"}')
        assert "connection_ack" in str(opened.recv(timeout=60))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.168.1.7", "localhost.example", "[::1", "my-machine"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_store_of_answers_is_not_shown_whatever_its_name(tmp_path: Path) -> None:
    files = LakeFiles(PlainTextResponse(""), tmp_path)
    for name in ("answers", "mine.sqlite3", "mine.sqlite3-journal", "mine.txt"):
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as store:
            store.execute("CREATE TABLE answers (text)")
        assert files.find(name) is None, name
    (tmp_path / "report.md").write_text("SQLite")
    assert files.find("report.md") == tmp_path / "report.md"


def test_links_of_a_folder_lead_into_it_however_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    files = LakeFiles(PlainTextResponse(""), tmp_path)
    answer = files._response("a folder", Headers({}))
    assert (answer.status_code, answer.headers["location"]) == (307, "/lake/a%20folder/")
    assert files._response("a folder/", Headers({})).status_code == files._response("", Headers({})).status_code == 200


def test_pages_of_the_lake_are_sandboxed_and_their_lists_are_inert(port: int) -> None:
    for name in ("report.html", ""):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/lake/paper_report/{name}", timeout=60) as answer:
            assert "sandbox" in answer.headers["Content-Security-Policy"].split(";")[0]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            body = answer.read().decode()
    assert "<b>" not in body and 'href="%3Cb%3E.json"' in body
