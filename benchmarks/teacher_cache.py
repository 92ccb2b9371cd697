"""How fast is a pass over requests that are all answered already, and what memory does it take?

    .venv/bin/python benchmarks/teacher_cache.py --requests 300000

A store is filled with made-up answers, then asked for all of them: with a check that knows its version (what the
tracks do: a verdict that is stored is not worked out again) and, on a part, with one that does not.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Answer, Request
from iot_pipeline.teacher.store.store import Store

FLOW = "\n".join(f"feature_{place}: {place}.125" for place in range(29))
TEXT = (
    "CLASSIFICATION: Normal\nANALYSIS: It has feature_1 of 1.125 and feature_2 of 2.125, and feature_3 of 3.125.\n"
    "KEY_INDICATORS: feature_1 1.125; feature_2 2.125; feature_3 3.125"
)
UNVERSIONED_SHARE = 30


class Check:
    """The real rules on one flow; with a version, or without."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __call__(self, request: Request, text: str) -> list[str]:
        return check_answer(text, FLOW, "Normal", ["Normal", "TCP_Flood"], frozenset())


def main() -> None:
    """Fill, ask, write benchmarks/results/teacher_cache.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "t.sqlite"
        requests = [ask_for(number) for number in range(chosen.requests)]
        check = Check("1")
        if reasons := check(requests[0], TEXT):
            raise SystemExit(f"the made-up answer is not good: {reasons}")
        with Store(store) as filled:
            filled.save([], [answer(request) for request in requests])
        before = peak_gib()
        versioned = timed(store, requests, check)
        part = requests[::UNVERSIONED_SHARE]
        plain = timed(store, part, Check(""))
    save(
        "teacher_cache",
        {
            "question": "rows a second of a pass over answered requests",
            "requests": chosen.requests,
            "rows_per_second": {"stored_verdicts": versioned, "judged_anew": plain},
            "times_faster": round(versioned / plain, 1),
            "peak_gib": {"requests_made": before, "after": peak_gib()},
        },
    )


def ask_for(number: int) -> Request:
    """A request of its own."""
    messages = ({"role": "user", "content": f"{number}\n{FLOW}"},)
    return Request("gpt-4o-mini", messages, {"temperature": 0.7, "max_tokens": 512, "seed": 1}, "1")


def answer(request: Request) -> Answer:
    """Its stored answer, judged good by version 1."""
    return Answer(request.key, "ok", TEXT, "stop", "embedded-analyst", "embedded", checked="1")


def timed(store: Path, requests: list[Request], check: Callable[..., Any]) -> float:
    """Rows a second of one pass."""
    asking = Teacher(TeacherConfig("http://127.0.0.1:9/v1", "none", store, "embedded", None))
    fresh = [Request(r.model, r.messages, r.params, r.schema_version) for r in requests]  # keys are worked out again
    started = time.perf_counter()
    asking.ask(fresh, check)
    seconds = time.perf_counter() - started
    if asking.summary.cached != len(requests):
        raise SystemExit("not everything was there")
    return round(len(requests) / seconds, 1)


def peak_gib() -> float:
    """Most memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


if __name__ == "__main__":
    main()
