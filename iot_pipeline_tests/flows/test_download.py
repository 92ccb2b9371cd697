"""Sources by URL, on loopback servers: http and s3 give what the file gives, everything else one clear error."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import fetch, without_credentials
from iot_pipeline.flows.source import local_files, read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.loopback import Handler, listening

SPEC = load_spec("farm_flow")


class Store(Handler):
    """Objects by path over HTTP: HEAD, GET with ranges; a bucket's listing as S3 gives it. /locked asks who calls."""

    objects: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if "list-type" in query:
            return self.send(200, self.listing(path.strip("/"), query.get("prefix", [""])[0]), with_body)
        if path.startswith("/locked"):
            wanted = "Basic " + base64.b64encode(b"ann:secret").decode()
            if self.headers.get("Authorization") != wanted:
                return self.send(401, b"", with_body)
        if path not in self.objects:
            return self.send(404, b"", with_body)
        body, first = self.objects[path], self.headers.get("Range", "")
        if not first:
            return self.send(200, body, with_body)
        start, _, end = first.removeprefix("bytes=").partition("-")
        return self.send(206, body[int(start) : int(end) + 1 if end else None], with_body)

    def listing(self, bucket: str, prefix: str) -> bytes:
        keys = [key.removeprefix(f"/{bucket}/") for key in self.objects if key.startswith(f"/{bucket}/{prefix}")]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.objects[f'/{bucket}/{key}'])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag></Contents>"
            for key in keys
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def send(self, status: int, body: bytes, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def served(objects: dict[str, bytes]) -> AbstractContextManager[str]:
    """`host:port` of a store that holds the objects."""
    return listening(type("Served", (Store,), {"objects": objects}))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 flows as Parquet and CSV."""
    folder = tmp_path_factory.mktemp("table")
    simulate_farm_flow(folder / "t.parquet", rows=200)
    pa_csv.write_csv(pq.read_table(folder / "t.parquet"), folder / "t.csv")
    return folder


@pytest.fixture
def host(table: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store with the table in a folder, in a bucket, and behind a password."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    text = (table / "t.csv").read_bytes()
    lines = text.splitlines(keepends=True)
    halves = {"/data/half1.csv": b"".join(lines[:101]), "/data/half2.csv": lines[0] + b"".join(lines[101:])}
    whole = {"/data/t.parquet": (table / "t.parquet").read_bytes(), "/data/t.csv": text, "/locked/t.csv": text}
    with served(halves | whole) as address:
        yield address


def same(raw: Path, table: Path) -> bool:
    return bool(pq.read_table(raw).to_pandas().astype(float).equals(pq.read_table(table / "t.parquet").to_pandas()))


def test_http_gives_what_the_file_gives_and_names_no_password(host: str, table: Path, tmp_path: Path) -> None:
    source = f"http://ann:secret@{host}/locked/t.csv?token=abc"
    report = read_source(SPEC, source, tmp_path / "raw.parquet")
    assert same(tmp_path / "raw.parquet", table)
    text = (table / "t.csv").read_bytes()
    assert report.files == [{
        "name": "t.csv", "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest(),
        "url": f"http://{host}/locked/t.csv",
    }]  # fmt: skip


def test_urls_and_paths_mix_in_their_order(host: str, table: Path, tmp_path: Path) -> None:
    source = f"http://{host}/data/half1.csv, http://{host}/data/half2.csv,{table / 't.parquet'}"
    report = read_source(SPEC, source, tmp_path / "raw.parquet")
    assert [file["name"] for file in report.files] == ["half1.csv", "half2.csv", "t.parquet"] and report.rows == 400
    assert local_files(source) == [table / "t.parquet"]
    assert local_files(f"http://{host}/data/t.csv") == []


def test_s3_by_key_and_by_glob(host: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (extra `remote`)")
    for name, value in {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "ENDPOINT_URL": f"http://{host}",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    report = read_source(SPEC, "s3://data/t.parquet", tmp_path / "one.parquet")
    assert same(tmp_path / "one.parquet", table) and report.files[0]["url"] == "s3://data/t.parquet"
    report = read_source(SPEC, "s3://data/half*.csv", tmp_path / "two.parquet")
    assert same(tmp_path / "two.parquet", table)
    assert [file["url"] for file in report.files] == ["s3://data/half1.csv", "s3://data/half2.csv"]
    for missing in ("s3://data/none.csv", "s3://data/none*.csv"):
        with pytest.raises(UserError, match="does not exist"):
            read_source(SPEC, missing, tmp_path / "none.parquet")


def test_a_large_file_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    import tracemalloc

    body = b"0123456789abcdef" * (4 << 20)  # 64 MB
    with served({"/big.csv": body}) as address:
        tracemalloc.start()
        ((file, _),) = fetch(f"http://{address}/big.csv", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert file.stat().st_size == len(body)
    assert peak < 32 << 20


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://{host}/data/none.csv", "http://{host}/data/none.csv' does not exist"),
        ("http://bob:guess@{host}/locked/t.csv", "http://{host}/locked/t.csv' cannot be read: 401"),
        ("http://127.0.0.1:9/t.csv", "cannot be read: Cannot connect"),
        ("gopher://host/t.csv", "cannot be read: Protocol not known"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_error(host: str, tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_source(SPEC, url.format(host=host), tmp_path / "raw.parquet")
    assert message.format(host=host) in str(caught.value)
    assert "guess" not in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(known, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs a package for s3: pip install 'iot-pipeline\[remote\]'"):
        read_source(SPEC, "s3://bucket/t.csv", tmp_path / "raw.parquet")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a.csv?sig=1#x", "https://host/a.csv"),
        ("s3://key:secret@bucket/half?.csv", "s3://bucket/half?.csv"),
        ("/data/a.csv,https://t@host/b.csv?k=v,c.csv", "/data/a.csv,https://host/b.csv,c.csv"),
        ("plain/a?.csv", "plain/a?.csv"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
