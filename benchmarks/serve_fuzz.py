"""Does any request break `iot-pipeline serve`? Requests drawn from its OpenAPI description by schemathesis.

A server of a fake student, so that the time goes into requests: those that fit the description, and those that do not.
An answer with a 5xx, an undescribed status or content type, or after more than 20 s ends the run with an error.

    nice -n 10 python benchmarks/serve_fuzz.py --examples 300
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from result import save
from schemathesis import GenerationMode

from iot_pipeline_tests.serving.fuzz import fuzz
from iot_pipeline_tests.serving.served import fake, served


def main() -> None:
    """Write benchmarks/results/serve_fuzz.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=300, help="requests of each operation, fitting and not")
    examples = parser.parse_args().examples
    started, found = time.monotonic(), {}
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        with served(fake(tokens=1)) as url:
            found[mode.value] = fuzz(url, mode, examples)
    statuses = Counter[str]()
    for answers in found.values():
        for name, number in answers.items():
            statuses[name.rsplit(" ", 1)[1]] += number
    save("serve_fuzz", {
        "requests": sum(statuses.values()), "by_status": dict(sorted(statuses.items())),
        "by_operation": {mode: dict(sorted(answers.items())) for mode, answers in found.items()},
        "seconds": round(time.monotonic() - started, 1),
    })  # fmt: skip


if __name__ == "__main__":
    main()
