"""Keys and passwords appear nowhere, whatever a server does: not in logs, errors, store, manifests or JSON."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import traceback
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError
from iot_pipeline.teacher import retry
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.redaction import RedactingFilter, code_of, redact_in_logs
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.loopback import Handler, listening
from iot_pipeline_tests.teacher.flows import checker, make_requests
from iot_pipeline_tests.teacher.test_batch import teacher

KEY, PASSWORD = "sk-proj-D15T1NCT1VE0KEY0xyz", "pa55D15T1NCT1VEword"
# Also as headers and logs would carry them.
SECRETS = [
    secret.encode() for secret in (KEY, PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode(), "D15T1NCT1VE")
]
MODES = ["401", "403", "404", "400", "400 code", "429 code", "500", "502", "no JSON", "headers", "drop"]


class Echo(Handler):
    """Answers every request by an error of one mode that repeats the Authorization header."""

    mode = "500"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        said = self.headers.get("authorization", "").removeprefix("Bearer ").removeprefix("Basic ")
        if self.mode == "drop":
            self.connection.close()
            return
        status = 200 if self.mode == "no JSON" else int(self.mode.split()[0]) if self.mode[0].isdigit() else 500
        code = said if self.mode.endswith("code") else "some_code"
        error = {"message": f"Incorrect API key provided: {said}", "type": said, "param": said, "code": code}
        body = f"your key is {said}".encode() if self.mode == "no JSON" else json.dumps({"error": error}).encode()
        self.send_response(status, said if self.mode == "headers" else None)
        for name in ("x-request-id", "x-ratelimit-limit-requests", "www-authenticate", "set-cookie"):
            self.send_header(name, said)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST


def echoing(mode: str) -> AbstractContextManager[str]:
    """host:port of a server in one mode."""
    return listening(type("Mode", (Echo,), {"mode": mode}))


def found_in(content: bytes) -> list[bytes]:
    return [secret for secret in SECRETS if secret in content]


def files_with_secrets(folder: Path) -> dict[str, list[bytes]]:
    """Every file under a folder that holds one, databases and their logs included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path): found for path in files if (found := found_in(path.read_bytes()))}


@pytest.mark.parametrize("via", ["requests", "batch"])
@pytest.mark.parametrize("mode", MODES)
def test_the_engine_tells_no_key(
    mode: str, via: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setattr(retry, "RATE_LIMIT_ATTEMPTS", 2)
    requests, told, asking = make_requests(3), list[str](), list[Teacher]()
    with echoing(mode) as host:
        for url in (f"http://{host}/v1", f"http://me:{PASSWORD}@{host}/v1"):
            asking.append(teacher(url, tmp_path / "t.sqlite", via=via, max_attempts=1, log=told.append))
            asking[-1].config.api_key = KEY
            try:
                answers = asking[-1].ask(requests, checker(requests))
                told.append(repr(answers))
            except UserError as error:
                told += [str(error), repr(error), *traceback.format_exception(error)]
            told += [repr(asking[-1]), json.dumps(asking[-1].summary.to_json())]
    assert asking[0].summary.attempts or any("Error" in line for line in told)
    logged = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    if via == "batch":  # the official client's own log is on
        assert "openai" in {record.name.split(".")[0] for record in caplog.records}
    assert [line for line in [*logged.splitlines(), *told] if found_in(line.encode())] == []
    assert files_with_secrets(tmp_path) == {}


def test_a_gateway_that_answers_batches_with_a_page_is_one_error(tmp_path: Path) -> None:
    requests = make_requests(3)
    with echoing("no JSON") as host:
        asking = teacher(f"http://{host}/v1", tmp_path / "t.sqlite", max_attempts=2)
        with pytest.raises(UserError, match="did not answer 2 times in a row"):
            asking.ask(requests, checker(requests))
    with Store(tmp_path / "t.sqlite") as store:
        assert store.spent_usd() == 0 and store.read("SELECT count(*) FROM reservations") == [(0,)]


def test_only_what_is_worded_as_a_code_is_repeated() -> None:
    codes = ["context_length_exceeded", "rate_limit"]
    assert [code_of(said) for said in codes] == codes
    assert {code_of(said) for said in (KEY, KEY.lower(), "a b", "", None, 7)} == {""}


def test_logs_say_hidden_in_place_of_a_secret_and_all_else_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    redact_in_logs(KEY, "none", "embedded", "")
    log = logging.getLogger("openai")
    caplog.set_level(logging.DEBUG)
    log.debug("sent %s to %s, none embedded", KEY, "there")
    try:
        raise ValueError(KEY)
    except ValueError:
        log.exception("failed")
    assert caplog.messages == ["sent [hidden] to there, none embedded", "failed"]
    assert "ValueError: [hidden]" in caplog.text and KEY not in caplog.text


def test_a_run_tells_no_key(tmp_path: Path) -> None:
    """Standard output, standard error, and every file of the lake: store, manifests, Dagster's events and logs."""
    with echoing("400 code") as host:
        environment = os.environ | {
            "IOT_LAKE": str(tmp_path / "lake"),
            "IOT_ROWS": "300",
            "IOT_TEACHER": f"http://{host}/v1",
            "IOT_TEACHER_PAID": "yes",
            "OPENAI_API_KEY": KEY,
            "OPENAI_LOG": "debug",
            "PYTHONASYNCIODEBUG": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "iot_pipeline", "run", "--until", "original", "--json"],
            env=environment,
            cwd=PROJECT_ROOT,
            capture_output=True,
            timeout=120,
        )
    said = done.stdout + done.stderr
    assert done.returncode == 1, done.stderr[-2000:]
    assert b"most requests to the teacher" in said
    assert (tmp_path / "lake" / "teacher.sqlite").is_file()
    assert found_in(said) == [] and files_with_secrets(tmp_path) == {}


def test_a_secret_that_another_one_begins_with_is_hidden_whole() -> None:
    """Whatever the order of a set is: the password of a URL and a token made of it, for one."""
    for number in range(20):
        hide, short = RedactingFilter(), f"pass{number}"
        hide.add({short, f"{short}-and-its-end", f"{short}-and-its-end-and-more"})
        assert hide.without(f"said {short}-and-its-end-and-more, {short}") == "said [hidden], [hidden]"
