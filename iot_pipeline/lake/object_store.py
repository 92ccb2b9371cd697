"""Objects under one prefix of a bucket, by any fsspec driver that can create an object only if there is none.

Credentials, region and endpoint are the driver's own business (`AWS_*` for s3); none is read, kept or shown here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.atomic import replacing

TOGETHER = 8  # requests at a time
RACERS = 4  # creators of one object in the probe, of which one may succeed
# Codes of a condition that was not met, where a server leaves out which one; 409 where two creators meet.
CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
NO_BUCKET = {"NoSuchBucket"}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
# Errors of botocore and aiohttp, by name: neither is imported where a lake is a folder.
UNKNOWN_SELF = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}
UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
               "ClientConnectorError", "ProxyConnectionError", "FSTimeoutError"}  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """Size in bytes and time of writing (Unix seconds by the store's clock) of an object."""

    bytes: int
    modified: float


class Objects(Protocol):
    """Store of objects by key. Each call is atomic, and listings show every finished write."""

    address: str

    def probe(self) -> None:
        """Make sure that of several creators of one object one succeeds; UserError if the store lets more."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return False if there is."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object in place of what is there."""

    def read(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""

    def listing(self, prefix: str) -> dict[str, Listed]:
        """List the objects whose keys begin with `prefix/`."""

    def look(self, key: str) -> Listed | None:
        """Return size and time of an object; None if there is none."""

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object."""

    def download(self, key: str, path: Path) -> bool:
        """Write an object into a file; return False if there is none."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone do not matter."""


class ObjectStore:
    """Objects below an address such as s3://bucket/prefix."""

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address
        with self._told():
            self._system, self._base = fsspec.core.url_to_fs(address, use_listings_cache=False)
        own = getattr(self._system, "_pipe_file", self._system.pipe_file)
        if not self._system.async_impl or "mode" not in inspect.signature(own).parameters:
            raise UserError(
                f"IOT_LAKE={address}: this kind of store cannot create an object only if there is none, on which "
                "publication and leases rest; take one that can, such as s3://bucket/prefix"
            )

    def probe(self) -> None:
        """Make sure that of several creators of one object one succeeds; UserError if the store lets more."""
        key = f"probe/{uuid.uuid4().hex}"
        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(lambda number: self.create(key, str(number).encode()), range(RACERS)))
        late = self.create(key, b"late")
        self.remove([key])
        if sum(won) != 1 or late:
            raise UserError(
                f"IOT_LAKE={self.address}: the store let {sum(won) + late} of {RACERS + 1} writers create the same "
                "object: it ignores If-None-Match, and two machines would overwrite each other. Take a store that "
                "has conditional writes (AWS S3, MinIO from 2024-11, Ceph from Squid, R2)"
            )

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return False if there is."""
        try:
            with self._told():
                self._system.pipe_file(self._path(key), data, mode="create")
        except _Conflict:
            # A request that was sent again after its answer was lost meets its own object.
            return self.read(key) == data
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object in place of what is there."""
        with self._told():
            self._system.pipe_file(self._path(key), data)

    def read(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        with self._told(missing=True) as found:
            found.append(self._system.cat_file(self._path(key)))
        return found[0] if found else None

    def listing(self, prefix: str) -> dict[str, Listed]:
        """List the objects whose keys begin with `prefix/`."""
        with self._told(missing=True) as found:
            found.append(self._system.find(self._path(prefix), detail=True))
        base = len(self._base) + 1
        return {name[base:]: _listed(facts) for name, facts in (found[0] if found else {}).items()}

    def look(self, key: str) -> Listed | None:
        """Return size and time of an object; None if there is none."""
        with self._told(missing=True) as found:
            found.append(self._system.info(self._path(key)))
        return _listed(found[0]) if found and found[0]["type"] == "file" else None

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, in parts if it is large; nobody sees it before it is whole."""
        with self._told():
            self._system.put_file(str(path), self._path(key))

    def download(self, key: str, path: Path) -> bool:
        """Write an object into a file; return False if there is none."""
        try:
            with replacing(path) as temporary:
                with self._told(missing=True) as found:
                    self._system.get_file(self._path(key), str(temporary))
                    found.append(True)
                if not found:
                    raise _Missing
        except _Missing:
            return False
        except OSError as error:
            raise UserError(_of_this_host(error)) from None
        return True

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone do not matter."""
        for key in keys:
            with self._told(missing=True):
                self._system.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}"

    @contextlib.contextmanager
    def _told(self, missing: bool = False) -> Iterator[list[Any]]:
        """Yield a list for the result; turn every driver's errors into one sentence, and a conflict into _Conflict.

        With `missing`, an object that is not there leaves the list empty.
        """
        try:
            yield []
        except (UserError, KeyboardInterrupt, SystemExit):
            raise
        # Every driver raises its own errors: botocore's, aiohttp's, the operating system's.
        except Exception as error:
            if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
                raise UserError(_of_this_host(error)) from None
            codes = _codes(error)
            if isinstance(error, FileNotFoundError) and not codes & NO_BUCKET and missing:
                return
            conflict = isinstance(error, FileExistsError) or codes & CONFLICTS
            kind = _Conflict if conflict else UserError
            raise kind(f"IOT_LAKE={self.address}: {_sentence(error, codes)}") from None


class _Conflict(UserError):
    """An object was there, where one was to be created."""


class _Missing(Exception):
    """There is no object to be downloaded."""


def _of_this_host(error: OSError) -> str:
    """Say what is wrong with a file here; errors of the store name no file."""
    name = error.filename or "the lake's mirror"
    return f"{name} cannot be read or written ({error.strerror}); make room, or set IOT_LAKE_CACHE to another folder"


def _codes(error: BaseException) -> set[str]:
    """Return the store's codes and the names of an error and of what caused it."""
    codes, at = set[str](), error
    while at is not None:
        response = getattr(at, "response", None)
        if isinstance(response, dict):
            codes.add(str(response.get("Error", {}).get("Code", "")))
        codes |= {kind.__name__ for kind in type(at).__mro__}
        at = at.__cause__ or at.__context__  # type: ignore[assignment]
    return codes


def _sentence(error: BaseException, codes: set[str]) -> str:
    """Say what is wrong with a store and what to do."""
    if "ImportError" in codes:
        return "this kind of address needs a package: for s3, pip install 'iot-pipeline[remote]'"
    if codes & NO_BUCKET or isinstance(error, FileNotFoundError):
        return "there is no such bucket (or object); make the bucket, or mend the address or AWS_ENDPOINT_URL"
    if codes & UNKNOWN_SELF:
        return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, PermissionError) or codes & REFUSED:
        return "the store refuses these credentials; mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or their rights"
    if codes & UNREACHABLE or isinstance(error, (TimeoutError, ConnectionError, asyncio.TimeoutError)):
        return "the store cannot be reached; mend the network, or AWS_ENDPOINT_URL"
    return f"the store failed ({type(error).__name__}: {_without_keys(' '.join(str(error).split()))[:200]})"


def _without_keys(text: str) -> str:
    """Redact what the environment has of the store's credentials."""
    for name, value in os.environ.items():
        if name.startswith("AWS_") and name.endswith(("_ID", "_KEY", "_TOKEN")) and len(value) > 3:
            text = text.replace(value, "[hidden]")
    return printable(text, kept="")


def _listed(facts: dict[str, Any]) -> Listed:
    """Read an fsspec entry; drivers name the time of writing differently."""
    at = facts.get("LastModified") or facts.get("mtime") or facts.get("updated") or facts.get("last_modified")
    return Listed(int(facts["size"] or 0), at.timestamp() if isinstance(at, datetime) else float(at or 0))
