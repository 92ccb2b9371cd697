"""From the settings to a teacher: which server, which key, which store, and under what name its answers are kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from sqlalchemy import URL

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import without_credentials
from iot_pipeline.settings import Settings, api_key
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.archive import Replay, replayed_source
from iot_pipeline.teacher.batch import BatchLimits
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.request import EMBEDDED, is_embedded
from iot_pipeline.teacher.store.database import store_url

OPENAI_URL = "https://api.openai.com/v1"
REPLAY = "replay"


def address_of(settings: Settings) -> str:
    """Base URL of a teacher that is no process of ours, with its credentials; UserError for what is no address."""
    if settings.teacher == "openai":
        return OPENAI_URL
    if not settings.teacher.startswith(("http://", "https://")):
        raise UserError(
            f"IOT_TEACHER={shown_address(settings.teacher)}: it must be embedded, openai, replay, or the base URL of a "
            "compatible server (http://host:port/v1)."
        )
    if not _is_address(settings.teacher):
        raise UserError(
            "IOT_TEACHER is no URL of a server (http://user:password@host:port/v1; signs like @ / : in a password are "
            "written as %40 %2F %3A)."
        )
    return settings.teacher


def shown_address(address: str) -> str:
    """Cut an address, however odd, down to what may be told: no user, no password, no query, no fragment."""
    scheme, mark, rest = address.rpartition("://")
    return scheme.rpartition("@")[2] + mark + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def _is_address(url: str) -> bool:
    """Return False for a URL whose password would be taken for a part of its host, port or path."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return named and "@" not in parts.netloc.rpartition("@")[0] and not re.search(r"[^/]@", parts.path)


def source_of(settings: Settings) -> str:
    """What the answers are filed under: `embedded`, or the server's address without credentials."""
    if settings.teacher == REPLAY:
        return replayed_source(store_of(settings))
    return EMBEDDED if settings.teacher == EMBEDDED else without_credentials(address_of(settings))


def store_of(settings: Settings) -> URL:
    """Where the answers are kept; UserError where IOT_TEACHER_STORE names no place for a store."""
    return store_url(settings.teacher_store or settings.lake_path / "teacher.sqlite")


def is_paid(settings: Settings) -> bool:
    """Whether what is asked costs money: as the settings say, else by the address."""
    if settings.teacher in (EMBEDDED, REPLAY):
        return False
    if settings.teacher_paid == "auto":
        return pricing.is_paid(address_of(settings))
    return settings.teacher_paid == "yes"


def as_objects(settings: Settings) -> bool:
    """Whether answers are asked for as JSON objects. The embedded teacher writes either form without a slip."""
    if settings.teacher_answers == "auto":
        return not is_embedded(source_of(settings))
    return settings.teacher_answers == "json"


@contextlib.contextmanager
def open_teacher(settings: Settings, log: Callable[[str], None] | None = None, edition: str = "") -> Iterator[Teacher]:
    """The teacher that the settings name; the embedded one runs as a process for as long as it is open.

    edition: of the embedded one's rules; answers of another edition are not given out for its own.
    Raises UserError where a key is needed and there is none, and where the server does not start.
    """
    if settings.teacher == REPLAY:
        yield Replay(store_of(settings), log)
        return
    with contextlib.ExitStack() as stack:
        if settings.teacher == EMBEDDED:
            url, key = stack.enter_context(embedded_server()), EMBEDDED
            source = f"{EMBEDDED}-{edition}" if edition else EMBEDDED
        else:
            url, key, source = address_of(settings), _key(settings), source_of(settings)
            if log is not None and (guess := _guess(settings)):
                log(guess)
        yield teacher_at(url, key, source, settings, log)


def teacher_at(
    url: str, key: str, source: str, settings: Settings, log: Callable[[str], None] | None = None
) -> Teacher:
    """The engine as the settings want it; nothing is connected before something is asked."""
    return Teacher(
        base_url=url,
        api_key=key,
        store=store_of(settings),
        source=source,
        budget_usd=settings.teacher_budget_usd,
        concurrency=settings.teacher_concurrency,
        timeout_s=settings.teacher_timeout_s,
        max_attempts=settings.teacher_max_attempts,
        log=log,
        paid=is_paid(settings),
        via=settings.teacher_via,
        batch_limits=BatchLimits(tokens=settings.teacher_enqueued_tokens),
        rpm=settings.teacher_rpm,
        tpm=settings.teacher_tpm,
    )


def _key(settings: Settings) -> str:
    key = api_key()
    if key is None and settings.teacher == "openai":
        raise UserError("OPENAI_API_KEY is not set (environment or .env); or set IOT_TEACHER=embedded")
    return key.get_secret_value() if key else "none"


def _guess(settings: Settings) -> str:
    """What is assumed of an address that the settings say nothing about; empty where nothing is."""
    if settings.teacher == "openai" or settings.teacher_paid != "auto":
        return ""
    if is_paid(settings):
        return (
            f"{source_of(settings)} is taken for a paid server: the budget of ${settings.teacher_budget_usd:,.2f} "
            "holds (IOT_TEACHER_PAID=no if it is free)"
        )
    return (
        f"{source_of(settings)} is taken for a free server, as it is on this machine or network: no budget is kept "
        "(IOT_TEACHER_PAID=yes if it passes requests on to a paid one)"
    )
