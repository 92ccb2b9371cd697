"""The asset `prompt`: versioned by the sha256 of its text, of which the lake keeps every one that was ever used."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.prompts.assets import prompt
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.lake.verify import verify


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(settings_module.load_settings({}).teacher.prompts, tmp_path / "prompts")
    monkeypatch.setenv("IOT_PROMPTS", str(tmp_path / "prompts"))
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    settings_module.settings.cache_clear()
    yield tmp_path / "prompts"
    settings_module.settings.cache_clear()


def snapshot(track: str) -> str:
    """Materialise a track's prompt; its data version, as Dagster and the manifest have it."""
    done = dg.materialize([prompt], partition_key=track, resources={"lake": LakeResource()})
    (event,) = done.asset_materializations_for_node("prompt")
    manifest = Lake(settings_module.settings().lake_path).manifest(ArtefactId("prompt", track))
    assert manifest is not None and manifest.data_version == (event.tags or {})["dagster/data_version"]
    return manifest.data_version


def test_every_text_that_was_used_can_be_read_by_its_version(prompts: Path) -> None:
    file, lake = prompts / "original.md", Lake(settings_module.settings().lake_path)
    texts = [file.read_text(), file.read_text() + "\nBe brief.\n"]
    versions = []
    for text in [*texts, texts[0]]:
        file.write_text(text)
        versions.append(snapshot("original"))
    assert versions == [hashlib.sha256(text.encode()).hexdigest() for text in [*texts, texts[0]]]
    assert [(lake.root / "prompts" / f"{version}.md").read_text() for version in versions[:2]] == texts
    assert verify(lake).mismatches == []


def test_a_changed_snapshot_is_named(prompts: Path) -> None:
    version = snapshot("original")
    lake = Lake(settings_module.settings().lake_path)
    (lake.root / "prompts" / f"{version}.md").write_text("another text")
    (wrong,) = verify(lake).mismatches
    assert (wrong.artefact, wrong.file) == ("prompts", f"{version}.md")
