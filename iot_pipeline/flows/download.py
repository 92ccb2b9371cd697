"""Sources that are URLs: whatever fsspec reads (http, https, s3, ...) is streamed into a file beside the work."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from iot_pipeline.errors import UserError

# Seconds to connect and to wait for the next bytes; a large file may take as long as it needs.
CONNECT_SECONDS, READ_SECONDS = 30, 120


def is_url(part: str) -> bool:
    """Whether a part of a source is a URL rather than a path."""
    return "://" in part


def without_credentials(text: str) -> str:
    """The text with user and password of its URLs left out, and what follows `?` or `#` (tokens, signatures).

    A password may hold what it should not (`/`, `@`, a comma). In a URL that is not http, `?` stands in patterns too:
    there `?name=` begins what is left out.
    """
    text = re.sub(r"(?<=://)(?:[^/?#\s]*@|[^/\s]*:(?!\d*(?:[/,?#\s]|$))\S*@)", "", text)
    return re.sub(r"(?i)((?:https?://[^?#\s,]*(?=[?#])|://[^?#\s,]*(?=[?#][\w.~%-]+=)))[^\s,]*", r"\1", text)


def hide(text: str, url: str) -> str:
    """A message about a URL without its credentials, also where a library tells parts of them by themselves."""
    parts = re.split(r"[?#&;,]", url.partition("?")[2] + "#" + url.partition("#")[2])
    secrets = {value.partition("=")[2] or value for value in parts}
    secrets |= {piece for user in re.findall(r"://(\S*)@", url) for piece in [user, *user.split(":")]}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted((secret for secret in secrets if len(secret) > 2), key=len, reverse=True):
        text = text.replace(secret, "[hidden]")
    return without_credentials(text)


def fetch(url: str, folder: Path) -> list[tuple[Path, str]]:
    """(file, its URL without credentials) of each file that a URL or a glob of one names, copied into `folder`.

    Copied in pieces: memory does not grow with the file. Credentials come from the URL or from where the file system
    looks for them (AWS_* for s3). UserError where there is no such file, no access, no network or no such file system.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, **options(url))
        paths = sorted(system.glob(path)) if is_glob(url) else [path]
        if not paths:
            raise FileNotFoundError(path)
        found = []
        for number, one in enumerate(paths):
            # A folder for each: equal names stay apart.
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
    # Every file system has errors of its own: botocore's, aiohttp's, those of the operating system.
    except Exception as error:
        told = hide(" ".join(str(error).split()), url) or type(error).__name__
        raise UserError(f"the source {without_credentials(url)!r} cannot be read: {told[:300]}.") from error


def is_glob(url: str) -> bool:
    """Whether a URL is a pattern; in http `?` and brackets are not."""
    return "*" in url if url.lower().startswith("http") else glob.has_magic(url)


def options(url: str) -> dict[str, Any]:
    """What the file system is told: http goes through the environment's proxy, without a limit for the whole file."""
    if not url.lower().startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
