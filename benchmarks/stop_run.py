"""What becomes of SIGINT and SIGTERM at random moments of `iot-pipeline run`?

    .venv/bin/python benchmarks/stop_run.py --lake /tmp/lake --signals 30

Each start goes on from where the one before was stopped; what is finished is made again with --force where nothing is
left. Counted: exit code 130 and the sentence within 10 s (stopped), an exit by the signal itself before Python runs our
first line (too early), another exit code (a failure), and no end within 10 s (ignored).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from result import save

from iot_pipeline.__main__ import STOPPED

MOST_SECONDS = 10.0


def main() -> None:
    """Start, signal, count, write benchmarks/results/stop_run.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True, help="a folder for the trial")
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--until", default="paper_report")
    parser.add_argument(
        "--between",
        type=float,
        nargs=2,
        default=(0.1, 60.0),
        metavar=("LOW", "HIGH"),
        help="seconds from start to signal, drawn evenly",
    )
    parser.add_argument("--module", default="iot_pipeline", help="entry point")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    environment = os.environ | {"IOT_LAKE": str(options.lake.absolute())}
    draw, told, force = random.Random(options.seed), [], False
    while len(told) < options.signals:
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        command = [sys.executable, "-m", options.module, "run", "--until", options.until]
        process = subprocess.Popen(
            [*command, "--force"] if force else command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        after = draw.uniform(*options.between)
        try:
            process.communicate(timeout=after)
            force = True  # it came to its end before the signal
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        told.append(await_end(process) | {"signal": number.name, "after_s": round(after, 2)})
        print(told[-1], flush=True)
    save(
        "stop_run",
        {
            "question": "what becomes of SIGINT and SIGTERM at random moments of `run`",
            "signals": len(told),
            "outcomes": Counter(one["outcome"] for one in told),
            "longest_s": max(one["seconds"] for one in told),
            "load": os.getloadavg()[0],
            "each": told,
        },
    )


def await_end(process: "subprocess.Popen[str]") -> dict[str, object]:
    """Outcome of a process that was told to stop, and the seconds it took; one that goes on is killed."""
    begin = time.monotonic()
    try:
        out, said = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, said = process.communicate()
        return {"outcome": "ignored", "seconds": MOST_SECONDS, "said": (out + said)[-300:]}
    seconds = round(time.monotonic() - begin, 2)
    if process.returncode == 130 and said.strip() == STOPPED:
        return {"outcome": "stopped", "seconds": seconds}
    outcome = "too early" if process.returncode < 0 and not out + said else f"exit {process.returncode}"
    return {"outcome": outcome, "seconds": seconds, "said": (out + said)[-300:]}


if __name__ == "__main__":
    main()
