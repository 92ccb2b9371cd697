"""Pages that people read are HTML without a parse error; lineage pages answer what the command line answers."""

import asyncio
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.commands.lake_files import LakeFiles
from iot_pipeline.commands.trace_pages import TracePages
from iot_pipeline.defs.asset_page import lineage_links, rows_url, trace_url
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline_tests.defs.reported import VALUES


@pytest.fixture
def lake(reported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    for name, value in (VALUES | {"IOT_LAKE": str(reported)}).items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()
    yield Lake(reported, read_only=True)
    settings_module.settings.cache_clear()


def get(lake: Lake, address: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a page beside the UI."""
    sent: list[Any] = []

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 599, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    path, _, query = address.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    asyncio.run(LakeFiles(TracePages(nothing, lake.root), lake.root)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]).decode()


def strict(page: str) -> None:
    """Parse a page; any error of the HTML standard's parser is raised. Pictures are cut, which take seconds to read."""
    html5lib.HTMLParser(strict=True).parse(re.sub(r"base64,[\w+/=]{100,}", "base64,", page))


def test_report_and_pages_are_html_without_a_parse_error(lake: Lake) -> None:
    strict((lake.folder(ArtefactId("paper_report")) / "report.html").read_text())
    strict((PROJECT_ROOT / "iot_pipeline" / "serving" / "server" / "page" / "index.html").read_text())
    for address in (
        "/lake/", "/lake/original/10K/", trace_url(ArtefactId("paraphrased", "10K")), rows_url("paraphrased", "10K"),
        rows_url("paraphrased", "10K") + "17", "/trace/rows/paraphrased/10K/9999999",
    ):  # fmt: skip
        status, headers, page = get(lake, address)
        strict(page)
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'"), address
        assert status == (404 if "9999999" in address else 200)
    with pytest.raises(html5lib.html5parser.ParseError):
        strict('<!doctype html><html lang="en"><title>x</title><p>a<div>b</div></p>')


def test_a_page_compares_with_the_file_of_settings_as_it_is_now(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = trace_url(ArtefactId("original", "10K"))
    assert "Fresh." in get(lake, address)[2]
    (tmp_path / "settings.env").write_text("IOT_EXPLANATION_WORDS=50\n")
    monkeypatch.setenv("IOT_ENV_FILE", str(tmp_path / "settings.env"))  # the server has loaded the settings before
    assert "setting explanation_words changed" in get(lake, address)[2]


def test_a_row_s_page_tells_its_prompt_and_its_cost(lake: Lake) -> None:
    _, _, page = get(lake, rows_url("paraphrased", "10K") + "17")
    text = html.unescape(page)
    prompt = (lake.folder(ArtefactId("prompt", "paraphrased")) / "prompt.md").read_text()
    assert prompt.strip().splitlines()[0] in text and "sha256" in text and "<dt>Cost</dt><dd>$" in page
    assert " 1 rows" not in text and "no other row shares the answer" in text.replace("\n", " ")
    listed = get(lake, rows_url("paraphrased", "10K"))[2]
    assert (
        f'href="{rows_url("paraphrased", "10K")}17"' in listed and f"{rows_url('paraphrased', '10K')}?from=51" in listed
    )
    later = get(lake, rows_url("paraphrased", "10K") + "?from=51")[2]
    assert ">row 51<" in later and ">row 17<" not in later and "?from=1" in later


def test_an_artefact_s_page_says_whether_it_is_stale_and_why(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = ArtefactId("paraphrased", "10K")
    assert trace_url(artefact) in lineage_links(artefact) and rows_url("paraphrased", "10K") in lineage_links(artefact)
    fresh = get(lake, trace_url(artefact))[2]
    assert "<code>iot-pipeline status</code>" in fresh and "`" not in fresh.split("<pre>")[0]
    assert "<strong>Fresh.</strong>" in fresh and rows_url("paraphrased", "10K") in fresh
    monkeypatch.setenv("IOT_TEACHER_SEED", "5")
    settings_module.settings.cache_clear()
    stale = get(lake, trace_url(artefact))[2]
    assert "Stale.</strong>" in stale and "teacher_seed" in stale


@pytest.mark.parametrize(
    "address",
    [
        "/trace/artefact/../../etc/passwd/", "/trace/artefact/nothing/", "/trace/artefact/%2e%2e/",
        "/trace/rows/x/10K/",
        "/trace/rows/original/9K/", "/trace/rows/original/10K/0x1", "/trace/rows/", "/trace/rows/original/10K/-1",
        "/trace/rows/<script>/10K/1",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found_and_inert(lake: Lake, address: str) -> None:
    status, _, page = get(lake, address)
    assert status == 404 and "<script>" not in page


def test_lineage_is_read_only(lake: Lake) -> None:
    assert get(lake, trace_url(ArtefactId("flows")), "POST")[0] == 405
    assert get(lake, "/runs")[0] == 599
