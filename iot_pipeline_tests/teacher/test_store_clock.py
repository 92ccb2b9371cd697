"""A machine whose clock is set, or that sleeps, keeps to the time of the store's server."""

import time
from collections.abc import Iterator

import pytest

from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.teacher.postgres import cluster


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with cluster() as make:
        yield make()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_while_answers_come_takes_no_claim_and_loses_none(
    hours: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, key = time.time, f"k{hours}"
    with Store(place) as steady, Store(place) as changed:
        assert steady.claim([key], "s") == {key}
        assert changed.claim(["mine", key], "s") == {"mine"}
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert changed.claim([key], "s") == set()  # an hour later it would have expired
        changed.renew()
        monkeypatch.undo()
        assert steady.claim(["mine"], "s") == set()  # an hour ago it would have been renewed in vain
