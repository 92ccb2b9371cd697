"""The size of the flaw of multiplying published values: zeros that stay, counts that are no longer whole."""

import pytest

from iot_pipeline.augmentation.paper_variation import size_paper_variation
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter

SPEC = load_spec("farm_flow")
COUNTS = {
    "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes", "fwd_header_size_max", "bwd_header_size_max",
    "pkts_difference",
}  # fmt: skip


def text_of(spec: DatasetSpec, raw: float) -> str:
    """A flow whose features all have the raw value, as far as their scales are known."""
    values = [raw if feature.scale is None else feature.scale.from_raw(raw) for feature in spec.features]
    return FlowTextWriter(spec, "values").text(values)


@pytest.mark.parametrize("spec", [SPEC, load_spec("rt_iot2022")], ids=lambda spec: spec.name)
def test_whole_counts_are_whole_before_and_hardly_ever_after(spec: DatasetSpec) -> None:
    found = size_paper_variation([text_of(spec, raw) for raw in (1.0, 2.0, 40.0, 60.0)] * 20, spec, 1)
    assert found["not_whole_before"] == 0 and found["not_whole_share"] > 0.8
    assert found["count_values"] == 80 * len(found["features"]) and found["values"] == 80 * 29


def test_counts_are_those_whose_scale_is_known() -> None:
    assert set(size_paper_variation([text_of(SPEC, 1.0)], SPEC, 1)["features"]) == COUNTS


def test_values_that_are_not_whole_are_told_of_before_too() -> None:
    assert size_paper_variation([text_of(SPEC, 40.5)], SPEC, 1)["not_whole_before"] == 1


def test_zeros_stay() -> None:
    spec = load_spec("rt_iot2022")
    found = size_paper_variation([text_of(spec, 0.0), text_of(spec, 3.0)], spec, 1)
    assert found["zero_share"] == 0.5 and found["not_whole_share"] < 0.6  # half of the counts are zeros, still whole


def test_without_a_known_scale_there_is_nothing_to_count() -> None:
    assert all(feature.scale is not None for feature in SPEC.features)
    assumed = {f.name: f.scale.model_copy(update={"basis": "assumed"}) for f in SPEC.features if f.scale}
    found = size_paper_variation([text_of(SPEC, 1.0)], SPEC.with_scales(assumed), 1)
    assert (found["count_values"], found["not_whole_share"], found["not_whole_before"]) == (0, None, None)
