"""File and batch endpoints of the embedded server, in the format of the real API."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from typing import IO, Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from iot_pipeline.embedded_teacher import faults
from iot_pipeline.embedded_teacher.analyst import prompt_tokens
from iot_pipeline.embedded_teacher.billing import Bill
from iot_pipeline.embedded_teacher.completions import AsciiJSON, BadBody, check_body, completion, error, prompt_of

MOST_LINES = 50_000
MOST_BYTES = 200_000_000
DAY_S = 86_400
IN_MEMORY = 1_000_000  # bytes of a file; a larger one is stored in a nameless temporary file
YIELD_EVERY = 20  # lines answered before other requests get a turn
TERMINAL = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server other than faults.

    Latencies in seconds; limits of requests and tokens per minute and of tokens in batches (None = no limit).
    hang_seconds: duration of the fault `timeout`. json_schema: 0 = refuse response_format json_schema, as servers do
    that do not support it.
    """

    answer_seconds: float = 0.0
    hang_seconds: float = 600.0
    batch_seconds: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    enqueued_tokens: int | None = None
    json_schema: int = 1


@dataclass
class Job:
    """A batch and its progress; `public` is the object that the API returns."""

    public: dict[str, Any]
    tokens: int = 0  # of its prompts, counted against enqueued_tokens until the batch ends
    results: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)

    def move(self, status: str) -> None:
        """Set the status and its timestamp."""
        self.public |= {"status": status, f"{status}_at": int(time.time())}


