"""Client of the Batch API: five calls through the official client, with their results and failures."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from iot_pipeline.errors import UserError
from iot_pipeline.teacher import http, pricing, replies
from iot_pipeline.teacher.address import redirected, split_credentials
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.redaction import code_of, shown_words
from iot_pipeline.teacher.refusals import error_words, read_error, retry_after_s
from iot_pipeline.teacher.replies import MOST_TOKENS, ApiModel
from iot_pipeline.teacher.reply import Asked, Reply, parse_body, parse_json, unreadable
from iot_pipeline.teacher.retry import backoff_s

if TYPE_CHECKING:
    from httpx2 import Response
    from openai import AsyncOpenAI

T = TypeVar("T")
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TOKEN = "iot_pipeline"  # metadata entry by which a batch is recognised
TRANSIENT = (408, 409, 429)
CLOCKS_DIFFER_S = 86_400.0  # the server's and ours, at most
PAGE, MOST_PAGES = 100, 1000  # batches per page of a list, pages that are searched
SLOWEST, UNHURRIED_S = 1000, 60.0  # bytes a second of a body that does not drip; wait where the client names none
MOST_BYTES = 16 * 1024 * 1024  # of a body other than a file, such as a list of batches
# Limits of a results file: an answer of 128,000 tokens takes 4 MB; lines may be duplicates, and a few foreign.
LINE_BYTES, LINES_MORE = 8 * 1024 * 1024, 1000


class BatchRejectedError(UserError):
    """Refusal of a whole batch; `said` is the server's error."""

    def __init__(self, message: str, said: Any) -> None:
        super().__init__(message)
        self.said = said


class UncertainOutcome(Exception):
    """Failure that leaves open if the server carried out the call."""


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


class BatchUsage(ApiModel):
    """Tokens of all results of a batch."""

    input_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS * 100_000)]
    output_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS * 100_000)]


class BatchError(ApiModel):
    """Reason why a batch failed, with the line if one line is at fault."""

    code: Annotated[str | None, WrapValidator(_or_none)] = None
    line: Annotated[int | None, WrapValidator(_or_none)] = None
    message: Annotated[str | None, WrapValidator(_or_none)] = None
    param: Annotated[str | None, WrapValidator(_or_none)] = None

    def reply(self, asked: Asked) -> Reply:
        """Return the reply that this error is to a request."""
        return read_error(400, {"error": {"code": self.code, "message": self.message, "param": self.param}}, asked)


class _Errors(ApiModel):
    data: Annotated[tuple[BatchError, ...] | None, Field(strict=False), WrapValidator(_or_none)] = None


class _Counts(ApiModel):
    completed: int = 0


Told = Annotated[str | None, WrapValidator(_or_none)]
Id = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[!-~]+$")]  # shown as it is: nothing to obey


class RemoteBatch(ApiModel):
    """A batch as the server reports it. `id` and `status` are required; other malformed fields are ignored."""

    id: Id
    status: str
    output_file_id: Told = None
    error_file_id: Told = None
    created_at: Annotated[float | None, WrapValidator(_or_none)] = None
    in_progress_at: Annotated[float | None, WrapValidator(_or_none)] = None
    metadata: Annotated[dict[str, Any] | None, WrapValidator(_or_none)] = None
    request_counts: Annotated[_Counts | None, WrapValidator(_or_none)] = None
    usage: Annotated[BatchUsage | None, WrapValidator(_or_none)] = None
    errors: Annotated[_Errors | None, WrapValidator(_or_none)] = None


class _Page(ApiModel):
    data: list[RemoteBatch]
    has_more: bool = False


class _File(ApiModel):
    id: Id


@asynccontextmanager
async def open_batch_api(config: TeacherConfig) -> AsyncIterator[BatchApi]:
    """Open the official client, without its own retries, and with limits on the bodies that it reads."""
    import httpx2
    import openai

    http.redact_credentials(config.url, config.api_key)
    address, authorization = split_credentials(config.url)
    parts = urlsplit(address)
    transport = openai.DefaultAioHttpClient(
        trust_env=pricing.is_paid(config.base_url),  # a local server is reached directly
        event_hooks={"response": [_limit_body]},
    )
    async with openai.AsyncOpenAI(
        base_url=httpx2.URL(parts._replace(query="").geturl()),
        api_key=config.api_key,
        timeout=config.timeout_s,
        max_retries=0,
        http_client=transport,
        default_headers={**authorization, "Accept-Encoding": http.ENCODINGS},
        default_query=dict(parse_qsl(parts.query)),
    ) as client:
        yield BatchApi(client, config)


