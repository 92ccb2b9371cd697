"""Lineage as pages beside the UI: of an artefact (is it stale, and why), and of each training row.

    /trace/artefact/lora_checkpoint_10K/2027/original/
    /trace/rows/paraphrased/10K/
    /trace/rows/paraphrased/10K/17

They show what `iot-pipeline trace` prints.
"""

import html
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from iot_pipeline.commands.plain_page import link, page, table
from iot_pipeline.commands.trace import chain_lines, row_lines, shared, whole_number
from iot_pipeline.defs.asset_page import ROWS_URL, TRACE_URL, folder_url, rows_url, trace_url, trained_on, ui_page
from iot_pipeline.defs.reads import present_value
from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.store import Lake
from iot_pipeline.lineage.chain import chain_of
from iot_pipeline.lineage.training_row import list_rows, trace_row
from iot_pipeline.settings import load_settings, settings
from iot_pipeline.teacher_factory import store_of

SHOWN_ROWS, SHOWN_SIGNS = 50, 160
CODE = "Code is compared by <code>iot-pipeline status</code> and on the page of the asset lake_state."


class TracePages:
    """ASGI middleware that serves the pages of a lake's lineage, and passes every other request on."""

    def __init__(self, app: ASGIApp, lake: Path) -> None:
        self.app, self.lake = app, Lake(lake, read_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request below TRACE_URL or ROWS_URL; reading takes a while, so a thread does it."""
        if scope["type"] != "http" or not scope["path"].startswith((TRACE_URL, ROWS_URL)):
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await PlainTextResponse("Lineage is read-only.", 405, {"Allow": "GET, HEAD"})(scope, receive, send)
        else:
            response = await run_in_threadpool(self._response, scope["path"], scope["query_string"].decode("latin-1"))
            await response(scope, receive, send)

    def _response(self, path: str, query: str) -> Response:
        try:
            if path.startswith(TRACE_URL):
                return self._artefact(path)
            track, stage, number = [*path.removeprefix(ROWS_URL).split("/"), "", ""][:3]
            if number:
                return self._row(track, stage, _number(number))
            return self._rows(track, stage, _number(parse_qs(query).get("from", ["1"])[0]))
        except UserError as error:
            return page("Not found", f"<p>{html.escape(printable(str(error)))}</p>", 404)

    def _artefact(self, path: str) -> Response:
        """Return the page of an artefact that is in the lake; a path leads nowhere else."""
        wanted = unquote(path)
        artefact = next((one for one in self.lake.artefacts() if unquote(trace_url(one)) == wanted), None)
        manifest = self.lake.manifest(artefact) if artefact else None
        if artefact is None or manifest is None:
            raise UserError("There is no such artefact in the lake; the UI's assets have links to those that are.")
        # Settings as `.env` is now: those of this process are of when the UI was opened.
        broken = self.lake.broken_lineage(artefact, present_value(self.lake, load_settings()))
        state = f'<strong class="warn">Stale.</strong> {html.escape(printable(broken))}.' if broken else (
            "<strong>Fresh.</strong> It follows from its inputs, settings, prompts and files as they are now."
        )  # fmt: skip
        links = [link(ui_page(artefact), "page in the UI"), link(folder_url(artefact), "files")]
        links += [link(rows_url(*of), f"training rows of {' '.join(of)}") for of in trained_on(artefact)]
        chain = chain_of(self.lake, artefact)
        lines = chain_lines({"exhibit": None, "files": []}, chain)
        made_of = ", ".join(link(trace_url(one), str(one)) for one in manifest.upstream())
        body = (
            f"<p>{state} {CODE}</p>\n<p>{' · '.join(links)}</p>\n<h2>Made of</h2>\n"
            f"<p>{made_of or 'nothing in the lake'}</p>\n"
            f"<h2>Everything upstream</h2>\n{_pre(lines)}"
        )
        return page(str(artefact), body)

    def _rows(self, track: str, stage: str, first: int) -> Response:
        """Return the page that lists training rows."""
        total, rows = list_rows(self.lake, stage, track, first, SHOWN_ROWS)
        cells = [
            [link(f"{rows_url(track, stage)}{row['row']}", f"row {row['row']}"), html.escape(row["label"]),
             html.escape(row["kind"]), html.escape(printable(" ".join(row["flow"].split())[:SHOWN_SIGNS]))]
            for row in rows
        ]  # fmt: skip
        last = first + len(rows) - 1
        here = f"here {first:,} to {last:,}" if rows else f"none from {first:,} on"
        more = [(max(1, first - SHOWN_ROWS), "earlier rows")] if first > 1 else []
        more += [(last + 1, "further rows")] if last < total else []
        links = " · ".join(link(f"{rows_url(track, stage)}?from={at}", text) for at, text in more)
        body = (
            f"<p>Rows that students of this track and stage are trained on: {total:,}; {here}. {links}</p>\n"
            f"{table(['row', 'class', 'kind', 'flow'], cells)}"
        )
        return page(f"Training rows of {track} {stage}", body)

    def _row(self, track: str, stage: str, number: int) -> Response:
        """Return the page of a training row: prompt and cost first, then all that is known."""
        row = trace_row(self.lake, store_of(settings()), number, stage, track)
        prompt, price = row["prompt"], row["price_usd"]
        sent = len(row["attempts"])
        facts = {
            "Prompt": f"{prompt['name']}, sha256 {prompt['sha256']}",
            "Cost": "unknown"
            if price is None
            else f"${price:.6f} in {sent} attempt{'s' if sent != 1 else ''}; {shared(row['shared_by_rows'])}",
            "Class": row["label"],
            "Answered by": f"{row['answered_by']['model']} ({row['answered_by']['source']})",
        }
        facts |= {"Note": "; ".join(row["notes"])} if row["notes"] else {}
        told = "".join(f"<dt>{name}</dt><dd>{html.escape(printable(text))}</dd>\n" for name, text in facts.items())
        body = (
            f"<dl>\n{told}</dl>\n<h2>Text of the prompt</h2>\n{_pre((prompt['text'] or '').splitlines())}\n"
            f"<h2>All that is known</h2>\n{_pre(row_lines(row))}\n"
            f"<p>{link(rows_url(track, stage), 'all rows')}</p>"
        )
        return page(f"Row {number:,} of {track} {stage}", body)


def _number(text: str) -> int:
    if (number := whole_number(text)) is None:
        raise UserError("Rows are numbered from 1.")
    return max(1, number)


def _pre(lines: Iterator[str] | list[str]) -> str:
    return f"<pre>{html.escape(chr(10).join(printable(line) for line in lines))}</pre>"
