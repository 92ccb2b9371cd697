"""The Batch API on the real embedded server: faults of lines and batches, kills at every step, budget, both ways."""

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.pricing import price_of
from iot_pipeline.teacher.request import Usage
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests

QUICK: dict[str, Any] = {"first_poll_s": 0.05, "poll_s": 0.2, "orphan_grace_s": 0.0}
MIX = {
    "rate_limit": 0.03,
    "server_error": 0.03,
    "truncate": 0.03,
    "refusal": 0.03,
    "wrong_label": 0.03,
    "ungrounded": 0.03,
    "line_missing": 0.05,
    "line_doubled": 0.05,
    "line_garbled": 0.03,
    "batch_failed": 0.1,
    "batch_expired": 0.2,
    "batch_cancelled": 0.2,
    "batch_queue_full": 0.1,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


def teacher(base_url: str, store: Path, limits: dict[str, Any] | None = None, **changes: Any) -> Teacher:
    settings: dict[str, Any] = {
        "source": "paid",
        "paid": True,
        "budget_usd": 100.0,
        "backoff_base_s": 0.02,
        "via": "batch",
        "batch_limits": BatchLimits(**(QUICK | (limits or {}))),
    }
    return Teacher(TeacherConfig(base_url, "sk-secret-key", store, **(settings | changes)))


def fetch_invoice(base_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base_url}/embedded/bill") as response:
        content: dict[str, Any] = json.load(response)
    return content


def invoice_usd(lines: dict[str, Any], model: str = "gpt-4o-mini") -> float:
    price = price_of(model)
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens")
    single, batch = (Usage(*(lines[way][count] for count in counts)) for way in ("requests", "batch"))
    return price.cost(single) + price.cost(batch) / 2


def test_one_batch_at_half_the_price(tmp_path: Path) -> None:
    requests = make_requests(60)
    with embedded_server() as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite")
        answers = asking.ask(requests, checker(requests))
        billed = fetch_invoice(base_url)
    assert {a.status for a in answers.values()} == {"ok"} and set(answers) == {r.key for r in requests}
    assert (asking.summary.batches, asking.summary.attempts) == (1, 60)
    assert billed["batch"]["answers"] == 60 and billed["requests"]["answers"] == 0
    assert asking.summary.usd == pytest.approx(invoice_usd(billed)) and asking.summary.usd > 0
    with Store(tmp_path / "t.sqlite") as store:
        assert store.read("SELECT state, requests FROM batches") == [("read", 60)]
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]
    again = teacher(base_url, tmp_path / "t.sqlite", via="requests")
    again.ask(requests, checker(requests))  # the server is gone: nothing is asked
    assert again.summary.asked == 0


def test_waves_keep_every_limit(url: str, tmp_path: Path) -> None:
    requests = make_requests(50)
    asking = teacher(url, tmp_path / "t.sqlite", {"requests": 8})
    assert len(asking.ask(requests, checker(requests))) == 50
    by_tokens = teacher(url, tmp_path / "u.sqlite", {"tokens": 2000})
    assert len(by_tokens.ask(requests, checker(requests))) == 50
    by_bytes = teacher(url, tmp_path / "v.sqlite", {"bytes": 10_000})
    assert len(by_bytes.ask(requests, checker(requests))) == 50
    with Store(tmp_path / "t.sqlite") as store:
        assert [row[0] for row in store.read("SELECT requests FROM batches")] == [8, 8, 8, 8, 8, 8, 2]
    with Store(tmp_path / "u.sqlite") as store:
        assert max(row[0] for row in store.read("SELECT tokens FROM batches")) <= 2000 and by_tokens.summary.batches > 4
    assert by_bytes.summary.batches > 4


def test_fault_trial_loses_misplaces_and_double_bills_nothing(tmp_path: Path) -> None:
    requests = make_requests(400)
    check = checker(requests)
    with embedded_server(MIX, seed=4) as base_url:  # of the first ten batches each fate befalls one or more
        asking = teacher(base_url, tmp_path / "t.sqlite", {"requests": 40}, max_attempts=20)
        answers = asking.ask(requests, check)
        billed = fetch_invoice(base_url)
    assert set(answers) == {r.key for r in requests}
    good = [r for r in requests if answers[r.key].status == "ok"]
    assert len(good) >= 390 and all(check(r, answers[r.key].text) == [] for r in good)
    assert all(answers[r.key].reasons for r in requests if answers[r.key].status != "ok")
    with Store(tmp_path / "t.sqlite") as store:
        ledger = store.ledger()
    # A result that never came was billed: the batch's own total says how much, so nothing has to be assumed.
    assert ledger["usd"] == pytest.approx(invoice_usd(billed)) and ledger["usd_assumed"] == 0
    assert {
        "line missing in the batch's results",
        "batch expired",
        "batch failed (server_error)",
        "refused",
        "cut off",
    } <= set(ledger["outcomes"])


