"""The machine that manifests name."""

import os

import pytest
from typer.testing import CliRunner

from iot_pipeline import cli, machine

AMD = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n\nvendor_id\t: other\n"
INTEL = "cpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: Intel(R) Xeon(R) Processor\n"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        (AMD, "AMD EPYC 9R14 (family 25, model 17)"),
        (INTEL.format(model=207), "Intel(R) Xeon(R) Processor (family 6, model 207)"),
        (INTEL.format(model=143), "Intel(R) Xeon(R) Processor (family 6, model 143)"),
    ],
)
def test_processors_of_one_name_are_told_apart(told, named, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    machine.processor.cache_clear()
    try:
        assert machine.processor() == named
    finally:
        machine.processor.cache_clear()


def test_the_machine_names_what_decides_digits_and_no_host() -> None:
    found = machine.this_machine()
    assert found["system"] and found["python"] and found["cores"] and found["packages"]["torch"] and found["processor"]
    assert machine.platform.node() not in str(found)


@pytest.mark.parametrize("arguments", [["serve"], ["classify", "flows.csv"]])
def test_commands_that_score_for_long_bound_what_pytorch_keeps_of_shapes(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of `serve` grew with every batch, by 100 MiB in 39,000 requests; what the user has set stays."""
    seen: list[dict[str, str | None]] = []
    caches = machine.SHAPE_CACHES
    monkeypatch.setattr(cli, "_configure", lambda *_: seen.append({name: os.environ.get(name) for name in caches}))
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1000")
    CliRunner().invoke(cli.app, arguments)
    assert seen[0] == {"LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1000"}
