"""Make the screenshots of docs/images from a real UI on a lake, in headless Chromium, clicking as a user would.

    .venv/bin/python docs/screenshots.py --lake data_lake/farm_flow-demo --chromium chromium

The lake must have been made by `iot-pipeline run`, with the settings of the environment. Questions are answered from
the UI's first page on; the script ends with an error if one needs more than five clicks. For the picture of a stale
artefact a line is added to prompts/paraphrased.md, and taken away again. pngquant, if installed, makes the files
smaller.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from browser import Page, browser  # noqa: E402
from dagster_ui import opened, until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
LOADED = "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }"
MOST_CLICKS = 5
# Name of the file -> path of the page, width and height in pixels, a text that stands on it when it is drawn.
PAGES = {
    "ui-overview": ("/asset-groups", 1400, 900, "augmentation"),
    "ui-launchpad": ("/locations/iot_pipeline/jobs/augment/playground", 1300, 760, "parts"),
    "ui-timeline": ("/overview/activity/timeline", 1200, 420, "everything"),
    "ui-asset": ("/assets/paraphrased?view=partitions&partition=10K", 1200, 900, "code_commit"),
}
LINEAGE = "is it stale, and what is it made of?"
# Name of the file -> asset, clicks from its page on, and texts that answer the question.
QUESTIONS = {
    "ui-row": ("paraphrased", ["training rows", "row 17"], ["Text of the prompt", "Cost"]),
    "ui-trained-on": ("lora_checkpoint_10K", ["training rows"], ["Rows that students of this track", "row 17"]),
    "ui-stale": ("paraphrased", [LINEAGE], ["Stale.", "prompt"]),
}


def main() -> None:
    """Open the UI, take a picture of each page, answer each question, and write the pictures to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--only", action="append", default=[], help="names of the pictures to make")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with opened(options.lake.absolute()) as client, browser(options.chromium) as page:
        until(lambda: client._execute(LOADED)["repositoriesOrError"].get("nodes"))
        address = client._url.removesuffix("/graphql")
        for name, (path, width, height, text) in PAGES.items():
            if not options.only or name in options.only:
                page.shape(width, height)
                page.open(address + path)
                page.sees(text)
                save(page, name)
        for name, (asset, clicks, answers) in QUESTIONS.items():
            if not options.only or name in options.only:
                page.shape(1200, 900)
                answer(page, address, asset, clicks, answers, edited=name == "ui-stale")
                print(f"{name}: {page.clicks} clicks")
                save(page, name)


def answer(page: Page, address: str, asset: str, clicks: list[str], answers: list[str], edited: bool) -> None:
    """Find the answer to a question from the UI's first page on; fail if that takes too many clicks."""
    page.open(f"{address}/")
    page.click("Search")
    page.choose(asset)
    page.until(f"location.pathname === '/assets/{asset}'")
    with edited_prompt() if edited else nothing():
        for text in clicks:
            page.click(text)
        for text in answers:
            page.sees(text)
    if page.clicks > MOST_CLICKS:
        raise SystemExit(f"{page.clicks} clicks to {answers[0]!r} of {asset}")


@contextmanager
def nothing() -> Iterator[None]:
    """Change nothing."""
    yield


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
    """Write the picture of what is seen to docs/images/<name>.png."""
    out = IMAGES / f"{name}.png"
    page.picture(out)
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--output", str(out), str(out)], check=True)
    print(out, out.stat().st_size)


if __name__ == "__main__":
    main()
