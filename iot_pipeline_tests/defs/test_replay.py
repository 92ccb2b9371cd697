"""What replays promise of each asset, and how they compare tensors."""

from pathlib import Path

import pytest

from iot_pipeline.definitions import defs
from iot_pipeline.defs import replay as replaying
from iot_pipeline.defs.plan import STATE
from iot_pipeline.lineage.promises import PROMISES, promise_of, table
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.vocabulary import unstaged


def test_every_asset_has_a_promise_and_the_docs_show_the_table() -> None:
    assets = {unstaged(spec.key.to_user_string())[0] for spec in defs().resolve_all_asset_specs()}
    assert assets - {STATE} == PROMISES.keys()  # it is no artefact
    assert promise_of("lora_checkpoint_10K") is PROMISES["lora_checkpoint"]
    text = (PROJECT_ROOT / "docs" / "reproduce.md").read_text()
    rows = [f"| {' | '.join(line)} |" for line in table()]
    assert [line for line in rows if line not in text] == []


def test_tensors_are_compared_by_their_numbers(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    for name, values in {"a": [1.0, 2.0], "b": [1.0, 2.0 + 1e-9], "c": [1.0], "d": [1.0, 3.0]}.items():
        save_file({"x": np.array(values)}, tmp_path / f"{name}.safetensors")
    far = [replaying._distance(tmp_path / "a.safetensors", tmp_path / f"{name}.safetensors") for name in "abcd"]
    assert far[0] == 0 and 0 < far[1] < 1e-8 and far[2] == float("inf") and far[3] == pytest.approx(1 / 3)
