"""Address of a teacher's server: one spelling for each server, the source name under it, and how a key is sent."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urljoin, urlsplit

from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import without_credentials
from iot_pipeline.teacher.redaction import shown_words

OPENAI_URL = "https://api.openai.com/v1"
CHAT = "/chat/completions"
DEFAULT_PORTS = {"http": 80, "https": 443}
API_VERSION = "api-version"  # the one query parameter that is no secret
DEPLOYMENTS = "/openai/deployments/"
AZURE_HOSTS = (
    ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".azure-api.net",
    ".openai.azure.us", ".openai.azure.cn",
)  # fmt: skip
AZURE_FORMS = (
    "https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21 or "
    "https://NAME.openai.azure.com/openai/v1"
)


def normalise(address: str) -> str:
    """Return the one spelling of a server's base URL, credentials and query included.

    Scheme and host are in small letters, without the scheme's default port; slashes at the end and the path of chat
    completions are dropped. UserError for an address of Azure that names neither deployment nor version.
    """
    parts = urlsplit(address.strip())
    credentials, at, _ = parts.netloc.rpartition("@")
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    if path.lower().endswith(CHAT):
        path = path[: -len(CHAT)].rstrip("/")
    query = urlencode(parse_qsl(parts.query, keep_blank_values=True), safe="/:")
    query = parts.query if parse_qsl(query) == parse_qsl(parts.query) else query
    found = SplitResult(parts.scheme.lower(), credentials + at + _host(parts), path, query, "")
    _check_azure(found)
    return found.geturl()


def _host(parts: SplitResult) -> str:
    """Return host and port in one spelling: small letters, IPv6 in its short form, no default port."""
    host = (parts.hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
        host = f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        if not host.isascii():
            host = host.encode("idna").decode()
    port = parts.port
    return host if port is None or port == DEFAULT_PORTS.get(parts.scheme.lower()) else f"{host}:{port}"


def _check_azure(parts: SplitResult) -> None:
    """Raise UserError for a host of Azure whose path or query cannot lead to a model."""
    if not (parts.hostname or "").endswith((".openai.azure.com", ".openai.azure.us", ".openai.azure.cn")):
        return
    deployed = re.fullmatch(f"{DEPLOYMENTS}[^/]+", parts.path) and API_VERSION in dict(parse_qsl(parts.query))
    if not deployed and parts.path != "/openai/v1":
        raise UserError(
            f"IOT_TEACHER={without_credentials(parts.geturl())} names no deployment of Azure with its version of the "
            f"API: it must be {AZURE_FORMS} (IOT_TEACHER_MODEL is then the deployment)."
        )


def source_name(address: str) -> str:
    """Return the source under which a server's answers are kept: its address without credentials and query.

    An address without a path is the same server as the one that ends in /v1.
    """
    found = without_credentials(normalise(address))
    return found if urlsplit(found).path else f"{found}/v1"


def chat_url(parts: SplitResult) -> str:
    """Return the URL of chat completions below a base URL, its query kept."""
    return parts._replace(path=parts.path.rstrip("/") + CHAT).geturl()


def shown_chat_url(parts: SplitResult) -> str:
    """Return the URL of chat completions as it may be shown: of the query only the version of the API."""
    version = dict(parse_qsl(parts.query)).get(API_VERSION)
    shown = without_credentials(chat_url(parts))
    return f"{shown}?{urlencode({API_VERSION: version})}" if version else shown


def secrets_of(parts: SplitResult) -> list[str]:
    """Return the values in a URL that are hidden in logs: password and query values, but for the API's version."""
    password = parts.password or ""
    return [unquote(password), password, *(value for name, value in parse_qsl(parts.query) if name != API_VERSION)]


def is_azure(url: str) -> bool:
    """Return True for an address of Azure OpenAI, or of a gateway that takes its paths."""
    parts = urlsplit(url)
    return (
        (parts.hostname or "").endswith(AZURE_HOSTS)
        or DEPLOYMENTS in parts.path
        or API_VERSION in dict(parse_qsl(parts.query))
    )


def key_header(url: str, key: str) -> Mapping[str, str]:
    """Return the header that carries a key: `api-key` to Azure, unless it is a token of Entra (a JWT)."""
    token = key.startswith("eyJ") and key.count(".") == 2
    return {"api-key": key} if is_azure(url) and not token else {"Authorization": f"Bearer {key}"}


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without credentials, and the header that carries them (empty if there are none)."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    said = base64.b64encode(unquote(credentials).encode()).decode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {said}"}


def redirected(url: str, location: str) -> str:
    """Return the URL that a redirect leads to; UserError where it leaves the server or gives up encryption.

    Prompts and keys go to no other host. Only the change from http to https may change the port.
    """
    old = urlsplit(url)
    try:
        target = urljoin(url, location)
        new = urlsplit(target)
        same = (old.scheme, _host(old)) == (new.scheme.lower(), _host(new))
        upgraded = (old.scheme, new.scheme.lower()) == ("http", "https") and old.hostname == new.hostname
    except ValueError:  # no URL at all
        same = upgraded = False
        new = SplitResult("", "", "", "", "")
    if same or upgraded:
        return target
    where = f"{new.scheme}://{_host(new)}" if new.hostname else "no URL of a server"
    raise UserError(
        f"the teacher's server {old.scheme}://{_host(old)} redirects to {shown_words(where)}: prompts and keys do not "
        "follow to another server, so set IOT_TEACHER to the address that is meant."
    )