def test_what_befalls_a_batch_hangs_on_its_number_alone(tmp_path: Path) -> None:
    fates = []
    for count in (40, 41):  # other requests a batch
        with embedded_server({"batch_expired": 0.3, "batch_failed": 0.3}, seed=4) as base_url:
            api = openai.OpenAI(base_url=base_url, api_key="none")
            line = {"method": "POST", "url": "/v1/chat/completions"}
            lines = [json.dumps(line | {"custom_id": r.key, "body": r.body()}) for r in make_requests(count)]
            source = api.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch").id
            fates.append([ended(api, source) for _ in range(8)])
    assert fates[0] == fates[1] and set(fates[0]) == {"completed", "expired", "failed"}


def ended(api: openai.OpenAI, source: str) -> str:
    """The last state of a batch of this file."""
    batch = api.batches.create(input_file_id=source, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("completed", "expired", "failed"):
        time.sleep(0.01)
        batch = api.batches.retrieve(batch.id)
    return batch.status


@pytest.mark.parametrize(
    "moment", ["after planned", "after uploaded", "before sent", "after sent", "reading", "before read"]
)
def test_kill_at_every_step_bills_nothing_twice(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    requests = make_requests(100)
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from iot_pipeline.teacher import batch as module
        from iot_pipeline.teacher.session import Session
        from iot_pipeline.teacher.store.batches import BatchTable
        from iot_pipeline_tests.teacher.flows import checker, make_requests
        from iot_pipeline_tests.teacher.test_batch import teacher
        url, path, moment = sys.argv[1:]
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        moved, plan, save = BatchTable.moved, BatchTable.plan, Session.save
        def planned(self, *arguments):
            batch = plan(self, *arguments)
            moment == "after planned" and die()
            return batch
        def moves(self, batch, state, remote_id=""):
            moment == f"before {state}" and die()
            batch = moved(self, batch, state, remote_id)
            moment == f"after {state}" and die()
            return batch
        def saves(self):
            answers = len(self._finished)
            save(self)
            moment == "reading" and answers and die()
        BatchTable.plan, BatchTable.moved, Session.save = planned, moves, saves
        module.SAVE_EVERY_LINES = 10
        requests = make_requests(100)
        teacher(url, Path(path)).ask(requests, checker(requests))
    """)
    with embedded_server() as base_url:
        killed = subprocess.run([sys.executable, "-c", program, base_url, str(path), moment], cwd=PROJECT_ROOT)
        assert killed.returncode == -signal.SIGKILL
        # Whichever way the next run asks, what was started is read first.
        asking = teacher(base_url, path, via="requests" if moment == "after sent" else "batch")
        answers = asking.ask(requests, checker(requests))
        billed = fetch_invoice(base_url)
    assert {a.status for a in answers.values()} == {"ok"} and len(answers) == 100
    assert billed["repeated"] == 0
    assert billed["batch"]["answers"] == 100 and billed["requests"]["answers"] == 0
    with Store(path) as store:
        assert store.ledger()["usd"] == pytest.approx(invoice_usd(billed))
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


def leave_behind(base_url: str, path: Path) -> None:
    """A batch of make_requests(20), at work at the server, whose client was killed."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from iot_pipeline.teacher.store.batches import BatchTable\n"
        "from iot_pipeline_tests.teacher.flows import checker, make_requests\n"
        "from iot_pipeline_tests.teacher.test_batch import teacher\n"
        "moved = BatchTable.moved\n"
        "def moves(self, batch, state, remote_id=''):\n"
        "    batch = moved(self, batch, state, remote_id)\n"
        "    state == 'sent' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return batch\n"
        "BatchTable.moved = moves\n"
        "requests = make_requests(20)\n"
        "teacher(sys.argv[1], Path(sys.argv[2])).ask(requests, checker(requests))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, base_url, str(path)], cwd=PROJECT_ROOT)
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.parametrize("last", [False, True])
def test_a_batch_left_behind_is_not_sent_again_whenever_its_requests_come_up(last: bool, tmp_path: Path) -> None:
    requests, others = make_requests(20), make_requests(60)[20:]
    order = [*others, *requests] if last else [*requests, *others]
    with embedded_server() as base_url:
        leave_behind(base_url, tmp_path / "t.sqlite")
        # No room for a wave of its own while the other one is open: that one is read before all requests are drawn.
        asking = teacher(base_url, tmp_path / "t.sqlite", {"tokens": 5000})
        answers = asking.ask(order, checker(make_requests(60)))
        billed = fetch_invoice(base_url)
    assert {answers[request.key].status for request in order} == {"ok"}
    assert billed["repeated"] == 0 and billed["batch"]["answers"] == 60
    summary = asking.summary
    assert (summary.requests, summary.cached + summary.asked) == (60, 60)


def test_answers_that_nobody_asks_for_are_kept_and_checked_later(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    requests = make_requests(20)
    with embedded_server({"wrong_label": 0.3}, seed=1) as base_url:
        leave_behind(base_url, path)
        other = make_requests(25)[20:]
        teacher(base_url, path).ask(other, checker(make_requests(25)))
        with Store(path) as store:
            assert store.read("SELECT count(*) FROM answers WHERE reasons = '[\"not checked yet\"]'") == [(20,)]
        before = fetch_invoice(base_url)["batch"]["answers"]
        asking = teacher(base_url, path)
        answers = asking.ask(requests, checker(requests))
        # Only those whose text does not pass are asked again.
        assert 0 < asking.summary.asked < 20
        assert fetch_invoice(base_url)["batch"]["answers"] - before == asking.summary.attempts
    assert {a.status for a in answers.values()} == {"ok"}


def test_budget_holds_for_batches(tmp_path: Path) -> None:
    requests = make_requests(200)
    with embedded_server() as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", budget_usd=0.004)
        with pytest.raises(UserError, match=r"IOT_TEACHER_BUDGET_USD=0\.004"):
            asking.ask(requests, checker(requests))
        billed = fetch_invoice(base_url)
        assert 0.001 < invoice_usd(billed) <= 0.004
        richer = teacher(base_url, tmp_path / "t.sqlite", budget_usd=1.0)
        assert len(richer.ask(requests, checker(requests))) == 200
        assert richer.summary.cached == billed["batch"]["answers"] > 0
        assert fetch_invoice(base_url)["repeated"] == 0


def test_a_batch_that_the_server_forgot_is_asked_again_and_counted_at_its_worst(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    requests = make_requests(5)
    with embedded_server() as base_url:
        teacher(base_url, path).ask(requests[:1], checker(requests))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE batches SET state = 'sent', remote_id = 'batch_gone', until = 0")
        db.execute(
            "INSERT INTO reservations (key, source, model, usd, owner, until, batch) SELECT ?, 'paid', "
            "'gpt-4o-mini', 0.001, owner, 0, id FROM batches",
            (requests[1].key,),
        )
    with embedded_server() as base_url:
        answers = teacher(base_url, path).ask(requests, checker(requests))
    assert {a.status for a in answers.values()} == {"ok"}
    with Store(path) as store:
        assert store.ledger()["usd_assumed"] == pytest.approx(0.001)
        assert store.ledger()["outcomes"]["batch gone at the server"] == 1


def test_a_server_without_batches_is_named(tmp_path: Path) -> None:
    requests = make_requests(2)
    with embedded_server() as base_url:
        asking = teacher(base_url.replace("/v1", "/v2"), tmp_path / "t.sqlite")
        with pytest.raises(UserError, match=r"has no Batch API.*IOT_TEACHER_VIA=requests"):
            asking.ask(requests, checker(requests))
    with Store(tmp_path / "t.sqlite") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]


def test_the_unmodified_client_finds_the_real_api(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    broken = {**line, "custom_id": "b", "body": {"model": "m", "messages": []}}
    content = "\n".join(map(json.dumps, [line, broken])).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.bytes, file.purpose, client.files.content(file.id).read()) == (len(content), "batch", content)
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"who": "test"}
    )
    while batch.status not in ("completed", "failed"):
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.metadata == {"who": "test"}
    assert batch.request_counts is not None and batch.usage is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert batch.output_file_id is not None and batch.error_file_id is not None
    answered = json.loads(client.files.content(batch.output_file_id).read())
    assert answered["custom_id"] == "a" and answered["response"]["status_code"] == 200
    assert answered["response"]["body"]["usage"]["prompt_tokens"] == batch.usage.input_tokens > 0
    refused = json.loads(client.files.content(batch.error_file_id).read())
    assert refused["custom_id"] == "b" and refused["response"]["status_code"] == 400
    assert batch.id in [one.id for one in client.batches.list(limit=1)]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    bad = client.files.create(file=("in.jsonl", b"no json\n" + content), purpose="batch")
    failed = client.batches.create(input_file_id=bad.id, endpoint="/v1/chat/completions", completion_window="24h")
    while failed.status not in ("completed", "failed"):
        failed = client.batches.retrieve(failed.id)
    assert failed.errors is not None and failed.errors.data is not None
    assert [(e.line, e.code) for e in failed.errors.data] == [(1, "invalid_json_line")]