class BatchServer:
    """Routes and state of files and batches. Files have no name on disk, so nothing remains however the server ends."""

    def __init__(self, plan: faults.FaultPlan, options: ServerOptions, bill: Bill) -> None:
        self.plan, self.options, self.bill = plan, options, bill
        self.files: dict[str, tuple[dict[str, Any], IO[bytes]]] = {}
        self.jobs: dict[str, Job] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        """Return the routes under /v1."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files/{id}", self.file, methods=["GET", "DELETE"]),
            Route("/v1/files/{id}/content", self.content),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.list, methods=["GET"]),
            Route("/v1/batches/{id}", self.batch),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    # -- files ---------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Handle POST /v1/files (multipart: purpose and file)."""
        async with request.form() as form:
            file = form.get("file")
            if form.get("purpose") != "batch":
                return error(400, "purpose must be batch", "invalid_request_error", param="purpose")
            if not isinstance(file, UploadFile):
                return error(400, "file is required", "invalid_request_error", param="file")
            content = await file.read()
            if len(content) > MOST_BYTES:
                return error(413, f"a file may have {MOST_BYTES} bytes", "invalid_request_error", param="file")
            return AsciiJSON(self._keep(content, "batch", file.filename or "upload.jsonl"))

    async def file(self, request: Request) -> Response:
        """Handle GET and DELETE /v1/files/{id}."""
        identity = request.path_params["id"]
        if identity not in self.files:
            return _no_such("file", request)
        if request.method == "DELETE":
            del self.files[identity]
            return AsciiJSON({"id": identity, "object": "file", "deleted": True})
        return AsciiJSON(self.files[identity][0])

    async def content(self, request: Request) -> Response:
        """Handle GET /v1/files/{id}/content."""
        if (identity := request.path_params["id"]) not in self.files:
            return _no_such("file", request)
        return Response(self._read(identity), media_type="text/plain")

    def _read(self, identity: str) -> bytes:
        file = self.files[identity][1]
        file.seek(0)
        return file.read()

    def _keep(self, content: bytes, purpose: str, name: str) -> dict[str, Any]:
        file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (it lives as long as its entry)
        file.write(content)
        public: dict[str, Any] = {
            "id": f"file-{uuid.uuid4().hex}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self.files[str(public["id"])] = public, file
        return public

    # -- batches -------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Handle POST /v1/batches."""
        try:
            body = await request.json()
            source, endpoint, window = (body.get(k) for k in ("input_file_id", "endpoint", "completion_window"))
        except (ValueError, AttributeError, RecursionError):
            return error(400, "the body must be a JSON object", "invalid_request_error")
        if not isinstance(source, str) or source not in self.files:
            return error(400, f"no file {source}", "invalid_request_error", param="input_file_id")
        if not _is_metadata(body.get("metadata")):
            return error(400, "metadata must be up to 16 pairs of strings", "invalid_request_error", param="metadata")
        if endpoint != "/v1/chat/completions" or window != "24h":
            return error(400, "endpoint must be /v1/chat/completions, completion_window 24h", "invalid_request_error")
        now = int(time.time())
        job = Job(
            {
                "id": f"batch_{uuid.uuid4().hex}",
                "object": "batch",
                "endpoint": endpoint,
                "errors": None,
                "input_file_id": source,
                "completion_window": window,
                "status": "validating",
                "created_at": now,
                "expires_at": now + DAY_S,
                "output_file_id": None,
                "error_file_id": None,
                "request_counts": {"total": 0, "completed": 0, "failed": 0},
                "metadata": body.get("metadata"),
                "usage": None,
            }
        )
        self.jobs[job.public["id"]] = job
        task = asyncio.create_task(self._work(job))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return AsciiJSON(job.public)

    async def list(self, request: Request) -> Response:
        """Handle GET /v1/batches: newest first, `limit` per page, starting after the batch `after`."""
        ids = list(reversed(self.jobs))
        after, wanted = request.query_params.get("after"), request.query_params.get("limit", "20")
        if not (wanted.isascii() and wanted.isdigit() and 1 <= (limit := int(wanted[:4])) <= 100):
            return error(400, "limit must be a whole number from 1 to 100", "invalid_request_error", param="limit")
        start = ids.index(after) + 1 if after in self.jobs else 0
        page = ids[start : start + limit]
        return AsciiJSON(
            {
                "object": "list",
                "data": [self.jobs[i].public for i in page],
                "first_id": page[0] if page else None,
                "last_id": page[-1] if page else None,
                "has_more": start + limit < len(ids),
            }
        )

    async def batch(self, request: Request) -> Response:
        """Handle GET /v1/batches/{id}."""
        job = self.jobs.get(request.path_params["id"])
        return AsciiJSON(job.public) if job is not None else _no_such("batch", request)

    async def cancel(self, request: Request) -> Response:
        """Handle POST /v1/batches/{id}/cancel."""
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return _no_such("batch", request)
        if job.public["status"] in TERMINAL:
            return error(409, f"the batch is {job.public['status']}", "invalid_request_error")
        job.move("cancelling")
        return AsciiJSON(job.public)

    async def _work(self, job: Job) -> None:
        """Validate a batch, answer its lines, write the result files; some faults stop it halfway."""
        source = job.public["input_file_id"]
        raw = self._read(source) if source in self.files else b""  # it may have been deleted meanwhile
        fault = self.plan.draw(b"", faults.BATCH_FAULTS)  # drawn for the n-th batch: its content depends on timing
        lines, problems = _validated(raw)
        job.tokens = sum(_prompt_tokens(line["body"]) for line in lines) if self.options.enqueued_tokens else 0
        queued = sum(other.tokens for other in self.jobs.values() if other.public["status"] not in TERMINAL)
        if fault == "batch_queue_full" or queued > (self.options.enqueued_tokens or queued):
            problems = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
        elif fault == "batch_failed":
            problems = [{"code": "server_error", "message": "failed on demand", "line": None}]
        if problems:
            job.public["errors"] = {"object": "list", "data": [{"param": None, **problem} for problem in problems]}
            return job.move("failed")
        job.public["request_counts"]["total"] = len(lines)
        job.public["usage"] = {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        }
        job.move("in_progress")
        await asyncio.sleep(self.options.batch_seconds)
        half = len(lines) // 2 if fault in ("batch_expired", "batch_cancelled") else len(lines)
        for number, line in enumerate(lines):
            if job.public["status"] == "cancelling" or number >= half:
                break
            self._answer(job, line)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if fault == "batch_expired":
            job.errors += [_line(line["custom_id"], None, "batch_expired") for line in lines[half:]]
        cancelled = job.public["status"] == "cancelling" or fault == "batch_cancelled"
        self._finish(job, "cancelled" if cancelled else "expired" if fault == "batch_expired" else "completed")

    def _answer(self, job: Job, line: dict[str, Any]) -> None:
        """Answer one line, or record its error, and apply the fault drawn for its result."""
        raw = json.dumps(line["body"], sort_keys=True).encode()
        counts = job.public["request_counts"]
        fault = self.plan.draw(raw, faults.SINGLE_FAULTS)
        refused: tuple[int, dict[str, Any]] | None = None
        try:
            arguments = check_body(line["body"], bool(self.options.json_schema))
            if fault in (*faults.RATE_LIMIT_FAULTS, "server_error"):
                refused = 500 if fault == "server_error" else 429, {"message": fault, "code": fault}
        except BadBody as problem:
            refused = 400, {"message": str(problem), "type": "invalid_request_error", "param": problem.param}
        if refused is not None:
            counts["failed"] += 1
            job.errors.append(_line(line["custom_id"], (refused[0], {"error": refused[1]})))
            return
        # The Batch API bills half of the full price, without a discount for cached prefixes.
        content = completion(arguments, fault, raw)
        becomes = self.plan.draw(raw, faults.LINE_FAULTS)
        self.bill.add("batch", raw, arguments["messages"], content, fault if fault in faults.ANSWER_FAULTS else becomes)
        for name, part in (("input", "prompt"), ("output", "completion"), ("total", "total")):
            job.public["usage"][f"{name}_tokens"] += content["usage"][f"{part}_tokens"]
        counts["completed"] += 1
        result = _line(line["custom_id"], (200, content))
        spoilt = {"line_missing": [], "line_doubled": [result] * 2, "line_garbled": [result[: len(result) // 2]]}
        job.results += spoilt.get(becomes or "", [result])

    def _finish(self, job: Job, status: str) -> None:
        """Write the result files, with results shuffled as by the real API, and set the final status."""
        if status in ("completed", "expired"):
            job.move("finalizing")
        random.Random(job.public["id"]).shuffle(job.results)
        for name, content in (("output", job.results), ("error", job.errors)):
            if content:
                kept = self._keep(b"\n".join(content) + b"\n", "batch_output", f"{job.public['id']}_{name}.jsonl")
                job.public[f"{name}_file_id"] = kept["id"]
        job.results, job.errors = [], []
        job.move(status)


def _validated(raw: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parse an input file into its lines and its problems."""
    lines: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, text in enumerate(filter(bytes.strip, raw.split(b"\n")), 1):
        try:
            line = json.loads(text)
            known = (line["custom_id"], line["method"], line["url"], line["body"])
            if not isinstance(known[0], str):
                raise TypeError("custom_id")
        except (ValueError, KeyError, TypeError, RecursionError):
            problems.append({"code": "invalid_json_line", "message": "not a request", "line": number})
            continue
        if known[1:3] != ("POST", "/v1/chat/completions"):
            problems.append({"code": "mismatched_endpoint", "message": "another endpoint", "line": number})
        elif known[0] in seen:
            problems.append({"code": "duplicate_custom_id", "message": f"again {known[0]}", "line": number})
        seen.add(known[0])
        lines.append(line)
    if not lines and not problems:
        problems.append({"code": "empty_file", "message": "no line", "line": None})
    if len(lines) > MOST_LINES:
        problems.append({"code": "too_many_lines", "message": f"{MOST_LINES} at most", "line": None})
    return lines, problems


def _prompt_tokens(body: Any) -> int:
    """Count the prompt tokens of a line; 0 if its body is invalid."""
    try:
        return prompt_tokens(prompt_of(check_body(body)))
    except BadBody:
        return 0


def _is_metadata(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return len(value) <= 16 and all(isinstance(text, str) for pair in value.items() for text in pair)


def _line(custom_id: str, response: tuple[int, dict[str, Any]] | None, code: str | None = None) -> bytes:
    """Encode a line of an output or error file."""
    identity = uuid.uuid4().hex
    content: dict[str, Any] = {"id": f"batch_req_{identity}", "custom_id": custom_id, "response": None, "error": None}
    if response is not None:
        content["response"] = {"status_code": response[0], "request_id": f"req_{identity}", "body": response[1]}
    else:
        content["error"] = {"code": code, "message": "This request could not be executed in time."}
    return json.dumps(content).encode()


def _no_such(kind: str, request: Request) -> AsciiJSON:
    return error(404, f"No {kind} with id {request.path_params['id']}", "invalid_request_error", "not_found")
