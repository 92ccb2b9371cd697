"""A dry run's seconds: those of last time, or of a new partition those of its asset's other ones, marked as such."""

from pathlib import Path

import pytest

from iot_pipeline.commands.dry_run import _last_seconds, _seconds, _total, show
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact


def test_a_new_partition_is_estimated_by_the_others_of_its_asset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for track, seconds in (("original", 2.0), ("paraphrased", 5.0)):
        with Lake(tmp_path).replacing(ArtefactId("prompt", track)) as folder:
            manifest = Manifest("prompt", track, "", "1", {}, {}, {}, provenance={"seconds": seconds})
            finish_artefact(folder, manifest, set())
    last = _last_seconds(Lake(tmp_path, read_only=True))
    made, new, unknown = (
        {"artefact": str(one), "why": ["not made yet"], **_seconds(one, last.get(one.asset, {}))}
        for one in (ArtefactId("prompt", "original"), ArtefactId("prompt", "feature_varied"), ArtefactId("flows"))
    )
    assert (made["seconds"], made["seconds_estimated"]) == (2.0, False)
    assert (new["seconds"], new["seconds_estimated"]) == (3.5, True)
    assert (unknown["seconds"], unknown["seconds_estimated"]) == (None, False)
    rows = [made, new, unknown]
    show({"artefacts": rows, "fresh": 0, "total": _total(rows)}, as_json=False)
    told = capsys.readouterr().out
    assert "~3.5" in told and "6 s last time (1 with ~ by the asset's other partitions, 1 never made" in told
