"""Make all pictures of docs/images from a real UI and server on a lake, in headless Chromium, clicking as a user would.

    .venv/bin/python docs/screenshots.py --lake data_lake/farm_flow-demo --chromium chromium

The lake must have been made by `iot-pipeline run`, with the settings of the environment. Questions are answered from
the UI's first page on; the script ends with an error if one needs more than five clicks. For the picture of a stale
artefact a line is added to prompts/paraphrased.md, and taken away again. pngquant, if installed, makes the files
smaller.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from browser import Page, browser  # noqa: E402
from dagster_ui import opened, until  # noqa: E402
from serve_load import running  # noqa: E402

IMAGES = ROOT / "docs" / "images"
LOADED = "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }"
MOST_CLICKS = 5
MOST_PICTURES = 8  # of a page that never rests, such as one that counts down to its next refresh
SERVED = "serve-page"
LINEAGE = "is it stale, and what is it made of?"
# Name of the file -> path of the page, width and height in pixels, a text that stands on it when it is drawn.
PAGES = {
    "ui-overview": ("/asset-groups", 1400, 900, "augmentation"),
    "ui-launchpad": ("/locations/iot_pipeline/jobs/augment/playground", 1300, 760, "parts"),
    "ui-timeline": ("/overview/activity/timeline", 1200, 420, "everything"),
    "ui-asset": ("/assets/paraphrased?view=partitions&partition=10K", 1200, 900, LINEAGE),
}
# Name of the file -> asset, clicks from its page on, and texts that answer the question.
QUESTIONS = {
    "ui-row": ("paraphrased", ["training rows", "row 17"], ["Text of the prompt", "Cost"]),
    "ui-trained-on": ("lora_checkpoint_10K", ["training rows"], ["Rows that students of this track", "row 17"]),
    "ui-stale": ("paraphrased", [LINEAGE], ["Stale.", "prompt"]),
}


def main() -> None:
    """Take a picture of each page and of the answer to each question; write them to docs/images."""
    names = [*PAGES, *QUESTIONS, SERVED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="pictures to make")
    options = parser.parse_args()
    os.environ["IOT_LAKE"] = str(options.lake.absolute())
    IMAGES.mkdir(exist_ok=True)
    with browser(options.chromium) as page:
        if {*options.only} != {SERVED}:
            ui_pictures(page, options.lake.absolute(), options.only)
        if SERVED in options.only:
            served_picture(page)


def ui_pictures(page: Page, lake: Path, wanted: list[str]) -> None:
    """Open the UI, and take the pictures that are wanted of it."""
    with opened(lake) as client:
        until(lambda: client._execute(LOADED)["repositoriesOrError"].get("nodes"))
        address = client._url.removesuffix("/graphql")
        for name in [name for name in PAGES if name in wanted]:
            path, width, height, text = PAGES[name]
            page.shape(width, height)
            page.open(address + path)
            page.sees(text)
            save(page, name)
        for name in [name for name in QUESTIONS if name in wanted]:
            asset, clicks, answers = QUESTIONS[name]
            page.shape(1200, 900)
            answer(page, address, asset, clicks, answers, edited=name == "ui-stale")
            print(f"{name}: {page.clicks} clicks")
            save(page, name)


def served_picture(page: Page) -> None:
    """Have the page of `iot-pipeline serve` explain its example, and take its picture in full length."""
    with running([sys.executable, "-m", "iot_pipeline", "serve", "--port", "0", "--no-cache"]) as (address, _):
        page.shape(700, 900)
        page.open(address)
        page.click("Fill in an example")
        page.click("Classify and explain")
        page.sees("CLASSIFICATION: ")
        page.shape(700, page.ask("document.documentElement.scrollHeight"))
        save(page, SERVED)


def answer(page: Page, address: str, asset: str, clicks: list[str], answers: list[str], edited: bool) -> None:
    """Find the answer to a question from the UI's first page on; fail if that takes too many clicks."""
    page.open(f"{address}/")
    page.click("Search")
    page.choose(asset)
    page.until(f"location.pathname === '/assets/{asset}'")
    with edited_prompt() if edited else nullcontext():
        for text in clicks:
            page.click(text)
        for text in answers:
            page.sees(text)
    if page.clicks > MOST_CLICKS:
        raise SystemExit(f"{page.clicks} clicks to {answers[0]!r} of {asset}")


@contextmanager
def edited_prompt() -> Iterator[None]:
    """Let the paraphrasing prompt have one more line."""
    path = ROOT / "iot_pipeline" / "prompts" / "paraphrased.md"
    before = path.read_text()
    path.write_text(f"{before}\nBe brief.\n")
    try:
        yield
    finally:
        path.write_text(before)


def save(page: Page, name: str) -> None:
    """Write the picture of what is seen to docs/images/<name>.png, once two in a row are equal: icons come late."""
    out, before = IMAGES / f"{name}.png", b""
    for _ in range(MOST_PICTURES):
        page.picture(out)
        if out.read_bytes() == before:
            break
        before = out.read_bytes()
        time.sleep(2)
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--output", str(out), str(out)], check=True)
    print(out, out.stat().st_size)


if __name__ == "__main__":
    main()
