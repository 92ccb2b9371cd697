"""How long does one small artefact take, from the click on Materialize in an open UI to the end of its run?

    .venv/bin/python benchmarks/ui_click.py --lake data_lake/farm_flow-demo --asset dataset_mismatch

It sends what the page sends, to a UI of its own on a lake in which the asset's inputs are made. Beside the whole it
tells the seconds until the run started (queue, start of a process) and of the run.
"""

import argparse
import statistics
import time
from pathlib import Path

from dagster_graphql import DagsterGraphQLClient
from dagster_ui import launch, opened, until
from result import save

STATE = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status startTime endTime } } }"


def main() -> None:
    """Click several times, write benchmarks/results/ui_click.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--asset", default="dataset_mismatch", help="one without partitions")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with opened(options.lake.absolute()) as client:
        times = [click(client, options.asset) for _ in range(options.times + 1)][1:]  # the first one waits for the UI
    medians = {name: statistics.median(one[name] for one in times) for name in times[0]}
    save("ui_click", {"question": "seconds from a click to the end", "asset": options.asset, **medians, "times": times})


def click(client: DagsterGraphQLClient, asset: str) -> dict[str, float]:
    """Materialise an asset and wait for the end of its run; the seconds of each part."""
    begin = time.time()
    launched = launch(client, asset)
    run = until(lambda: _ended(client, launched))
    if run["status"] != "SUCCESS":
        raise SystemExit(f"run {launched} of {asset} ended with {run['status']}")
    return {
        "seconds": round(run["endTime"] - begin, 2),
        "until_start": round(run["startTime"] - begin, 2),
        "run": round(run["endTime"] - run["startTime"], 2),
    }


def _ended(client: DagsterGraphQLClient, run_id: str) -> dict[str, object] | None:
    run = client._execute(STATE, {"id": run_id})["runOrError"]
    return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None


if __name__ == "__main__":
    main()
