"""Construction of the teacher that the settings name: server, API key, answer store and source name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from sqlalchemy import URL

from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.errors import UserError
from iot_pipeline.settings import Settings, api_key
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.address import OPENAI_URL, is_azure, normalise, source_name
from iot_pipeline.teacher.archive import Replay, replayed_source
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import BatchLimits, TeacherConfig
from iot_pipeline.teacher.request import EMBEDDED, is_embedded
from iot_pipeline.teacher.store.database import store_url

REPLAY = "replay"


def address_of(settings: Settings) -> str:
    """Return the base URL, credentials included, of an external teacher server; UserError if it is invalid."""
    if settings.teacher.server == "openai":
        return OPENAI_URL
    if not _is_address(settings.teacher.server):
        raise UserError(
            "IOT_TEACHER is no URL of a server (http://user:password@host:port/v1; signs like @ / : in a password are "
            "written as %40 %2F %3A)."
        )
    address = normalise(settings.teacher.server)
    if settings.run.teacher_via == "batch" and is_azure(address):
        raise UserError(
            f"IOT_TEACHER_VIA=batch is not supported on Azure ({source_name(address)}), whose batches differ: set "
            "IOT_TEACHER_VIA=requests."
        )
    return address


def shown_address(address: str) -> str:
    """Strip credentials, query and fragment from an address, even a malformed one, so that it can be shown."""
    scheme, mark, rest = address.rpartition("://")
    return scheme.rpartition("@")[2] + mark + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def _is_address(url: str) -> bool:
    """Return True if the URL has a host and no part of a password is parsed as host, port or path."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
        parts.netloc.encode("idna")
    except ValueError:
        return False
    return named and "@" not in parts.netloc.rpartition("@")[0] and not re.search(r"[^/]@", parts.path)


def source_of(settings: Settings) -> str:
    """Return the source under which answers are stored.

    `embedded`, the server's address without credentials, or (replay) the only source in the store.
    """
    if settings.teacher.server == REPLAY:
        return replayed_source(store_of(settings))
    return EMBEDDED if settings.teacher.server == EMBEDDED else source_name(address_of(settings))


def store_of(settings: Settings) -> URL:
    """Return the URL of the answer store; UserError if IOT_TEACHER_STORE is not a valid location."""
    return store_url(settings.run.teacher_store or settings.lake_path / "teacher.sqlite")


def is_paid(settings: Settings) -> bool:
    """Return True if requests cost money: as IOT_TEACHER_PAID says, else judged by the address."""
    if settings.teacher.server in (EMBEDDED, REPLAY) or settings.run.teacher_replay:
        return False
    if settings.run.teacher_paid == "auto":
        return pricing.is_paid(address_of(settings))
    return settings.run.teacher_paid == "yes"


def as_objects(settings: Settings) -> bool:
    """Return True if answers are requested as JSON objects.

    By default all teachers but the embedded one, which writes plain text without format errors.
    """
    if settings.teacher.answers == "auto":
        return not is_embedded(source_of(settings))
    return settings.teacher.answers == "json"


@contextlib.contextmanager
def open_teacher(settings: Settings, log: Callable[[str], None] | None = None, edition: str = "") -> Iterator[Teacher]:
    """Yield the teacher that the settings name; the embedded one runs as a subprocess until the block ends.

    edition: version of the embedded teacher's rules; answers of other editions are not reused.

    Raises UserError if a required API key is missing or the server does not start.
    """
    if settings.teacher.server == REPLAY or settings.run.teacher_replay:
        yield Replay(store_of(settings), log)
        return
    _check_shared(settings, log)
    with contextlib.ExitStack() as stack:
        if settings.teacher.server == EMBEDDED:
            url, key = stack.enter_context(embedded_server()), EMBEDDED
            source = f"{EMBEDDED}-{edition}" if edition else EMBEDDED
        else:
            url, key, source = address_of(settings), _key(settings), source_of(settings)
            if log is not None and (guess := _guess(settings)):
                log(guess)
        run = settings.run
        config = TeacherConfig(
            url=url,
            api_key=key,
            store=store_of(settings),
            source=source,
            budget_usd=run.teacher_budget_usd,
            concurrency=run.teacher_concurrency,
            timeout_s=run.teacher_timeout_s,
            max_attempts=run.teacher_max_attempts,
            log=log,
            paid=is_paid(settings),
            via=run.teacher_via,
            batch_limits=BatchLimits(tokens=run.teacher_enqueued_tokens),
            rpm=run.teacher_rpm,
            tpm=run.teacher_tpm,
        )
        yield Teacher(config)


def _check_shared(settings: Settings, log: Callable[[str], None] | None) -> None:
    """Say that answers stay on this host, if only the lake is in a bucket; UserError if they cost money."""
    if not settings.remote_lake or settings.run.teacher_store is not None:
        return
    if is_paid(settings):
        raise UserError(
            "IOT_TEACHER_STORE is not set, and the lake is in a bucket: each host would pay for its own answers, with "
            "a budget of its own. Set it to a database's URL (postgresql://...), or to a file, if one host alone asks"
        )
    if log is not None:
        log(
            f"answers are kept on this host alone, in {store_of(settings).database}; other hosts share them through "
            "IOT_TEACHER_STORE=postgresql://..."
        )


def _key(settings: Settings) -> str:
    key = api_key()
    if key is None and settings.teacher.server == "openai":
        raise UserError("OPENAI_API_KEY is not set (environment or .env); or set IOT_TEACHER=embedded")
    told = key.get_secret_value().strip() if key else "none"
    if not (told.isascii() and told.isprintable()):
        raise UserError("OPENAI_API_KEY has a sign that no key has (a line break, a typographic quote): copy it again.")
    return told


def _guess(settings: Settings) -> str:
    """Return the assumption about an unconfigured server, paid or free; empty if there is none."""
    if settings.teacher.server == "openai" or settings.run.teacher_paid != "auto":
        return ""
    if is_paid(settings):
        return (
            f"{source_of(settings)} is taken for a paid server: the budget of ${settings.run.teacher_budget_usd:,.2f} "
            "holds (IOT_TEACHER_PAID=no if it is free)"
        )
    return (
        f"{source_of(settings)} is taken for a free server, as it is on this machine or network: no budget is kept "
        "(IOT_TEACHER_PAID=yes if it passes requests on to a paid one)"
    )
