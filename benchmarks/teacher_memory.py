"""Does the memory of the engine's process grow with the number of requests?

    .venv/bin/python benchmarks/teacher_memory.py --few 5000 --cached 300000 --fresh 300000

Each pass is a process of its own that draws its requests one after the other and only counts the answers: a few and
many that are answered already, a few and many that the embedded server (another process) answers, by concurrent
requests and by the Batch API.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from result import save
from teacher_cache import Check, answer, ask_for

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig, Via
from iot_pipeline.teacher.request import Request
from iot_pipeline.teacher.store.store import Store

BUDGET_USD = 1000.0
FILL = 10_000


def main() -> None:
    """Write benchmarks/results/teacher_memory.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=5000)
    parser.add_argument("--cached", type=int, default=300_000, help="many that are answered")
    parser.add_argument("--fresh", type=int, default=300_000, help="many that are asked")
    parser.add_argument("--print-only", action="store_true", help="write no result")
    parser.add_argument("--one", nargs=4, metavar=("COUNT", "STORE", "URL", "VIA"), help="one pass, started from here")
    chosen = parser.parse_args()
    if chosen.one:
        count, store, server, way = chosen.one
        print(json.dumps(one_pass(int(count), Path(store), server, "batch" if way == "batch" else "requests")))
        return
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url:
        filled = Path(folder) / "filled.sqlite"
        with Store(filled) as store:
            for start in range(0, chosen.cached, FILL):
                store.save([], [answer(ask_for(n)) for n in range(start, min(start + FILL, chosen.cached))])
        passes = {
            "cached": {count: in_a_process(count, filled, url) for count in (chosen.few, chosen.cached)},
            **{
                name: {
                    count: in_a_process(count, Path(folder) / f"{name}-{count}.sqlite", url, via)
                    for count in (chosen.few, chosen.fresh)
                }
                for name, via in (("fresh", "requests"), ("batch", "batch"))
            },
        }
    if any(one["asked"] for one in passes["cached"].values()):
        raise SystemExit("not everything was there")
    result = {"question": "memory of the engine's process by the number of requests, MiB at most", "passes": passes}
    save("teacher_memory", result, print_only=chosen.print_only)


def in_a_process(count: int, store: Path, url: str, via: str = "requests") -> dict[str, Any]:
    """What `one_pass` says of itself."""
    command = [sys.executable, __file__, "--one", str(count), str(store), url, via]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one_pass(count: int, store: Path, url: str, via: Via) -> dict[str, Any]:
    """Draw, ask, count; peak memory in MiB before and after."""
    taken: list[int] = [0]

    def take(answer: object) -> None:
        taken[0] += 1

    def drawn() -> Iterator[Request]:
        yield from map(ask_for, range(count))

    # As a paid server: money is set aside for each request. Its texts are about no flow, so the check takes them all.
    asking = Teacher(TeacherConfig(url, "none", store, "embedded", BUDGET_USD, paid=True, via=via))
    check = Check("1") if store.name == "filled.sqlite" else accept
    before, started = peak_mib(), time.perf_counter()
    asking.stream(drawn(), check, take)
    seconds = time.perf_counter() - started
    if taken[0] != count:
        raise SystemExit(f"{taken[0]} of {count} answers came")
    return {
        "before_mib": before, "peak_mib": peak_mib(), "asked": asking.summary.asked,
        "requests_per_second": round(count / seconds, 1),
    }  # fmt: skip


def accept(request: Request, text: str) -> list[str]:
    """No reason against any text."""
    return []


def peak_mib() -> float:
    """Most memory of this program so far. Not getrusage's figure, which begins with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kib) / 1024, 1)


if __name__ == "__main__":
    main()
