"""Files of the lake, read-only beside the UI under /lake/, so that links to reports and prompts survive a move."""

import asyncio
import contextlib
import html
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from iot_pipeline.commands.plain_page import SAFE, page
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import SNAPSHOTS, Lake

PREFIX = "/lake/"
TEXTS = {".md", ".json", ".jsonl", ".csv", ".txt", ".yaml", ".log", ".tex"}
SHOWN = {".html": "text/html", ".png": "image/png"} | dict.fromkeys(TEXTS, "text/plain")
PRIVATE = (".sqlite", ".sqlite3", ".db", ".db3", "-wal", "-shm", "-journal")
DATABASE = b"SQLite format 3\0"  # IOT_TEACHER_STORE may name the store of answers in any way
MOST_LISTED = 1000


class LakeFiles:
    """ASGI middleware that serves the files of a lake, and passes every other request on."""

    def __init__(self, app: ASGIApp, lake: Path) -> None:
        self.app, self.lake = app, lake.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request below PREFIX."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await PlainTextResponse("The lake is read-only.", 405, {"Allow": "GET, HEAD"})(scope, receive, send)
        else:
            name = scope["path"].removeprefix(PREFIX)
            with contextlib.suppress(UserError):  # then it shows what is here
                await asyncio.to_thread(self.fetch, name)
            await self._response(name, Headers(scope=scope))(scope, receive, send)

    def fetch(self, name: str) -> None:
        """Fetch what a path shows of a lake in a bucket: the artefact that it is in, the manifests of those below it.

        Raises UserError if the bucket cannot be read.
        """
        lake = Lake(self.lake)
        if lake.remote is None:
            return
        shown = self.lake.joinpath(*(part for part in name.split("/") if part))
        for artefact in lake.artefacts():
            place = lake.place(artefact)
            if shown.is_relative_to(place):
                lake.folder(artefact)
            elif place.is_relative_to(shown):
                lake.manifest(artefact)
        if shown.is_relative_to(self.lake / SNAPSHOTS):
            lake.remote.fetch_snapshots(self.lake / SNAPSHOTS)

    def _response(self, name: str, headers: Headers) -> Response:
        found = self.find(name)
        if found is None:
            return PlainTextResponse("There is no such file in the lake.", 404, SAFE)
        if found.is_dir() and not name.endswith("/") and name:
            return RedirectResponse(f"{PREFIX}{quote(name)}/", headers=SAFE)  # links in a listing are relative
        if found.is_dir():
            return listing(found, found.relative_to(self.lake).as_posix())
        kind = SHOWN.get(found.suffix.lower())
        if kind is None:
            return FileResponse(found, media_type="application/octet-stream", filename=found.name, headers=SAFE)
        return FileResponse(found, media_type=kind, headers=SAFE)

    def find(self, name: str) -> Path | None:
        """Return the file or folder of a path within the lake; None if there is none or it is not for showing.

        Hidden files (locks, work, Dagster's own), databases (answers of the teacher), and what a link or `..` leads to
        outside of the lake are not.
        """
        parts = [part for part in name.split("/") if part]
        if "\0" in name or any(part.startswith(".") or part.lower().endswith(PRIVATE) for part in parts):
            return None
        try:
            found = self.lake.joinpath(*parts).resolve(strict=True)
            inside = found.relative_to(self.lake).parts
        except (OSError, ValueError, RuntimeError):  # no file, outside of the lake, a circle of links
            return None
        hidden = any(part.startswith(".") or part.lower().endswith(PRIVATE) for part in inside)
        if hidden or not (found.is_dir() or (found.is_file() and not _is_database(found))):
            return None
        return found


def _is_database(file: Path) -> bool:
    """Return True for a database of SQLite, and for a file that cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(DATABASE)) == DATABASE
    except OSError:
        return True


def listing(folder: Path, name: str) -> Response:
    """Return a page that links the files of a folder, folders first."""
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name))
    shown = [path for path in entries if not path.name.startswith(".") and not path.name.lower().endswith(PRIVATE)]
    links = [_link(path) for path in shown[:MOST_LISTED]]
    if len(shown) > MOST_LISTED:
        links.append(f"<li>and {len(shown) - MOST_LISTED:,} more</li>")
    up = "" if name == "." else '<li><a href="../">..</a></li>'
    return page("lake" if name == "." else f"lake/{name}", f"<ul>{up}{''.join(links)}</ul>")


def _link(path: Path) -> str:
    name = path.name + ("/" if path.is_dir() else "")
    size = f" ({path.stat().st_size:,} bytes)" if path.is_file() else ""
    return f'<li><a href="{html.escape(quote(name))}">{html.escape(name)}</a>{size}</li>'
