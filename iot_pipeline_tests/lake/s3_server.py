"""A real S3 server on loopback (moto), with two things mended that a test of concurrency needs.

moto looks for an object and then writes it, without a lock between, so that two conditional creators may both succeed:
here requests that write go one after the other. And it takes any credentials: here only KEY's.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

KEY, SECRET, BUCKET = "TESTKEYTESTKEY", "test-secret-of-nobody", "lakes"
REFUSAL = b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"


class Quiet(WSGIRequestHandler):
    """Handler that logs nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


class Application:
    """WSGI application around moto's; `lax` ignores conditions, as some servers do."""

    def __init__(self, lax: bool = False) -> None:
        self.moto, self.lax = DomainDispatcherApplication(create_backend_app), lax
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        if KEY not in environ.get("HTTP_AUTHORIZATION", ""):
            kept = [("Content-Type", "application/xml"), ("Content-Length", str(len(REFUSAL)))]
            start_response("403 Forbidden", kept)
            # The client would take a body that answers HEAD for the start of its next answer.
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [REFUSAL]
        if self.lax:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self.lock:
            answer: Iterable[bytes] = self.moto(environ, start_response)
            return answer


class Server:
    """Server on a free port; `environment` are the variables that clients need."""

    def __init__(self, lax: bool = False) -> None:
        self.server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, Application(lax), threaded=True, request_handler=Quiet
        )
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """Return a client of the server, which sees what is really there."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def keys(self, prefix: str = "") -> list[str]:
        """List the keys in the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


@contextmanager
def s3_server(lax: bool = False) -> Iterator[Server]:
    """Serve S3 with one empty bucket while the block runs."""
    served = Server(lax)
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    try:
        served.client().create_bucket(Bucket=BUCKET)
        yield served
    finally:
        served.server.shutdown()
        thread.join()
        served.server.server_close()
