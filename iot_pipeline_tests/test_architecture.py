"""docs/architecture.md names every package, and every path that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = set(re.findall(r"`([a-z_./]+)`", PAGE))


def test_every_package_is_named() -> None:
    folders = [path for path in (ROOT / "iot_pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {path.name for path in folders} <= {name.rstrip("/") for name in NAMED}


def test_every_path_that_is_named_exists() -> None:
    paths = {name for name in NAMED if "/" in name or name.endswith((".py", ".md", ".yaml"))}
    assert len(paths) > 10
    for name in paths:
        assert (ROOT / name).exists() or (ROOT / "iot_pipeline" / name).exists(), name
