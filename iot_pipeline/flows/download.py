"""Download of sources given as URLs: anything fsspec reads (http, https, s3, ...), streamed into a file."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from iot_pipeline.errors import UserError

# A URL up to its query or fragment, and these. Outside http, `?` may belong to a glob: only `?name=` starts a query.
QUERY = re.compile(r"(?i)(https?://[^?#\s,]*(?=[?#])|://[^?#\s,]*(?=[?#][\w.~%-]+=))([^\s,]*)")
# Timeouts for connecting and for the next bytes; there is no total limit, as files may be large.
CONNECT_SECONDS, READ_SECONDS = 30, 120


def is_url(part: str) -> bool:
    """Return True if a part of a source is a URL rather than a path."""
    return "://" in part


def without_credentials(text: str) -> str:
    """Strip user and password from the URLs in a text, and everything after `?` or `#` (tokens, signatures).

    A password may contain characters that it should not (`/`, `@`, a comma).
    """
    text = re.sub(r"(?<=://)(?:[^/?#\s]*@|[^/\s]*:(?!\d*(?:[/,?#\s]|$))\S*@)", "", text)
    return QUERY.sub(r"\1", text)


def hide(text: str, url: str) -> str:
    """Redact the credentials of a URL in a message, also where a library quotes parts of them separately."""
    parts = re.split(r"[?#&;,]", url.partition("?")[2] + "#" + url.partition("#")[2])
    secrets = {value.partition("=")[2] or value for value in parts}
    secrets |= {piece for user in re.findall(r"://(\S*)@", url) for piece in [user, *user.split(":")]}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted((secret for secret in secrets if len(secret) > 2), key=len, reverse=True):
        text = text.replace(secret, "[hidden]")
    return without_credentials(text)


def fetch(url: str, folder: Path) -> list[tuple[Path, str]]:
    """Download every file that a URL or a glob of URLs names into `folder`.

    Returns (file, its URL without credentials) of each. Files are streamed, so memory does not grow with their size.
    Credentials come from the URL or from where the file system looks for them (AWS_* for s3). Raises UserError if there
    is no such file, no access, no network or no such file system.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, **options(url))
        paths = sorted(system.glob(path)) if is_glob(url) else [path]
        if not paths:
            raise FileNotFoundError(path)
        found = []
        for number, one in enumerate(paths):
            # One folder per file, so that equal names do not collide.
            shown = without_credentials(str(system.unstrip_protocol(one)))
            file = folder / f"url{len(list(folder.iterdir())):05d}_{number}" / (Path(shown).name or "source")
            file.parent.mkdir()
            system.get_file(one, str(file))
            found.append((file, shown))
        return found
    except ImportError as error:
        raise UserError(
            f"the source {without_credentials(url)!r} needs a package for {url.split('://')[0]}: "
            f"pip install 'iot-pipeline[remote]' ({hide(str(error), url)})."
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"the source {without_credentials(url)!r} does not exist: check the URL.") from error
    # Every file system raises its own errors: botocore's, aiohttp's, the operating system's.
    except Exception as error:
        told = hide(" ".join(str(error).split()), url) or type(error).__name__
        raise UserError(f"the source {without_credentials(url)!r} cannot be read: {told[:300]}.") from error


def is_glob(url: str) -> bool:
    """Return True if a URL is a pattern; in http, `?` and brackets are not."""
    return "*" in url if url.lower().startswith("http") else glob.has_magic(url)


def options(url: str) -> dict[str, Any]:
    """Return the options for the file system: http uses the environment's proxy and has no total time limit."""
    if not url.lower().startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
