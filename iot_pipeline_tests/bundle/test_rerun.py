"""What a bundle of a stranger, or of other code, may hold."""

from pathlib import Path

import pytest

from iot_pipeline.bundle import rerun
from iot_pipeline.bundle.contents import LINEAGE, SETTINGS
from iot_pipeline.bundle.seal import write_sums
from iot_pipeline.errors import UserError
from iot_pipeline.reporting.exhibits import Exhibit


@pytest.mark.parametrize("content", [None, b"IOT_STAGES=\xff\n"])
def test_a_bundle_whose_settings_cannot_be_read_is_not_run(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / LINEAGE).write_text('{"artefacts": []}')
    if content is not None:
        (tmp_path / SETTINGS).parent.mkdir()
        (tmp_path / SETTINGS).write_bytes(content)
    write_sums(tmp_path)
    with pytest.raises(UserError, match=r"settings\.env cannot be read; such a bundle is not run"):
        rerun.use_bundle(tmp_path)


def test_a_table_that_has_another_column_now_is_told() -> None:
    was = Exhibit("table", 1, "data", "t", columns=["a", "b"], rows=[["x", "1"]])
    now = Exhibit("table", 1, "data", "t", columns=["a", "b", "c"], rows=[["x", "1", "2"]])
    assert rerun.differing_cells([was], [now]) == ["Table 1: other columns"]
    uneven = Exhibit("table", 1, "data", "t", columns=["a", "b"], rows=[["x"]])
    assert rerun.differing_cells([was], [uneven]) == ["Table 1: other columns"]
