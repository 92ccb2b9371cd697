"""Judgement of a base in a process of its own, with limits on time and memory: its files are a stranger's.

A chat template may loop for ever or fill the memory, a tokenizer's pattern may backtrack without end, and a library in
another language may abort the process on a file that it does not expect. The caller gets one sentence in each case.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError

CPU_S = 60  # of settings, tokenizer and template; Gemma's 262,144 tokens take 6 s
WALL_S, BYTES_A_S = 600, 10_000_000  # of all, on a slow disk
MEMORY = 4 << 30  # beside the weights, of which a file at a time is mapped
HERE = {
    "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2",
}  # fmt: skip


def judge(base: str, folder: Path, cpu_s: int = CPU_S, memory: int = MEMORY) -> dict[str, Any]:
    """Run `check.examine` on the folder of a base in a child process, and return its facts.

    Args:
        base: Name of the base in sentences.
        folder: Its folder, complete.
        cpu_s: Seconds of computing for all but reading the weights.
        memory: Bytes that it may use beside the weights.

    Raises:
        UserError: The base is not fit, or its files end the child or pass a limit.
    """
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    given = [base, str(folder), str(cpu_s), str(memory + 2 * weights)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "iot_pipeline.models.judge", *given],
            env=os.environ | HERE, stdin=subprocess.DEVNULL, capture_output=True, timeout=WALL_S + weights / BYTES_A_S,
        )  # fmt: skip
        told, why = done.stdout, _ending(done.returncode, cpu_s)
    except subprocess.TimeoutExpired as error:
        told, why = error.stdout or b"", "did not end in time"
    except OSError as error:
        raise UserError(f"IOT_BASE_MODEL: no process can be started to judge {base!r} ({error.strerror})") from None
    facts: dict[str, Any] = {"doing": "reading its files"}
    for line in told.splitlines():
        with contextlib.suppress(ValueError):
            facts |= json.loads(line)
    if "error" in facts:
        raise UserError(facts["error"])
    if "facts" not in facts:
        raise UserError(f"IOT_BASE_MODEL: {base!r} cannot be judged: {facts['doing']} {why}; take another base")
    found: dict[str, Any] = facts["facts"]
    return found


def _ending(code: int, cpu_s: int) -> str:
    if code == -signal.SIGPROF:
        return f"took more than {cpu_s} s"
    return f"ended the process (signal {-code})" if code < 0 else f"ended the process (code {code})"


def main() -> None:
    """Judge the base named in the arguments; write what is done, and facts or error, as lines of JSON."""
    base, folder, cpu_s, memory = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a limit that is lower already
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    import transformers  # noqa: F401 - imported before the clock starts

    from iot_pipeline.models.check import examine

    def say(doing: str) -> None:
        out.write(json.dumps({"doing": doing}) + "\n")
        signal.setitimer(signal.ITIMER_PROF, 0 if "weights" in doing else float(cpu_s))

    try:
        told = {"facts": examine(base, Path(folder), say)}
    except UserError as error:
        told = {"error": str(error)}
    except BaseException as error:
        told = {"error": f"IOT_BASE_MODEL: {base!r} cannot be judged: {_in_words(error)}; take another base"}
    out.write(json.dumps(told) + "\n")


def _in_words(error: BaseException) -> str:
    from iot_pipeline.models.tokenizer import in_one_line

    return "it takes too much memory" if isinstance(error, MemoryError) else in_one_line(error)


if __name__ == "__main__":
    main()
