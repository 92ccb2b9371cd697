"""What becomes of 10,000 requests when 20 % go wrong and the client is killed 20 times, by requests and by batches?

    .venv/bin/python benchmarks/teacher_faults.py --requests 10000 --kills 20

Writes benchmarks/results/teacher_faults.json; ends with an error where anything is lost, misplaced, billed twice
(beyond what was in flight at a kill) or billed without being in the ledger.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from result import save

from iot_pipeline_tests.teacher.trial import failures, trial


def main() -> None:
    """Run both ways, save, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2027)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            via: trial(chosen.requests, chosen.kills, via, chosen.seed, Path(folder)) for via in ("requests", "batch")
        }
    found = {via: failures(result) for via, result in results.items()}
    question = "what faults and kills cost"
    save("teacher_faults", {"question": question, "seed": chosen.seed, "failures": found, **results})
    if any(found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
