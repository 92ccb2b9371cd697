"""The README is held to what it speaks of: committed results, settings that exist, commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from iot_pipeline.settings import DESCRIPTIONS

SECRET = "serve_token"  # no setting: settings are listed with their values
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_results_are_the_committed_ones() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "readme_table.py")], capture_output=True, text=True, check=True
    ).stdout.strip()
    parts = printed.split("\n\n")
    assert len(parts) == 4 and all(part.count("\n") > 2 and part in README for part in parts)


def test_every_setting_that_is_named_exists() -> None:
    text = README + (ROOT / ".env.example").read_text()
    named = set(re.findall(r"IOT_([A-Z_]+)", text))
    assert len(named) > 10
    assert {name.lower() for name in named} <= set(DESCRIPTIONS) | {SECRET}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    assert set(re.findall(r"make ([a-z]+)", README)) - {"run"} <= known


def test_every_path_that_is_named_exists() -> None:
    for path in set(re.findall(r"(?:iot_pipeline|benchmarks)/[\w./*-]+", README)):
        assert list(ROOT.glob(path.rstrip("/.")))
