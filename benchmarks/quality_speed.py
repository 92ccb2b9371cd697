"""How fast are the counts of quality and splits, and how much faster than the straightforward pandas way?

    python benchmarks/quality_speed.py [--rows 347685]

On one simulated Farm-Flow table, in one run: every function of the groups quality and splits with its seconds and
the peak memory of the process (bars: 10 s and 1.5 GiB together), then the duplicate, conflict and leakage counts
against `duplicated`, `apply(tuple, axis=1)` and sets (bar: 15 times). Both ways start from the same Parquet files,
and the run stops if counts differ. Like is set beside like: every count by itself in both ways. The plain way knows
flows as tuples of values; two further figures give it one column of tuples for all counts, or the flow groups that
`build_flows` has made already.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result import save

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.split import order_training, split_by_group
from iot_pipeline.flows.texts import fit_ranks
from iot_pipeline.quality.conflicts import label_conflicts
from iot_pipeline.quality.duplicates import dedup_report
from iot_pipeline.quality.leakage import leakage_report
from iot_pipeline.quality.mismatch import dataset_mismatch
from iot_pipeline.quality.patterns import attack_patterns
from iot_pipeline.quality.profile import flow_profile
from iot_pipeline.quality.samples import sample_comparison
from iot_pipeline.simulator.simulate import simulate_farm_flow

SEED = 42
ROW_WISE = "row_wise_test_prompts_trained_on_percent"
WAYS = ("own_tuples", "tuples", "flow_groups")


def main() -> None:
    """Write benchmarks/results/quality_speed.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=347_685)
    rows = parser.parse_args().rows
    spec, load = load_spec("farm_flow"), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, simulated = timed(lambda: simulate_farm_flow(folder / "raw.parquet", rows, SEED))
        _, built = timed(lambda: build_flows(spec, folder / "raw.parquet", folder / "flows.parquet"))
        before = peak_gib()
        seconds = measure_all(folder, spec)
        peak = peak_gib()
        ours, fast = timed(lambda: count(folder, spec))
        plain = {way: timed(partial(count_plainly, folder, spec, way)) for way in WAYS}
    # Exact values repeat less often than printed prompts: this one count is another question without flow groups.
    exact_share = plain["tuples"][0][ROW_WISE]
    expected = {way: ours | ({} if way == "flow_groups" else {ROW_WISE: exact_share}) for way in WAYS}
    if any(found != expected[way] for way, (found, _) in plain.items()):
        raise SystemExit(f"the ways disagree: {ours}, {plain}")
    save("quality_speed", {
        "question": "seconds and memory of quality and splits; the counts against the straightforward pandas way",
        "rows": rows,
        "load_before": load,
        "simulate_seconds": simulated,
        "build_flows_seconds": built,
        "seconds": seconds,
        "quality_and_splits_seconds": round(sum(seconds.values()), 2),
        "peak_gib": {"after_building_flows": before, "after_quality_and_splits": peak},
        "counts": ours,
        "row_wise_test_values_trained_on_percent": exact_share,
        "counts_seconds": {
            "each_report_alone": fast,
            "pandas": {way: slow for way, (_, slow) in plain.items()},
        },
        "times_faster": {
            # Like with like is the first: every count by itself on both sides. The others spare pandas some groupings.
            "each_count_by_itself": round(plain["own_tuples"][1] / fast, 1),
            "pandas_given_one_column_of_tuples": round(plain["tuples"][1] / fast, 1),
            "pandas_given_flow_groups": round(plain["flow_groups"][1] / fast, 1),
        },
    })  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, round(time.perf_counter() - started, 2)


