"""What becomes of 10,000 requests when 20 % go wrong and the client is killed 20 times, by requests and by batches?

    .venv/bin/python benchmarks/teacher_faults.py --requests 10000 --kills 20

With --database postgresql the store is in a throw-away server. Writes benchmarks/results/teacher_faults.json
(teacher_faults_postgresql.json); ends with an error where anything is lost, misplaced, billed twice (beyond what was
in flight at a kill) or billed without being in the ledger.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from result import save

from iot_pipeline_tests.teacher.fault_trial import failures, trial
from iot_pipeline_tests.teacher.postgres import cluster

SERVERS = {"postgresql": cluster}


def main() -> None:
    """Run both ways, save, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--database", choices=["sqlite", *SERVERS], default="sqlite")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if chosen.database in SERVERS:
            new = stack.enter_context(SERVERS[chosen.database]())
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        results = {}
        for via in ("requests", "batch"):
            store = new() if chosen.database in SERVERS else str(Path(folder) / f"{via}.sqlite")
            results[via] = trial(chosen.requests, chosen.kills, via, chosen.seed, store)
    found = {via: failures(result) for via, result in results.items()}
    question = "what faults and kills cost"
    name = f"teacher_faults_{chosen.database}" if chosen.database in SERVERS else "teacher_faults"
    save(name, {"question": question, "seed": chosen.seed, "failures": found, **results})
    if any(found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
