"""An artefact of other code that lacks what a chapter reads: the report names artefact, key and remedy."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import report
from iot_pipeline.reporting.gather import TABLES, Facts, gather
from iot_pipeline.reporting.measurements import collect
from iot_pipeline_tests.reporting.example_facts import make_facts
from iot_pipeline_tests.reporting.test_report import PIXEL, PLOTS

FACTS = make_facts()
FILES = {part.name: part.metadata["file"] for part in fields(Facts) if part.metadata}
PARTS = [name for name in FILES if getattr(FACTS, name)]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are one pixel: drawing takes most of a report's time."""
    for module, names in PLOTS.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *_a, **_k: PIXEL)


def read(folder: Path, artefact: ArtefactId, **written: Any) -> Facts:
    """Facts of a lake with one artefact."""
    manifest = {"asset": artefact.asset, "partition": artefact.partition, "data_version": "1", "code_version": "1",
                "inputs": {}, "settings": {}, "provenance": {}}  # fmt: skip
    for name, value in {"manifest.json": manifest, **written}.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return gather({artefact: folder})


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """JSON objects within a value."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from objects(part)


def render(facts: Facts, part: str) -> None:
    """Render the chapters that name a part of the facts."""
    for name in report.CHAPTERS:
        text = (report.FOLDER / "chapters" / name).read_text()
        included = [file for file in report.INCLUDED if f'include "{file}"' in text]
        texts = [text, *((report.FOLDER / "chapters" / file).read_text() for file in included)]
        if any(f"facts.{part}" in text for text in texts):
            report.render(name, facts)


def test_a_leakage_report_without_near_duplicates_is_named_with_the_remedy(tmp_path: Path) -> None:
    older = {key: value for key, value in FACTS.leakage_report.items() if key != "near_duplicates"}
    facts = read(tmp_path, ArtefactId("leakage_report"), **{"leakage.json": older})
    message = (
        r"^leakage_report was made by other code than this report's \(it lacks 'near_duplicates'\): `iot-pipeline run` "
    )
    with pytest.raises(UserError, match=message):
        report.paper_report(facts, tmp_path)


def test_an_artefact_with_partitions_is_named_with_its_partition(tmp_path: Path) -> None:
    facts = read(
        tmp_path,
        ArtefactId("lora_checkpoint_10K", "2027|original"),
        **{"training.json": {"facts": {"steps": 3}, "config": {}}, "loss.jsonl": '{"step": 1, "loss": 2.0}\n'},
    )
    with pytest.raises(UserError, match=r"^lora_checkpoint_10K\[2027\|original\] was made by other code"):
        render(facts, "training")


def test_the_audit_names_the_artefact_too(tmp_path: Path) -> None:
    facts = read(tmp_path, ArtefactId("leakage_report"), **{"leakage.json": {"leak_free": {}}})
    with pytest.raises(UserError, match=r"^leakage_report was made by other code .*\(it lacks 'row_wise'\)"):
        collect(facts)


@pytest.mark.parametrize("part", PARTS)
def test_any_key_may_be_missing_from_any_artefact(part: str, tmp_path: Path) -> None:
    content = json.loads(json.dumps(getattr(FACTS, part)))
    if part in TABLES:
        pd.DataFrame(content.pop("table")).to_parquet(tmp_path / TABLES[part])
    facts = replace(FACTS, **{part: getattr(read(tmp_path, ArtefactId(part), **{FILES[part]: content}), part)})
    render(facts, part)
    told = named = 0
    for found in {tuple(found): found for found in objects(getattr(facts, part))}.values():  # one of each kind
        for key in list(found):
            value = found.pop(key)
            try:
                render(facts, part)
            except UserError as error:
                told += 1
                derived = "or what is shown with it, "
                assert re.match(rf"{part}(, {derived}| )was made by other code than this report's \(", str(error))
                named += f"(it lacks {key!r})" in str(error)
            found[key] = value
    assert named > 0.8 * told, f"{named} of {told}"