def peak_gib() -> float:
    """Peak resident memory of this process so far, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def measure_all(folder: Path, spec: DatasetSpec) -> dict[str, float]:
    """Seconds of every function behind the assets of quality and splits; leaves records.parquet in `folder`."""
    flows, records = folder / "flows.parquet", folder / "records.parquet"
    calls: dict[str, Callable[[], Any]] = {
        "evaluation_split": lambda: split_by_group(flows, records, SEED),
        "fit_ranks": lambda: fit_ranks(spec, flows, records),
        "training_order": lambda: order_training(flows, records, folder / "order.parquet", SEED),
        "dedup_report": lambda: dedup_report(flows, spec),
        "label_conflicts": lambda: label_conflicts(flows, spec),
        "dataset_mismatch": lambda: dataset_mismatch(flows, spec),
        "flow_profile": lambda: flow_profile(flows, spec),
        "attack_patterns": lambda: attack_patterns(flows, records, spec, SEED),
        "sample_comparison": lambda: sample_comparison(flows, spec, SEED),
        "leakage_report": lambda: leakage_report(flows, records, spec, SEED),
    }
    return {name: timed(call)[1] for name, call in calls.items()}


def count(folder: Path, spec: DatasetSpec) -> dict[str, float]:
    """Count by the functions behind the assets."""
    flows, records = folder / "flows.parquet", folder / "records.parquet"
    duplicates, conflicts = dedup_report(flows, spec), label_conflicts(flows, spec)
    leakage = leakage_report(flows, records, spec, SEED, with_model=False)
    return {
        "duplicate_rows": duplicates["raw"]["duplicate_rows"],
        "duplicate_rows_within_classes": sum(
            facts["rows"] - facts["distinct_raw"] for facts in duplicates["by_class"].values()
        ),
        "conflicting_flows": conflicts["raw"]["conflicting_groups"],
        "rows_right_at_best": conflicts["raw"]["rows"] - conflicts["raw"]["unavoidable_errors"],
        "groups_shared_by_our_sides": leakage["leak_free"]["shared_groups"],
        # Which rows a row-wise split draws differs between the two ways; the share agrees to a point.
        ROW_WISE: round(100 * leakage["row_wise"]["shared_test_share"]),
    }


def count_plainly(folder: Path, spec: DatasetSpec, leakage_by: str) -> dict[str, float]:
    """The same counts as notebooks make them. Leakage compares sets of what `leakage_by` says: `own_tuples`, `tuples`
    (those that the conflicts were counted by), or `flow_groups` (as made here)."""
    flows = pd.read_parquet(folder / "flows.parquet")
    names = spec.feature_names
    duplicates = int(flows.duplicated(subset=names).sum())
    within = sum(int(rows.duplicated(subset=names).sum()) for _, rows in flows.groupby("label"))

    flows["key"] = flows[names].apply(tuple, axis=1)
    labels = flows.groupby("key")["label"].agg(list)
    conflicting = labels.apply(lambda found: len(set(found)) > 1)
    best = labels.apply(lambda found: max(found.count(name) for name in set(found)))

    records = pd.read_parquet(folder / "records.parquet")
    side = dict(zip(records["flow_group"], records["side"], strict=True))
    sides = flows["flow_group"].map(side)
    in_test = np.random.default_rng(SEED).permutation(len(flows)) < 0.2 * len(flows)

    def prompts(chosen: Any) -> pd.Series:
        if leakage_by == "own_tuples":
            return flows.loc[chosen, names].apply(tuple, axis=1)
        return flows.loc[chosen, "key" if leakage_by == "tuples" else "flow_group"]

    trained, tested = set(prompts(sides == "train")), set(prompts(sides == "test"))
    row_wise = set(prompts(~in_test))
    shared = prompts(in_test).apply(row_wise.__contains__)
    return {
        "duplicate_rows": duplicates,
        "duplicate_rows_within_classes": within,
        "conflicting_flows": int(conflicting.sum()),
        "rows_right_at_best": int(best.sum()),
        "groups_shared_by_our_sides": len(trained & tested),
        ROW_WISE: round(100 * shared.mean()),
    }


if __name__ == "__main__":
    main()
