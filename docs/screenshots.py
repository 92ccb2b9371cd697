"""Make the screenshots of docs/images from a real UI on a lake, in headless Chromium.

    .venv/bin/python docs/screenshots.py --lake data_lake/farm_flow-demo --chromium chromium

The lake must have been made by `iot-pipeline run`; pngquant, if installed, makes the files smaller.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from dagster_ui import opened, until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
LOADED = "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }"
# Name of the file -> path of the page, width and height in pixels.
PAGES = {
    "ui-launchpad": ("/locations/iot_pipeline/jobs/augment/playground", 1300, 760),
    "ui-timeline": ("/overview/activity/timeline", 1200, 420),
    "ui-asset": ("/assets/paraphrased?view=partitions&partition=10K", 1200, 900),
}


def main() -> None:
    """Open the UI, take a picture of each page, and write it to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with opened(options.lake.absolute()) as client:
        until(lambda: client._execute(LOADED)["repositoriesOrError"].get("nodes"))
        for name, (path, width, height) in PAGES.items():
            picture(options.chromium, f"{client._url.removesuffix('/graphql')}{path}", width, height, name)


def picture(chromium: str, url: str, width: int, height: int, name: str) -> None:
    """Write the picture of one page to docs/images/<name>.png."""
    out = IMAGES / f"{name}.png"
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
            f"--window-size={width},{height}", "--virtual-time-budget=60000", f"--screenshot={out}", url,
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=300, stderr=subprocess.DEVNULL)
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--output", str(out), str(out)], check=True)
    print(out, out.stat().st_size)


if __name__ == "__main__":
    main()
