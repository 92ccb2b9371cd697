"""The engine against the real embedded server over loopback: cache, faults, budget, kill -9, stop rules."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.errors import UserError
from iot_pipeline.teacher import retry, session
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Answer, Request
from iot_pipeline.teacher.store.database import Location
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.flows import checker, make_requests

MIX = {
    "rate_limit": 0.02,
    "rate_limit_no_header": 0.02,
    "server_error": 0.03,
    "timeout": 0.01,
    "drop": 0.03,
    "unreadable": 0.02,
    "truncate": 0.02,
    "refusal": 0.02,
    "wrong_label": 0.02,
    "ungrounded": 0.01,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as base_url:
        yield base_url


def teacher(base_url: str, store: Path, **changes: object) -> Teacher:
    settings: dict[str, object] = {"source": "embedded", "budget_usd": None, "backoff_base_s": 0.05, "timeout_s": 20}
    return Teacher(TeacherConfig(base_url, "sk-secret-key", store, **(settings | changes)))  # type: ignore[arg-type]


def test_asks_once_and_never_again(url: str, tmp_path: Path) -> None:
    requests = make_requests(50)
    first = teacher(url, tmp_path / "t.sqlite")
    answers = first.ask([*requests, *requests], checker(requests))
    assert len(answers) == 50 and {a.status for a in answers.values()} == {"ok"}
    assert (first.summary.asked, first.summary.attempts, first.summary.usd) == (50, 50, 0.0)
    assert first.summary.completion_tokens > 0 and first.summary.reference_usd > 0
    assert {a.model for a in answers.values()} == {"embedded-analyst"}

    again = teacher(url, tmp_path / "t.sqlite")
    stored = again.ask(list(reversed(requests)), checker(requests))
    assert (again.summary.asked, again.summary.cached) == (0, 50)
    assert {k: a.text for k, a in stored.items()} == {k: a.text for k, a in answers.items()}

    # One more row: one more request.
    more = make_requests(51)
    again.ask(more, checker(more))
    assert again.summary.asked == 1


def test_a_stream_draws_requests_as_they_are_needed_and_hands_out_each_answer_once(url: str, tmp_path: Path) -> None:
    requests = make_requests(3000)
    drawn, open_at_most, taken = 0, 0, Counter[str]()

    def draw() -> Iterator[Request]:
        nonlocal drawn, open_at_most
        for request in [*requests, *requests[:500]]:
            drawn += 1
            open_at_most = max(open_at_most, drawn - taken.total())
            yield request

    def take(answer: Answer) -> None:
        assert answer.status == "ok"
        taken[answer.key] += 1

    streaming = teacher(url, tmp_path / "t.sqlite", concurrency=16)
    streaming.stream(draw(), lambda request, text: [], take)
    assert taken == Counter(request.key for request in requests)
    assert open_at_most < 1500  # one part of 1,000, what is claimed and in flight, and the answers of a few saves
    summary = streaming.summary
    assert (summary.requests, summary.asked, summary.cached, summary.attempts) == (3000, 3000, 0, 3000)

    taken.clear()
    streaming.stream(draw(), lambda request, text: [], take)
    assert taken == Counter(request.key for request in requests) and streaming.summary.attempts == 0


def test_who_cannot_take_an_answer_stops_the_stream_and_finds_it_stored(url: str, tmp_path: Path) -> None:
    def take(answer: Answer) -> None:
        raise ValueError("no room for an answer")

    requests = make_requests(3000)
    streaming = teacher(url, tmp_path / "t.sqlite", concurrency=4)
    with pytest.raises(ValueError, match="no room for an answer"):
        streaming.stream(iter(requests), lambda request, text: [], take)
    assert 0 < streaming.summary.attempts < 3000
    with Store(tmp_path / "t.sqlite") as store:
        assert len(list(store.lookup([r.key for r in requests], "embedded"))) == streaming.summary.attempts


def test_answers_of_one_source_are_never_given_out_for_another(url: str, tmp_path: Path) -> None:
    requests = make_requests(2)
    teacher(url, tmp_path / "t.sqlite").ask(requests, checker(requests))
    other = teacher(url, tmp_path / "t.sqlite", source="somewhere.else")
    other.ask(requests, checker(requests))
    assert other.summary.asked == 2


def test_fault_trial_loses_and_misplaces_nothing(tmp_path: Path) -> None:
    requests = make_requests(300)
    check = checker(requests)
    with embedded_server(MIX, seed=7) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", timeout_s=0.7)
        answers = asking.ask(requests, check)
    assert set(answers) == {r.key for r in requests}
    good = [n for n, r in enumerate(requests) if answers[r.key].status == "ok"]
    assert len(good) >= 295
    # No two flows share a value, so an answer that went to another request would not pass.
    assert all(check(requests[n], answers[requests[n].key].text) == [] for n in good)
    assert all(answers[r.key].reasons for r in requests if answers[r.key].status != "ok")
    assert asking.summary.attempts > 330
    with Store(tmp_path / "t.sqlite") as store:
        assert store.ledger()["attempts"] == asking.summary.attempts == sum(line[0] for line in store.taken().values())
        assert store.read("SELECT count(*) FROM answers WHERE status = 'quarantined'") == [(300 - len(good),)]


def test_bad_answers_are_quarantined_with_text_and_taken_back_by_a_better_check(tmp_path: Path) -> None:
    requests = make_requests(4)
    with embedded_server({"wrong_label": 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite")
        answers = asking.ask(requests, checker(requests))
        assert {a.status for a in answers.values()} == {"quarantined"}
        assert all(a.reasons[0].startswith("mislabelled") and a.attempts == 3 for a in answers.values())
        assert asking.summary.quarantined == {"mislabelled": 4}
        # A more lenient check takes them back: no request is sent.
        lenient = asking.ask(requests, lambda request, text: [])
        assert {a.status for a in lenient.values()} == {"ok"} and asking.summary.asked == 0


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        ("truncate", "cut off", 2),
        ("refusal", "refused", 3),
        ("server_error", "no answer: server error 500", 2),
        ("drop", "no answer: connection dropped", 2),
        ("drop_early", "no answer: connection dropped", 2),
    ],
)
def test_limits_of_each_kind_of_failure(fault: str, reason: str, attempts: int, tmp_path: Path) -> None:
    requests = make_requests(2)
    with embedded_server({fault: 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", max_attempts=2)
        answers = asking.ask(requests, checker(requests))
    assert [a.attempts for a in answers.values()] == [attempts] * 2
    assert all(a.reasons[0].startswith(reason) for a in answers.values())


def test_no_answer_is_asked_again_next_time(url: str, tmp_path: Path) -> None:
    requests = make_requests(2)
    with embedded_server({"server_error": 1.0}) as base_url:
        teacher(base_url, tmp_path / "t.sqlite", max_attempts=1).ask(requests, checker(requests))
    asking = teacher(url, tmp_path / "t.sqlite")
    assert {a.status for a in asking.ask(requests, checker(requests)).values()} == {"ok"}
    assert asking.summary.asked == 2


def test_budget_is_never_passed_and_nothing_is_lost(url: str, tmp_path: Path) -> None:
    requests = make_requests(200)
    path = tmp_path / "t.sqlite"
    asking = teacher(url, path, source="paid", paid=True, budget_usd=0.01)
    with pytest.raises(UserError, match=r"IOT_TEACHER_BUDGET_USD=0\.01"):
        asking.ask(requests, checker(requests))
    with Store(path) as store:
        ledger = store.ledger()
        assert 0.005 < ledger["usd"] <= 0.01
        assert ledger["usd"] == pytest.approx(store.spent_usd())
    richer = teacher(url, path, source="paid", paid=True, budget_usd=1.0)
    assert len(richer.ask(requests, checker(requests))) == 200
    assert richer.summary.cached == asking.summary.ok > 0


def test_what_breaks_in_the_middle_leaves_no_money_set_aside(url: str, tmp_path: Path) -> None:
    requests, seen = make_requests(300), []

    def breaks(request: Request, text: str) -> list[str]:
        seen.append(request.key)
        if len(seen) == 70:
            raise RuntimeError("a bug in a check")
        return []

    asking = teacher(url, tmp_path / "t.sqlite", source="paid", paid=True, budget_usd=1.0)
    with pytest.raises(RuntimeError, match="a bug in a check"):
        asking.ask(requests, breaks)
    with Store(tmp_path / "t.sqlite") as store:
        assert store.read("SELECT count(*) FROM reservations") == [(0,)]
        assert store.ledger()["attempts"] == asking.summary.attempts >= 70
        assert len(list(store.lookup(seen, "paid"))) == len(seen) - 1


def test_a_paid_model_without_price_is_refused_before_anything_is_sent(url: str, tmp_path: Path) -> None:
    asking = teacher(url, tmp_path / "t.sqlite", source="paid", paid=True, budget_usd=1.0)
    with pytest.raises(UserError, match=r"no price is known for the model 'gpt-9'"):
        asking.ask(make_requests(1, model="gpt-9"), lambda request, text: [])
    assert asking.summary.attempts == 0


def test_refused_key_stops_at_once_and_is_not_repeated(tmp_path: Path) -> None:
    requests = make_requests(30)
    with embedded_server({"unauthorised": 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", concurrency=4)
        with pytest.raises(UserError, match="refused the key") as caught:
            asking.ask(requests, checker(requests))
    assert asking.summary.attempts <= 4
    assert "sk-secret" not in str(caught.value) and "sk-secret" not in repr(asking)
    assert all(b"sk-secret" not in f.read_bytes() for f in tmp_path.iterdir())


def test_circuit_breaker(tmp_path: Path) -> None:
    requests = make_requests(400)
    with embedded_server({"refusal": 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", concurrency=8)
        with pytest.raises(UserError, match=r"most requests to the teacher .* fail.*refused"):
            asking.ask(requests, checker(requests))
    assert asking.summary.attempts < 200


def test_requests_that_are_only_ever_refused_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FRUITLESS_S", 0.3)
    requests = make_requests(8)
    with embedded_server({"rate_limit_no_header": 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", backoff_base_s=0.01)
        with pytest.raises(UserError, match=r"most requests to the teacher .* fail.*rate limited.*, and no answer for"):
            asking.ask(requests, checker(requests))
    assert 20 <= asking.summary.attempts < 800 and asking.summary.ok == 0


def test_progress_names_the_failure_while_no_answer_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FRUITLESS_S", 0.8)
    monkeypatch.setattr(session, "PROGRESS_EVERY_S", 0.2)
    lines: list[str] = []
    requests = make_requests(8)
    with embedded_server({"rate_limit_no_header": 1.0}) as base_url:
        asking = teacher(base_url, tmp_path / "t.sqlite", backoff_base_s=0.01, log=lines.append)
        with pytest.raises(UserError, match="rate limited"):
            asking.ask(requests, checker(requests))
    assert any("0 of 8 done" in line and ", no answer: rate limited" in line for line in lines), lines


def test_no_server(tmp_path: Path) -> None:
    requests = make_requests(3)
    asking = teacher("http://127.0.0.1:9/v1", tmp_path / "t.sqlite", max_attempts=2)
    answers = asking.ask(requests, checker(requests))
    (reason,) = {a.reasons[0] for a in answers.values()}
    assert reason.startswith("no answer: no connection: Cannot connect to host 127.0.0.1:9 ")


def test_a_check_is_not_put_twice_to_an_answer_it_has_judged(url: str, tmp_path: Path) -> None:
    requests = make_requests(5)

    class TokenCounter:
        def __init__(self, version: str, says: list[str]) -> None:
            self.version, self.says, self.calls = version, says, 0

        def __call__(self, request: Request, text: str) -> list[str]:
            self.calls += 1
            return self.says

    asking = teacher(url, tmp_path / "t.sqlite")
    first, same = TokenCounter("1", []), TokenCounter("1", ["never called"])
    assert {a.status for a in asking.ask(requests, first).values()} == {"ok"} and first.calls == 5
    assert {a.status for a in asking.ask(requests, same).values()} == {"ok"} and same.calls == 0
    stricter, again = TokenCounter("2", ["too short"]), TokenCounter("2", [])
    assert {a.reasons for a in asking.ask(requests, stricter).values()} == {("too short",)} and stricter.calls == 5
    assert {a.status for a in asking.ask(requests, again).values()} == {"quarantined"} and again.calls == 0
    assert asking.summary.asked == 0


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_answered(url: str, tmp_path: Path) -> None:
    requests = make_requests(40)
    path = tmp_path / "t.sqlite"
    teacher(url, path).ask(requests[:20], checker(requests))
    with sqlite3.connect(path) as full:
        pages = full.execute("PRAGMA page_count").fetchone()[0]
    real = Store.__init__

    def small(self: Store, where: Location) -> None:
        real(self, where)
        self.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    Store.__init__ = small  # type: ignore[method-assign]
    try:
        with pytest.raises(UserError, match=r"store .* cannot be written: database or disk is full"):
            teacher(url, path).ask([*requests, *make_requests(4000)[40:]], checker(make_requests(4000)))
    finally:
        Store.__init__ = real  # type: ignore[method-assign]
    again = teacher(url, path)
    again.ask(requests[:20], checker(requests))
    assert again.summary.asked == 0
