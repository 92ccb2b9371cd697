"""Parts of a benchmark within one deadline: each has a share of the time left, and none is left out without a word."""

import json
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from result import stamped

Found = dict[str, Any]


class Part(NamedTuple):
    """Part of a benchmark.

    share: weight of its time among the parts not yet done. least: seconds below which it is not begun. measure: called
    with the seconds that it has, in a process of its own.
    """

    name: str
    share: float
    least: float
    measure: Callable[[float], Found]


def teller(path: Path, head: Found) -> Callable[[Found], Found]:
    """Return a function that writes a result so far, `head` with its parts, to a file, and returns it."""

    def tell(found: Found) -> Found:
        device = next((one["device"] for one in found.values() if "device" in one), None)
        whole = stamped(head | {"parts": found}, device)
        path.write_text(json.dumps(whole, indent=1) + "\n")
        return whole

    return tell


def carry_out(parts: list[Part], seconds: float, tell: Callable[[Found], Any]) -> Found:
    """Carry out the parts in turn within `seconds`; return what each found, or why it was skipped or stopped.

    A part that ends early leaves its time to those behind it. `tell` is called with all results after each part.
    """
    started, found = time.monotonic(), Found()
    for place, part in enumerate(parts):
        left = seconds - (time.monotonic() - started)
        own = left * part.share / sum(other.share for other in parts[place:])
        if own < part.least:
            found[part.name] = {"skipped": f"needs {part.least:.0f} s, has {max(0.0, own):.0f} s of {left:.0f} s left"}
        else:
            begun = time.monotonic()
            result = limited(part.measure, own)
            found[part.name] = result | {"seconds": round(time.monotonic() - begun, 2), "share_seconds": round(own, 1)}
        tell(found)
    return found


def limited(measure: Callable[[float], Found], seconds: float) -> Found:
    """Call `measure` in a forked process, which is killed after `seconds`."""
    fork = get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_send, args=(sender, measure, seconds))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {"stopped": f"not done after its {seconds:.0f} s"}
        result: Found = receiver.recv()
        return result
    except EOFError:
        process.join()
        return {"error": f"its process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _send(sender: Any, measure: Callable[[float], Found], seconds: float) -> None:
    os.dup2(2, 1)  # the parent's output is the result alone
    try:
        sender.send(measure(seconds))
    except BaseException as error:
        sender.send({"error": f"{type(error).__name__}: {error}"})
