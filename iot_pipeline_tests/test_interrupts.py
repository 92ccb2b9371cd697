"""SIGINT and SIGTERM in a process whose code does with them what libraries do: swallow, replace, misread."""

import signal
import subprocess
import sys
import time

import pytest

from iot_pipeline.lake.processes import has_ended

BEGIN = """
import os, signal, subprocess, sys, threading, time
from iot_pipeline import interrupts
interrupts.GRACE_S = 0.3
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
def go():
    signal.raise_signal(NUMBER)
with interrupts.stopping_promptly("stopped as asked"):
"""
CASES = {
    "at once": "time.sleep(300)",
    "swallowed": """
    try:
        time.sleep(300)
    except KeyboardInterrupt:
        time.sleep(300)""",
    "held back by another handler": """
    for number in interrupts.STOPS:
        signal.signal(number, lambda *_: None)
    go()
    time.sleep(300)""",
    "swallowed in a callback": """
    class Swallows:
        def __del__(self):
            go()
            time.sleep(0.1)
    Swallows()
    time.sleep(300)""",
    "swallowed and logged": """
    import logging
    try:
        time.sleep(300)
    except KeyboardInterrupt:
        logging.getLogger("a library").exception("it did not close")
    interrupts.raise_if_told()""",
    "taken for a failure": """
    try:
        time.sleep(300)
    except BaseException:
        raise ValueError("it did not work")""",
    "lost on what goes on": """
    try:
        go()
        time.sleep(300)
    except KeyboardInterrupt:
        pass
    interrupts.raise_if_told()""",
    "an exit with a code of its own": """
    try:
        time.sleep(300)
    except KeyboardInterrupt:
        sys.exit(1)""",
    "while standard error is redirected": """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    time.sleep(300)""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("case", CASES)
def test_whatever_the_code_does_with_a_signal_the_process_says_that_it_stopped(
    case: str, number: signal.Signals
) -> None:
    body = CASES[case].strip("\n").replace("time.sleep(300)", "print('ready', flush=True); time.sleep(300)", 1)
    code = BEGIN.replace("NUMBER", str(int(number))) + (body if body.startswith("    ") else f"    {body}")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.stdout.readline()
    try:
        if "go()" not in code.partition("with")[2]:
            process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        deadline = time.monotonic() + 30
        while not has_ended(child, time.time()):
            assert time.monotonic() < deadline, "a process that it started is still there"
            time.sleep(0.05)
    assert process.returncode == 130
    assert said == "stopped as asked\n"


def test_without_a_signal_nothing_is_changed() -> None:
    code = (
        "import signal, threading\nfrom iot_pipeline.interrupts import raise_if_told, stopping_promptly\n"
        "before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "with stopping_promptly('stopped'):\n    raise_if_told()\n"
        "[t.join(20) for t in threading.enumerate() if t.name == 'interrupts']\n"
        "assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