async def _limit_body(response: Response) -> None:
    """Read and decompress a body up to MOST_BYTES, redirects and errors included; `results` limits its file by line.

    Raises UserError for a redirect to another server; a download, without prompts and stripped of its key, may go.
    """
    import httpx2

    download = response.url.path.endswith("/content")
    if response.has_redirect_location and not (download and response.request.method == "GET"):
        redirected(str(response.url), response.headers["location"])
    if response.is_success and download:
        return
    stream, encoding = response.stream, response.headers.pop("content-encoding", "")
    assert isinstance(stream, httpx2.AsyncByteStream)
    wait = response.request.extensions.get("timeout", {}).get("read") or UNHURRIED_S
    try:
        content, more = await http.read_limited(paced(stream, wait), encoding, MOST_BYTES)
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error)) from None
    if more and response.is_success:
        raise httpx2.ReadError(f"a response of more than {MOST_BYTES:,} bytes")
    await stream.aclose()
    response.stream = httpx2.ByteStream(content)


class BatchApi:
    """Batch API calls that retry transient failures with back-off, up to `max_attempts` times."""

    def __init__(self, client: AsyncOpenAI, config: TeacherConfig) -> None:
        self.client, self.config = client, config
        self.rng = random.Random()  # jitter only

    async def upload(self, path: Path, name: str) -> str:
        """Upload the input file and return its id; safe to retry, since an unused file costs nothing."""

        async def send() -> str:
            with path.open("rb") as file:
                sent = await self.client.files.with_raw_response.create(file=(name, file), purpose="batch")
            return _File.model_validate(parse_json(sent.content)).id

        return await self._call(send, starting=True)

    async def create(self, input_file_id: str, token: str) -> str:
        """Start a batch and return its id; UncertainOutcome if it may have been started without our knowledge."""

        async def send() -> str:
            batch = await self.client.batches.with_raw_response.create(
                input_file_id=input_file_id, endpoint=ENDPOINT, completion_window="24h", metadata={TOKEN: token}
            )
            return _File.model_validate(parse_json(batch.content)).id

        return await self._call(send, repeatable=False, starting=True)

    async def find(self, token: str, since: float) -> str | None:
        """Return the id of the batch with `token`, created since `since` (seconds since 1970), or None."""

        async def send() -> str | None:
            after: dict[str, Any] = {}
            for _ in range(MOST_PAGES):
                raw = await self.client.batches.with_raw_response.list(limit=PAGE, **after)
                page = _Page.model_validate(parse_json(raw.content))
                for batch in page.data:
                    if (batch.metadata or {}).get(TOKEN) == token:
                        return batch.id
                    # Newest first. A clock may be wrong by a time zone: a batch that is not found is paid for again.
                    if batch.created_at is not None and batch.created_at < since - CLOCKS_DIFFER_S:
                        return None
                last = page.data[-1].id if page.data else None
                if not page.has_more or last is None or after.get("after") == last:
                    return None
                after = {"after": last}
            return None

        return await self._call(send)

    async def retrieve(self, remote_id: str) -> RemoteBatch | None:
        """Return the batch as the server reports it; None if the server no longer knows it."""
        import openai

        async def send() -> RemoteBatch:
            raw = await self.client.batches.with_raw_response.retrieve(remote_id)
            return RemoteBatch.model_validate(parse_json(raw.content))

        try:
            return await self._call(send, may_be_gone=True)
        except openai.NotFoundError:
            return None

    async def results(self, file_id: str, requests: int) -> AsyncIterator[dict[str, Any] | str]:
        """Stream the lines of an output or error file, parsed; a line that is no JSON object yields the reason.

        Lines longer than LINE_BYTES are not held in memory, and reading ends after 2 * `requests` + LINES_MORE lines.
        After an error midway (UncertainOutcome), read again from the start: the lines that were settled are known.
        """
        import httpx2
        import openai

        try:
            async with self.client.files.with_streaming_response.content(file_id) as response:
                raw, count = response.http_response, 0
                encoding = raw.headers.get("content-encoding", "")
                async for line in lines_of(paced(raw.aiter_raw(), self.config.timeout_s), encoding, LINE_BYTES):
                    count += 1
                    if count > 2 * requests + LINES_MORE:
                        yield f"more than {count - 1:,} lines"
                        return
                    yield read_line(line)
        except openai.NotFoundError:
            return  # deleted or expired at the server: its lines are missing
        except http.EncodingError as error:  # a retry would fail again
            yield f"a file that cannot be unpacked: {shown_words(str(error))}"
        except (openai.APIError, httpx2.HTTPError, TimeoutError):
            raise UncertainOutcome(f"the file {shown_words(file_id)} could not be read to its end") from None

    async def _call(
        self,
        send: Callable[[], Awaitable[T]],
        repeatable: bool = True,
        may_be_gone: bool = False,
        starting: bool = False,
    ) -> T:
        import openai

        server, heard = self.config.base_url, ""
        for attempt in range(1, self.config.max_attempts + 1):
            wait = None
            try:
                return await send()
            except openai.APIStatusError as error:
                heard = _heard(error)
                if error.status_code in (401, 403):
                    raise UserError(
                        f"the teacher's server refused the key ({heard}): set OPENAI_API_KEY to one that may use files "
                        "and batches."
                    ) from None
                if error.status_code in (404, 405):
                    if may_be_gone and error.status_code == 404:
                        raise
                    raise UserError(
                        f"the server at {server} has no Batch API ({heard}): set IOT_TEACHER_VIA=requests."
                    ) from None
                if error.status_code < 500 and error.status_code not in TRANSIENT:
                    told = (
                        f"the teacher's server at {server} rejected a batch ({heard}); batches that run go on, "
                        "start again to read them."
                    )
                    if starting:
                        raise BatchRejectedError(told, parse_body(error.response.content)) from None
                    raise UserError(told) from None
                if not repeatable and (error.status_code >= 500 or error.status_code == 408):  # a gateway's, perhaps
                    raise UncertainOutcome(f"HTTP {error.status_code}") from None
                wait = retry_after_s(error.response.headers)
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, UserError):  # a redirect to another server
                    raise error.__cause__ from None
                if not repeatable:
                    raise UncertainOutcome("connection broken") from error
                heard = shown_words(str(error))
            except ValueError as error:
                # Not the API's format: no JSON (a gateway's page), or text where an object should be.
                if not repeatable:
                    raise UncertainOutcome("unreadable response") from None
                heard = shown_words(f"unreadable response: {replies.fault_of(error)}")
            await asyncio.sleep(wait or backoff_s(self.config.backoff_base_s, attempt, self.rng))
        raise UserError(
            f"the teacher's server at {server} did not answer {self.config.max_attempts} times in a row ({heard}); "
            "batches that run go on, start again to read them."
        )


