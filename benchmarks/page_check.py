"""Are the project's pages valid HTML, and usable by everybody? The report, the pages beside the UI, that of `serve`.

    npm install --prefix /tmp/npm vnu-jar axe-core  # by their makers; vnu.jar needs Java 17
    .venv/bin/python benchmarks/page_check.py --npm /tmp/npm \\
        --report data_lake/farm_flow-demo/paper_report/report.html \\
        --page http://127.0.0.1:8000/ --page http://127.0.0.1:3000/lake/

The Nu validator (W3C's) reads each page; axe-core examines it in headless Chromium, light and dark, at 390 and 1440
pixels, and the page must not be wider than the window. Shades in the background are taken away first: axe cannot judge
contrast on them. Writes benchmarks/results/page_check.json; exit code 1 with any error.
"""

import argparse
import json
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from browser import Page, browser
from result import save

WIDTHS, HEIGHT = (390, 1440), 900
PLAIN = """document.head.appendChild(document.createElement("style")).textContent =
  "* { background-image: none !important }"; 0"""
RUN = "axe.run(document, {resultTypes: ['violations', 'incomplete']})"


def main() -> None:
    """Check every page that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True, help="folder with node_modules/vnu-jar and axe-core")
    parser.add_argument("--report", type=Path, action="append", default=[])
    parser.add_argument("--page", action="append", default=[], dest="pages", help="address of a page")
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    modules = options.npm / "node_modules"
    addresses = [path.absolute().as_uri() for path in options.report] + options.pages
    if not addresses:
        raise SystemExit("name a page: --report FILE or --page URL")
    axe = (modules / "axe-core" / "axe.min.js").read_text()
    with browser(options.chromium) as page:
        pages = [
            {"page": name_of(address), "html": nu_messages(modules, address), "axe": examined(page, axe, address)}
            for address in addresses
        ]
    versions = {
        name: json.loads((modules / name / "package.json").read_text())["version"] for name in ("vnu-jar", "axe-core")
    }
    save("page_check", {"question": "findings of the Nu validator and of axe-core", **versions, "pages": pages})
    for one in pages:
        for finding in [*one["html"], *one["axe"]]:
            print(one["page"], json.dumps(finding)[:400])
    wrong = [found for one in pages for found in one["html"] if found["type"] == "error"]
    wrong += [found for one in pages for found in one["axe"] if found["kind"] != "incomplete"]
    raise SystemExit(int(bool(wrong)))


def name_of(address: str) -> str:
    """Return the end of an address: folders are a machine's."""
    return "/".join(address.split("/")[-2:]) if address.startswith("file:") else address.split("/", 3)[-1] or "/"


def nu_messages(modules: Path, address: str) -> list[dict[str, Any]]:
    """Return the errors and warnings of the Nu validator."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        with urllib.request.urlopen(address, timeout=60) as answer:
            file.write_bytes(answer.read())
        jar = modules / "vnu-jar" / "build" / "dist" / "vnu.jar"
        command = ["java", "-Xmx512m", "-jar", str(jar), "--format", "json", "--exit-zero-always", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    messages = json.loads(done.stderr)["messages"]
    told = ({key: str(one.get(key))[:200] for key in ("type", "subType", "message")} for one in messages)
    return [json.loads(one) for one in sorted({json.dumps(one) for one in told})]


def examined(page: Page, axe: str, address: str) -> list[dict[str, Any]]:
    """Return what axe-core finds in each size and scheme; a page that is wider than its window is a finding too."""
    found = []
    for width in WIDTHS:
        for dark in (False, True):
            page.shape(width, HEIGHT, dark)
            page.open(address)
            page.ask(f"{axe}; 0")
            page.ask(PLAIN)
            where = {"width": width, "scheme": "dark" if dark else "light"}
            result = page.ask(RUN)
            found += [
                {**where, "kind": kind, "rule": one["id"], "help": one["help"], "nodes": len(one["nodes"]),
                 "first": one["nodes"][0]["html"][:200], "why": (one["nodes"][0].get("failureSummary") or "")[:300]}
                for kind in ("violations", "incomplete") for one in result[kind]
            ]  # fmt: skip
            if (wide := page.ask("document.documentElement.scrollWidth")) > width:
                found.append({**where, "kind": "width", "rule": "no sideways scrolling", "help": f"{wide} pixels wide"})
    return found


if __name__ == "__main__":
    main()
