"""The machine that manifests name."""

import pytest

from iot_pipeline import machine

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