def _heard(error: Any) -> str:
    """Format an HTTP error: status, code and the server's reason."""
    code, words = error_words(parse_body(error.response.content))
    named, shown = f"HTTP {error.status_code} {code}".rstrip(), shown_words(words)
    return f"{named}: {shown}" if shown else named


async def paced(pieces: AsyncIterable[bytes], wait: float) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; TimeoutError once it drips, slower than SLOWEST after http.DRIP times `wait`."""
    begun, received = time.monotonic(), 0
    async for piece in pieces:
        received += len(piece)
        if time.monotonic() - begun > http.DRIP * wait + received / SLOWEST:
            raise TimeoutError(f"{received:,} bytes in {time.monotonic() - begun:.0f} s")
        yield piece


async def lines_of(pieces: AsyncIterator[bytes], encoding: str, limit: int) -> AsyncIterator[bytes | None]:
    """Split a stream into lines without blank ones; yield None for a line over `limit` bytes, which is not held."""
    unpack, held, too_long = http.unpacker(encoding), bytearray(), False
    async for piece in pieces:
        for part in unpack(piece):
            *ended, rest = part.split(b"\n")
            for end in ended:
                line, held = bytes(held) + end, bytearray()
                if too_long or len(line) > limit:
                    yield None
                elif line.strip():
                    yield line
                too_long = False
            held += rest
            if len(held) > limit:
                held, too_long = bytearray(), True
    if too_long or held.strip():
        yield None if too_long else bytes(held)


def read_line(line: bytes | None) -> dict[str, Any] | str:
    """Parse a line of results; return its object, or the reason why there is none."""
    if line is None:
        return f"a line of more than {LINE_BYTES:,} bytes"
    try:
        found = parse_json(line)
    except ValueError as error:
        return f"no JSON: {shown_words(str(error))}"
    return found if isinstance(found, dict) else "no JSON object"


class _Response(ApiModel):
    status_code: int
    body: Any = None


def line_reply(line: dict[str, Any], asked: Asked | None = None) -> Reply:
    """Parse the reply in a line of an output or error file, as for a single request.

    Errors that stop single requests at once (no credit, an unknown model) reject only this line: the others have
    results.
    """
    error, asked = line.get("error"), asked or Asked()
    if isinstance(error, dict):
        outcome = (code_of(error.get("code")) or "batch error").replace("_", " ")
        return Reply("transport", outcome, detail=shown_words(error_words(error)[1]))
    try:
        response = _Response.model_validate(line.get("response"))
    except (ValidationError, RecursionError):
        return unreadable("a line without a response")
    if response.status_code == 200:
        return replies.read_completion(response.body, asked)
    return read_error(response.status_code, response.body, asked)
