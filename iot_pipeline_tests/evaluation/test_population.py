"""The population view: rows of trained and other flows counted by hand, and estimates that keep to the ceiling."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.population import describe_population, estimate_population

RECORDS = pd.DataFrame(
    [("a", "Flood", 6), ("a", "Normal", 4), ("b", "Scan", 2), ("c", "Normal", 3), ("c", "Scan", 1), ("d", "Scan", 4)],
    columns=["flow_group", "label", "rows"],
)
# Trained on: of `a` two Normal and one Flood, so that a lookup names the smaller label; and `b`.
ORDER = pd.DataFrame(
    [(0, "a", "Normal"), (1, "b", "Scan"), (2, "a", "Flood"), (3, "a", "Normal"), (4, "d", "Scan")],
    columns=["position", "flow_group", "label"],
)


def files(folder: Path) -> tuple[Path, Path]:
    RECORDS.to_parquet(folder / "records.parquet")
    ORDER.to_parquet(folder / "order.parquet")
    return folder / "records.parquet", folder / "order.parquet"


def test_rows_of_trained_and_other_flows_by_hand(tmp_path: Path) -> None:
    found = describe_population(*files(tmp_path), stop=4)
    assert found == {
        "rows": 20,
        "seen_groups": 2,
        "seen_share": pytest.approx(12 / 20),
        "seen_ceiling": pytest.approx(8 / 12),
        "seen_lookup": pytest.approx(6 / 12),
        "unseen_ceiling": pytest.approx(7 / 8),
        "ceiling": pytest.approx(15 / 20),
    }
    scored = {"accuracy": 0.6, "ceiling": 0.8}
    apart = 0.4 * 0.6
    assert estimate_population(found, scored) == pytest.approx(
        {"low": apart, "estimate": 0.4 * 0.75 + apart, "high": 0.4 + apart}
    )
    known = estimate_population(found, scored, looks_up=True)
    assert known == pytest.approx(dict.fromkeys(("low", "estimate", "high"), 0.3 + apart))


@pytest.mark.parametrize(("stop", "trained"), [(0, ORDER), (5, ORDER.assign(flow_group=list("abcda")))])
def test_none_or_all_flows_trained(tmp_path: Path, stop: int, trained: pd.DataFrame) -> None:
    records, order = files(tmp_path)
    trained.to_parquet(order)
    with pytest.raises(UserError, match="none or on all"):
        describe_population(records, order, stop)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_bounds_are_in_order_and_below_the_ceiling_of_the_table(seed: int, reached: float) -> None:
    share, seen, unseen, test, lookup = np.random.default_rng(seed).uniform(0.1, 0.95, 5)
    population = {"seen_share": share, "seen_ceiling": seen, "seen_lookup": seen * lookup, "unseen_ceiling": unseen}
    ceiling = share * seen + (1 - share) * unseen
    found = estimate_population(population, {"accuracy": reached * test, "ceiling": test})
    assert 0 <= found["low"] <= found["estimate"] <= found["high"] <= ceiling + 1e-12
