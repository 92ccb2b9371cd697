"""Small servers on loopback that answer whatever a test wants: chat completions, and batches with any results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.request import Request
from iot_pipeline_tests.loopback import Handler, listening

QUICK = BatchLimits(first_poll_s=0.01, poll_s=0.02, orphan_grace_s=0.0)
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
Said = tuple[int, bytes | Iterator[bytes], dict[str, str]]  # status, body, headers


def teacher(url: str, store: Path | str, **changes: Any) -> Teacher:
    """A teacher that tries little and does not wait."""
    chosen = {
        "source": "s",
        "budget_usd": None,
        "paid": False,
        "max_attempts": 2,
        "backoff_base_s": 0.0,
        "batch_limits": QUICK,
    }
    return Teacher(TeacherConfig(url, "sk-D15T1NCT1VE-key", store, **(chosen | changes)))  # type: ignore[arg-type]


def accept(request: Request, text: str) -> list[str]:
    """The check of these tests: only `fine` is good."""
    return [] if text == "fine" else ["bad"]


def completion(text: str | None = "fine", **changes: Any) -> dict[str, Any]:
    """A chat completion as the API has it."""
    return {
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 60, "completion_tokens": 20},
    } | changes


def said(content: Any, status: int = 200, **headers: str) -> Said:
    """A response of JSON."""
    return status, json.dumps(content).encode(), headers


@contextmanager
def serving(answer: Callable[[str, str, bytes], Said]) -> Iterator[str]:
    """A server that answers (method, path, body) by `answer`; its base URL."""

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content, headers = answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            pieces = iter([content]) if isinstance(content, bytes) else content
            if isinstance(content, bytes):
                self.send_header("content-length", str(len(content)))
            else:
                self.close_connection = True
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True  # the client has had enough

        do_GET = do_POST

    with listening(Answering) as host:
        yield f"http://{host}/v1"


def batch_server(results: Callable[[list[dict[str, Any]]], bytes], **changes: Any) -> Callable[[str, str, bytes], Said]:
    """Answers as the Batch API: every batch ends at once, and its output file is `results` of the lines sent.

    changes: of the batch as the server tells of it.
    """
    files: dict[str, bytes] = {}
    batches: dict[str, dict[str, Any]] = {}

    def answer(method: str, path: str, body: bytes) -> Said:
        path = path.split("?")[0]
        if path == "/v1/files":
            lines = [json.loads(line) for line in body.splitlines() if line.startswith(b'{"custom_id"')]
            files[name := f"file-{len(files)}"] = results(lines)
            return said({"id": name})
        if path == "/v1/batches" and method == "POST":
            asked = json.loads(body)
            name = f"batch-{len(batches)}"
            batches[name] = {
                "id": name,
                "status": "completed",
                "output_file_id": asked["input_file_id"],
                "created_at": 1,
                "in_progress_at": 1,
                "metadata": asked["metadata"],
            } | changes
            return said(batches[name])
        if path.startswith("/v1/batches/"):
            return said(batches[path.split("/")[-1]])
        if path.endswith("/content"):
            return 200, files[path.split("/")[-2]], {}
        return said({"data": list(batches.values())}) if path == "/v1/batches" else said({}, 404)

    return answer


def result(line: dict[str, Any], body: Any = None, status: int = 200) -> bytes:
    """A line of a batch's results."""
    response = {"status_code": status, "body": completion() if body is None else body}
    return json.dumps({"custom_id": line["custom_id"], "response": response}).encode() + b"\n"
