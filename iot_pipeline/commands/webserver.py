"""Dagster's web application, served to its own pages only.

The application answers GraphQL, mutations included, to any page open in a browser: a page of another site can send a
request here (cross-site request forgery), or resolve its own name to our address (DNS rebinding), and launch runs. So
the Host must be a loopback name, the Origin must be that host, and a GET of /graphql may only ask for the HTML page.

    python -m iot_pipeline.commands.webserver HOST PORT WORKSPACE     # files and lineage of the lake that is set
"""

import sys

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from iot_pipeline.commands.lake_files import LakeFiles
from iot_pipeline.commands.trace_pages import TracePages
from iot_pipeline.defs.dagster_internals import web_application
from iot_pipeline.serving.server.guard import is_loopback, is_of_another_site
from iot_pipeline.settings import load_settings


class LocalPagesOnly:
    """ASGI middleware that refuses requests that a page of another site could have sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or refuse it: with status 403 or 405, a web socket before it opens."""
        refusal = refuse(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, _unframed(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason=refusal[1])(scope, receive, send)
        else:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)


def refuse(scope: Scope) -> tuple[int, str] | None:
    """Return the refusal (status, sentence) of a request that must not be answered, None for any other."""
    headers = Headers(scope=scope)
    host = headers.getlist("host")
    if len(host) != 1 or not is_loopback(host[0]):
        return 403, "This address serves pages of this machine: open it as http://127.0.0.1 or http://localhost."
    if is_of_another_site(headers):
        return 403, "A page of another site asked for this."
    reads_page = scope["type"] == "websocket" or scope["method"] == "POST" or "text/html" in headers.get("accept", "")
    if scope["path"].rstrip("/") == "/graphql" and not reads_page:
        return 405, "GraphQL is answered by POST."
    return None


def _unframed(send: Send) -> Send:
    """Add the header that stops other sites from framing our pages (a click there would count here)."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return add


def main() -> None:
    """Serve the application until the process is stopped."""
    host, port, workspace = sys.argv[1:]
    lake = load_settings().lake_path
    with web_application(workspace) as app:
        # Pages keep a web socket open: without a limit the server waits for them after a signal to stop.
        guarded = LocalPagesOnly(LakeFiles(TracePages(app, lake), lake))
        uvicorn.run(guarded, host=host, port=int(port), log_level="warning", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    main()
