"""Check of a base before the teacher is asked: faults that would otherwise surface after hours and dollars.

A base's files are examined in a process with limits on time and memory: a chat template may loop for ever or fill the
memory, a tokenizer's pattern may backtrack without end, and a library in another language may abort the process on a
file that it does not expect. The caller gets one sentence in each case.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder

CPU_S = 60  # of settings, tokenizer and template; Gemma's 262,144 tokens take 6 s
WALL_S, BYTES_A_S = 600, 10_000_000  # of all, on a slow disk
MEMORY = 4 << 30  # beside the weights, of which a file at a time is mapped
TINY_MATRICES = [  # of the base that this project builds, known before it is built
    "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "model.embed_tokens", "lm_head",
    "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj",
]  # fmt: skip
HERE = {
    "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2",
}  # fmt: skip


def check_base(base: str, download: bool = True) -> dict[str, Any]:
    """Check settings, tokeniser and weights of a base, and return facts about it.

    Every tensor of the model must be present in its shape (a tied output may be absent) and hold finite numbers. Only
    vectors may be all zeros, as a bias may start at 0. The embedding must have a row for every token.
    `base` is a folder or hub id; `download` fetches what the local cache lacks. Returns what `describe_base` does,
    `parameters`, `unused_tensors` (number of tensors that the model ignores), its tokens `end_of_turn` and `padding`,
    and its `matrices`, which LoRA may adapt. UserError says how to mend a base. The files are read in a process of its
    own (`judge`).
    """
    folder = base_folder(base, download)
    return _judged(base, folder, _state(folder))


def check_targets(matrices: Sequence[str], targets: str) -> None:
    """Raise UserError if IOT_LORA_TARGETS names no matrix of a base, or one that it lacks, which peft passes over."""
    named = [part.strip() for part in targets.split(",") if part.strip()]
    if named == ["all-linear"]:
        return
    there = {end for name in matrices for end in (name, name.rpartition(".")[2])}
    if wrong := [name for name in named if ".".join(name.split(".")[-2:]) not in there]:
        raise UserError(
            f"IOT_LORA_TARGETS: the base has no {wrong[0]!r}; name some of {', '.join(sorted(there))}, or all-linear"
        )
    if not named:
        raise UserError("IOT_LORA_TARGETS names no module: write q_proj,v_proj or all-linear")


def check_tokenizer(named: str, download: bool = True) -> None:
    """Check the tokenizer and chat template of IOT_AUDIT_TOKENIZER, a folder or hub id, in the same bounded process.

    UserError says what is wrong with it.
    """
    try:
        folder = base_folder(named, download, weights=False)
        _judged(named, folder, _state(folder), whole=False)
    except UserError as error:
        told = str(error).replace("IOT_BASE_MODEL", "IOT_AUDIT_TOKENIZER")
        raise UserError(told.replace("another base", "another tokenizer")) from None


@lru_cache(maxsize=4)
def _judged(base: str, folder: Path, _files: tuple[Any, ...], whole: bool = True) -> dict[str, Any]:
    """Judge a folder; cached by its files, because several assets ask."""
    return judge(base, folder, whole=whole)


def _state(folder: Path) -> tuple[Any, ...]:
    """Return what tells the files of a folder from changed ones: name, size, time and inode of each."""
    stats = sorted((str(path), path.stat()) for path in folder.iterdir() if path.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def judge(base: str, folder: Path, cpu_s: int = CPU_S, memory: int = MEMORY, whole: bool = True) -> dict[str, Any]:
    """Run `examine.examine` on the folder of a base in a child process, and return its facts.

    Args:
        base: Name of the base in sentences.
        folder: Its folder, complete.
        cpu_s: Seconds of computing for all but reading the weights.
        memory: Bytes that it may use beside the weights.
        whole: False to examine tokenizer and chat template alone.

    Raises:
        UserError: The base is not fit, or its files end the child or pass a limit.
    """
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    given = [base, str(folder), str(cpu_s), str(memory + 2 * weights), "whole" if whole else "tokenizer"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "iot_pipeline.models.examine", *given],
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
