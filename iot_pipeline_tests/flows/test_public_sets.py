"""Specs of public data sets: each reads a file with the quirks of what its publisher offers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iot_pipeline.commands.datasets import check
from iot_pipeline.flows.spec import DATASETS, list_specs, load_spec
from iot_pipeline_tests.flows.public_sets import HEADERS, lines, made_rows, write

OWN = ("farm_flow", "farm_flow_8", "farm_flow_binary", "rt_iot2022")
PUBLIC = [name for name in list_specs() if name not in OWN]
# Columns that tell who, when or which capture, or the label in other words.
IDENTITY = re.compile(
    r"(?i)(.*[ ._]|^)(ip|addr|port|dport|sport|dsport|time|timestamp|stime|ltime|ts|uid|id|seqid|pkseqid|host|mac)$"
    r"|^(saddr|daddr|srcip|dstip|dataset|difficulty|label|attack|attack_label|number|weight|sttl|dttl)$"
)


@dataclass
class Expected:
    """Source of a case, and what the check of its spec says."""

    source: str
    rows: int
    rejected_rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def cicids2017(folder: Path) -> Expected:
    """Blanks and a repeated name in the header, a dash in two encodings, rates of flows without duration."""
    labels = ["BENIGN", "DoS Hulk", "PortScan", "DDoS", "DoS GoldenEye", "FTP-Patator", "SSH-Patator", "DoS slowloris",
              "DoS Slowhttptest", "Bot", "Web Attack \ufffd Brute Force", "Web Attack \ufffd XSS", "Infiltration",
              "Web Attack \ufffd Sql Injection", "Heartbleed"]  # fmt: skip
    rows = made_rows("cicids2017", "Label", labels, {"Init_Win_bytes_backward": ["-1", "229"]})
    rows = [row | {"Fwd Header Length.1": row["Fwd Header Length"]} for row in rows]
    rows[0] |= {"Flow Duration": "0", "Flow Bytes/s": "Infinity", "Flow Packets/s": "Infinity"}
    rows[1] |= {"Flow Duration": "0", "Flow Bytes/s": "NaN", "Flow Packets/s": "Infinity"}
    rows[2] |= {"Flow Bytes/s": "Infinity"}
    write(folder / "Friday.pcap_ISCX.csv", lines(rows[:30], "cicids2017"))
    # Byte 0x96, as the publisher's own files have it, and the repeated column under one name.
    dashes = [row | {"Label": row["Label"].replace("\ufffd", "\u2013")} for row in rows[30:]]
    header = HEADERS["cicids2017"].replace("Length.1,", "Length,")
    write(folder / "Thursday.pcap_ISCX.csv", [header, *lines(dashes, "cicids2017", header=False)], "cp1252")
    return Expected(f"{folder}/*.csv", 59, {"infinite in Flow Bytes/s": 1})


def cse_cic_ids2018(folder: Path) -> Expected:
    """Lines that repeat the header, a file with four columns more, rates of flows without duration."""
    labels = ["Benign", "DDOS attack-HOIC", "DDoS attacks-LOIC-HTTP", "DoS attacks-Hulk", "Bot", "FTP-BruteForce",
              "SSH-Bruteforce", "Infilteration", "DoS attacks-SlowHTTPTest", "DoS attacks-GoldenEye",
              "DoS attacks-Slowloris", "DDOS attack-LOIC-UDP", "Brute Force -Web", "Brute Force -XSS",
              "SQL Injection"]  # fmt: skip
    rows = made_rows("cse_cic_ids2018", "Label", labels, {"Timestamp": ["20/02/2018 08:33:22"]})
    rows[0] |= {"Flow Duration": "0", "Flow Byts/s": "NaN", "Flow Pkts/s": "Infinity"}
    plain = list(lines(rows[:40], "cse_cic_ids2018"))
    write(folder / "Friday-02-03-2018.csv", [*plain[:20], plain[0], *plain[20:30], plain[0], *plain[30:]])
    wider = [f"f{number},172.31.69.25,94,18.219.193.20,{line}" for number, line in enumerate(
        lines(rows[40:], "cse_cic_ids2018", header=False))]  # fmt: skip
    write(folder / "Thuesday-20-02-2018.csv", [f"Flow ID,Src IP,Src Port,Dst IP,{plain[0]}", *wider])
    return Expected(f"{folder}/*.csv", 60)


def ton_iot(folder: Path) -> Expected:
    """A dash for nothing in columns of text, an address in a column of numbers."""
    flags = {name: ["-", "-", "T", "F"] for name in ("dns_AA", "dns_RD", "dns_RA", "dns_rejected", "ssl_resumed")}
    texts = flags | {"proto": ["tcp", "udp"], "service": ["-", "dns"], "conn_state": ["S0", "SF"], "ssl_version": ["-"],
                     "ssl_established": ["-", "F"], "http_method": ["-", "GET"], "src_ip": ["192.168.1.37"],
                     "dns_query": ["-", "a.example"], "http_uri": ["-", "/a?b=c"]}  # fmt: skip
    rows = made_rows("ton_iot", "type", load_spec("ton_iot").classes, texts, each=12)
    rows[5] |= {"src_bytes": "0.0.0.0"}
    source = write(folder / "train_test_network.csv", lines(rows, "ton_iot"))
    return Expected(str(source), 119, {"not a number in src_bytes": 1})


def edge_iiotset(folder: Path) -> Expected:
    """Points in names, text beside 0 and 0.0, a shifted row."""
    texts = {"http.request.method": ["0", "0.0", "GET", "POST"], "mqtt.topic": ["0", "Temperature_and_Humidity"],
             "tcp.payload": ["0", "16:03:01"], "ip.src_host": ["192.168.0.128"], "tcp.srcport": ["443", "0.0"],
             "frame.time": [" 2021 11:44:10.081753000 ", "192.168.0.128"]}  # fmt: skip
    rows = made_rows("edge_iiotset", "Attack_type", load_spec("edge_iiotset").classes, texts, each=10)
    rows[3] |= {"tcp.len": "_ipps._tcp.local"}
    source = write(folder / "DNN-EdgeIIoT-dataset.csv", lines(rows, "edge_iiotset"))
    return Expected(str(source), 149, {"not a number in tcp.len": 1})


CASES: list[Callable[[Path], Expected]] = [cicids2017, cse_cic_ids2018, edge_iiotset, ton_iot]


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
def test_a_spec_reads_a_file_with_its_publishers_quirks(made: Callable[[Path], Expected], tmp_path: Path) -> None:
    expected = made(tmp_path)
    found = check(made.__name__, expected.source, 0.05)
    assert (found["rows"], found["rejected_rows"]) == (expected.rows, expected.rejected_rows)
    assert found["left_out"] == expected.left_out and found["classes_without_rows"] == []


def test_every_public_set_has_a_case() -> None:
    assert sorted(made.__name__ for made in CASES) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_spec_is_whole(name: str) -> None:
    spec = load_spec(name)
    assert spec.facts["known_faults"] and spec.facts["sources"] and "https://" in spec.citation
    assert spec.scaling == "none" and "Left out" in (DATASETS / f"{name}.yaml").read_text()
    counts = spec.facts.get("class_rows", {})
    assert set(counts) <= {*spec.classes, *spec.absent_classes}
    assert not counts or sum(counts.values()) == spec.facts["rows"]
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", feature) for feature in spec.feature_names)
    assert all(feature.unit and feature.meaning for feature in spec.features)


@pytest.mark.parametrize("name", PUBLIC)
def test_no_feature_tells_who_when_or_the_label(name: str) -> None:
    spec = load_spec(name)
    read = {column for feature in spec.features for column in feature.source_columns}
    assert [column for column in sorted(read) if IDENTITY.match(column)] == []
