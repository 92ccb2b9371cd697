"""Labels as llama.cpp itself gives them, if it is installed: `llama-server` on the PATH, or the package xllamacpp."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from iot_pipeline.errors import UserError, printable
from iot_pipeline.export.scoring import label_scores
from iot_pipeline.inference.scoring import Labels
from iot_pipeline.lake.processes import free_port

PACKAGE = "xllamacpp"
PROBABILITIES = 4_096  # tokens that are asked for; a class behind these has the probability of the last of them
START_S, ANSWER_S = 120.0, 600.0
# A process of its own: the package logs on its own, and a failed assertion in it would end this one.
CHILD = """
import sys, threading, xllamacpp
told = xllamacpp.CommonParams()
told.model.path, told.n_ctx, told.n_parallel, told.warmup = sys.argv[1], int(sys.argv[2]), 1, False
told.cpuparams.n_threads = told.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(told)
print("URL", server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Engine:
    """A running server: its name and address."""

    name: str
    url: str

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request and return the answer's JSON; UserError if the server fails."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
                return json.load(reply)
        except (URLError, OSError, ValueError) as error:
            raise UserError(f"{self.name} does not answer {path}: {error}") from error

    def tokens(self, text: str) -> list[int]:
        """Tokenise a text with control tokens in it by the engine's own rules."""
        told = self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(token) for token in told["tokens"]]

    def scores(self, prompt: Sequence[int], labels: Labels) -> np.ndarray:
        """Score the classes behind a prompt: normalised log-probabilities, float64 [classes]."""
        return label_scores(labels, lambda prefix: self._after([*prompt, *labels.begun, *prefix]))

    def _after(self, tokens: list[int]) -> Mapping[int, float]:
        body = {"prompt": tokens, "n_predict": 1, "n_probs": PROBABILITIES, "temperature": 0, "cache_prompt": True}
        told = self.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return _Listed({int(one["id"]): float(one["logprob"]) for one in told})


class _Listed(dict[int, float]):
    """Log-probabilities of the likeliest tokens; any other has that of the last."""

    def __missing__(self, _token: int) -> float:
        return min(self.values())


def installed() -> str | None:
    """Name the llama.cpp that is installed here; None without one."""
    if shutil.which("llama-server"):
        return "llama-server"
    return PACKAGE if importlib.util.find_spec(PACKAGE) else None


@contextlib.contextmanager
def serving(model: Path, context: int, threads: int) -> Iterator[Engine]:
    """Run the installed llama.cpp on a GGUF, on a loopback port; UserError if it refuses the file."""
    name = installed()
    assert name is not None
    if name == PACKAGE:
        command, port = [sys.executable, "-c", CHILD, str(model), str(context), str(threads)], None
    else:
        port = free_port()
        command = [
            name, "-m", str(model), "-c", str(context), "-t", str(threads), "-np", "1", "--no-warmup",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE if port is None else subprocess.DEVNULL, stderr=said,
            text=True,
        )  # fmt: skip
        try:
            url = _announced(process) if port is None else f"http://127.0.0.1:{port}"
            if url is None or not _healthy(url, process):
                said.seek(0)
                reason = (said.read().strip().splitlines() or ["it says nothing"])[-1]
                raise UserError(f"{name} does not run the GGUF that was written: {printable(reason)}")
            yield Engine(f"llama.cpp ({name})", url)
        finally:
            process.kill()
            process.communicate()


def _announced(process: subprocess.Popen[str]) -> str | None:
    """Return the address that the child prints; None if it ends before, or takes longer than START_S."""
    assert process.stdout is not None
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        return next((line.split()[1] for line in process.stdout if line.startswith("URL ")), None)
    finally:
        late.cancel()


def _healthy(url: str, process: subprocess.Popen[str]) -> bool:
    """Wait until the server is healthy; False if it ends or takes longer than START_S."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
                if reply.status == 200:
                    return True
        except OSError:
            time.sleep(0.1)
    return False
