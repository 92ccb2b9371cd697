"""The five calls of the Batch API, through the openai client: what they return and what their failures mean.

Belongs here: transport, its retries, the reading of result lines. Does not belong here: what to do next (batch.py).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.client import FORM_REFUSED, Reply, names_form, read_completion
from iot_pipeline.teacher.hidden import code_of
from iot_pipeline.teacher.limits import backoff_s, retry_after_s

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch as RemoteBatch

T = TypeVar("T")
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TOKEN = "iot_pipeline"  # name of the metadata entry by which a batch is known again
TRANSIENT = (408, 409, 429)


class Unsure(Exception):
    """The connection broke, so that nobody knows whether the server did what it was asked."""


class BatchApi:
    """Calls that outlast a weak network: transient failures are tried again, with pauses, `tries` times."""

    def __init__(self, client: AsyncOpenAI, base_url: str, tries: int, backoff_base_s: float) -> None:
        self.client, self.base_url, self.tries, self.backoff_base_s = client, base_url, tries, backoff_base_s
        self.rng = random.Random()  # jitter only

    async def upload(self, path: Path, name: str) -> str:
        """Send the input file; its id. After a broken connection it is sent again: an unused file costs nothing."""

        async def send() -> str:
            with path.open("rb") as file:
                return (await self.client.files.create(file=(name, file), purpose="batch")).id

        return await self._call(send)

    async def create(self, input_file_id: str, token: str) -> str:
        """Start a batch; its id. Raises Unsure where it may have been started without our learning of it."""

        async def send() -> str:
            batch = await self.client.batches.create(
                input_file_id=input_file_id, endpoint=ENDPOINT, completion_window="24h", metadata={TOKEN: token}
            )
            return batch.id

        return await self._call(send, repeatable=False)

    async def find(self, token: str, since: float) -> str | None:
        """Id of the batch that bears `token`, looking back to `since` (seconds since 1970); None if there is none."""

        async def send() -> str | None:
            async for batch in self.client.batches.list(limit=100):
                if (batch.metadata or {}).get(TOKEN) == token:
                    return batch.id
                if batch.created_at < since - 3600:  # newest first; an hour for clocks that differ
                    return None
            return None

        return await self._call(send)

    async def retrieve(self, remote_id: str) -> RemoteBatch | None:
        """The batch as the server sees it; None where the server no longer knows it."""
        import openai

        try:
            return await self._call(lambda: self.client.batches.retrieve(remote_id), may_be_gone=True)
        except openai.NotFoundError:
            return None

    async def results(self, file_id: str) -> AsyncIterator[dict[str, Any]]:
        """The lines of an output or error file, streamed; one that is no JSON object is left out (so it is missing).

        A transport error in the middle is raised as Unsure: begin again, what was taken is known.
        """
        import httpx2
        import openai

        try:
            async with self.client.files.with_streaming_response.content(file_id) as response:
                async for text in response.iter_lines():
                    try:
                        line = json.loads(text)
                    except ValueError:
                        continue
                    if isinstance(line, dict):
                        yield line
        except openai.NotFoundError:
            return  # deleted or expired at the server: its lines are missing
        except (openai.APIError, httpx2.HTTPError):
            raise Unsure(f"the file {file_id} could not be read to its end") from None

    async def _call(
        self, send: Callable[[], Awaitable[T]], repeatable: bool = True, may_be_gone: bool = False
    ) -> T:
        import openai

        for attempt in range(1, self.tries + 1):
            wait = None
            try:
                return await send()
            except openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    # The server's own words may hold part of the key.
                    raise UserError(
                        f"the teacher's server refused the key (HTTP {error.status_code}): set OPENAI_API_KEY to one "
                        "that may use files and batches."
                    ) from None
                if error.status_code in (404, 405):
                    if may_be_gone and error.status_code == 404:
                        raise
                    raise UserError(
                        f"the server at {self.base_url} has no Batch API (HTTP {error.status_code}): set "
                        "IOT_TEACHER_VIA=requests."
                    ) from None
                if error.status_code < 500 and error.status_code not in TRANSIENT:
                    raise UserError(
                        f"the teacher's server at {self.base_url} rejected a batch (HTTP {error.status_code} "
                        f"{code_of(error.code)}); batches that run go on, start again to read them."
                    ) from None
                if not repeatable and error.status_code >= 500:
                    raise Unsure(f"HTTP {error.status_code}") from None
                wait = retry_after_s(error.response.headers)
            except openai.APIConnectionError as error:
                if not repeatable:
                    raise Unsure("connection broken") from error
            except (ValueError, AttributeError, openai.APIResponseValidationError):
                # Not what the API says: no JSON (a gateway's page), or text where an object should be.
                if not repeatable:
                    raise Unsure("unreadable response") from None
            await asyncio.sleep(backoff_s(self.backoff_base_s, attempt, self.rng) if wait is None else wait)
        raise UserError(
            f"the teacher's server at {self.base_url} did not answer {self.tries} times in a row; batches that run "
            "go on, start again to read them."
        )


def line_reply(line: dict[str, Any]) -> Reply:
    """What a line of an output or error file says, in the words of a single request."""
    error, response = line.get("error"), line.get("response")
    if isinstance(error, dict):
        return Reply("transport", (code_of(error.get("code")) or "batch error").replace("_", " "))
    if not isinstance(response, dict):
        return Reply("transport", "unreadable response", billed_unknown=True)
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        return read_completion(body)
    if status == 429:
        return Reply("rate_limit", "rate limited")
    if not isinstance(status, int) or status >= 500 or status in TRANSIENT:
        return Reply("transport", f"server error {status}")
    if names_form(body):
        return FORM_REFUSED
    said = body.get("error") if isinstance(body, dict) else None
    code = code_of(said.get("code")) if isinstance(said, dict) else ""
    return Reply("rejected", f"rejected by the server (HTTP {status} {code})".replace(" )", ")"))
