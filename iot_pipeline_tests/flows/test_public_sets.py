"""Specs of public data sets: each reads a file with the quirks of what its publisher offers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from iot_pipeline.commands.console import rows
from iot_pipeline.commands.datasets import check, known, show
from iot_pipeline.flows.spec import DATASETS, list_specs, load_spec
from iot_pipeline_tests.flows.public_sets import HEADERS, lines, made_rows, write, zeek_lines

OWN = ("farm_flow", "rt_iot2022")  # their editions have tests of their own
PUBLIC = [name for name in list_specs() if not name.startswith(OWN)]
spec_of, listed = cache(load_spec), cache(known)
# Columns that tell who, when or which capture, or the label in other words.
IDENTITY = re.compile(
    r"(?i)(?!.*_P(er)?_)(.*[ ._]|^)"
    r"(ip|addr|port|dport|sport|dsport|time|timestamp|stime|ltime|ts|uid|id|seqid|pkseqid|host|mac)$"
    r"|^(saddr|daddr|srcip|dstip|dataset|difficulty|label|attack|attack_label|number|weight|sttl|dttl)$"
)


@dataclass
class Expected:
    """Source of a case, and what the check of its spec says."""

    source: str
    rows: int
    rejected_rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def cicids2017(folder: Path) -> Expected:
    """Blanks and a repeated name in the header, a dash in two encodings, rates of flows without duration."""
    labels = ["BENIGN", "DoS Hulk", "PortScan", "DDoS", "DoS GoldenEye", "FTP-Patator", "SSH-Patator", "DoS slowloris",
              "DoS Slowhttptest", "Bot", "Web Attack \ufffd Brute Force", "Web Attack \ufffd XSS", "Infiltration",
              "Web Attack \ufffd Sql Injection", "Heartbleed"]  # fmt: skip
    texts = {"Init_Win_bytes_backward": ["-1", "229"]}
    rows = made_rows("cicids2017", "Label", labels[:-1], texts, each=21)
    rows += made_rows("cicids2017", "Label", labels[-1:], texts)
    rows = [row | {"Fwd Header Length.1": row["Fwd Header Length"]} for row in rows]
    rows[0] |= {"Flow Duration": "0", "Flow Bytes/s": "Infinity", "Flow Packets/s": "Infinity"}
    rows[1] |= {"Flow Duration": "0", "Flow Bytes/s": "NaN", "Flow Packets/s": "Infinity"}
    rows[22] |= {"Flow Bytes/s": "Infinity"}
    write(folder / "Friday.pcap_ISCX.csv", lines(rows[:150], "cicids2017"))
    # Byte 0x96, as the publisher's own files have it, and the repeated column under one name.
    dashes = [row | {"Label": row["Label"].replace("\ufffd", "\u2013")} for row in rows[150:]]
    header = HEADERS["cicids2017"].replace("Length.1,", "Length,")
    write(folder / "Thursday.pcap_ISCX.csv", [header, *lines(dashes, "cicids2017", header=False)], "cp1252")
    return Expected(f"{folder}/*.csv", 293, {"infinite in Flow Bytes/s": 1}, {"Heartbleed": 4})


def cse_cic_ids2018(folder: Path) -> Expected:
    """Lines that repeat the header, a file with four columns more, rates of flows without duration."""
    labels = ["Benign", "DDOS attack-HOIC", "DDoS attacks-LOIC-HTTP", "DoS attacks-Hulk", "Bot", "FTP-BruteForce",
              "SSH-Bruteforce", "Infilteration", "DoS attacks-SlowHTTPTest", "DoS attacks-GoldenEye",
              "DoS attacks-Slowloris", "DDOS attack-LOIC-UDP", "Brute Force -Web", "Brute Force -XSS",
              "SQL Injection"]  # fmt: skip
    rows = made_rows("cse_cic_ids2018", "Label", labels, {"Timestamp": ["20/02/2018 08:33:22"]}, each=20)
    rows[0] |= {"Flow Duration": "0", "Flow Byts/s": "NaN", "Flow Pkts/s": "Infinity"}
    plain = list(lines(rows[:200], "cse_cic_ids2018"))
    write(folder / "Friday-02-03-2018.csv", [*plain[:20], plain[0], *plain[20:30], plain[0], *plain[30:]])
    wider = [f"f{number},172.31.69.25,94,18.219.193.20,{line}" for number, line in enumerate(
        lines(rows[200:], "cse_cic_ids2018", header=False))]  # fmt: skip
    write(folder / "Thuesday-20-02-2018.csv", [f"Flow ID,Src IP,Src Port,Dst IP,{plain[0]}", *wider])
    return Expected(f"{folder}/*.csv", 300)


def ciciot2023(folder: Path) -> Expected:
    """34 classes beside a column named Protocol Type."""
    names = spec_of("ciciot2023").classes
    labels = [{"Benign": "BenignTraffic", "DDoS-RSTFIN_Flood": "DDoS-RSTFINFlood"}.get(name, name) for name in names]
    rows = made_rows("ciciot2023", "label", labels, {})
    return Expected(str(write(folder / "part-00000.csv", lines(rows, "ciciot2023"))), 136)


def ciciot2023_merged(folder: Path) -> Expected:
    """Labels in capitals, an infinite rate, an empty cell."""
    names = spec_of("ciciot2023").classes
    labels = [{"DDoS-RSTFIN_Flood": "DDOS-RSTFINFLOOD"}.get(name, name).upper() for name in names]
    rows = made_rows("ciciot2023_merged", "Label", labels, {}, each=6)
    rows[0] |= {"Rate": "inf"}
    rows[9] |= {"Std": ""}
    found = {"infinite in Rate": 1, "missing value in Std": 1}
    return Expected(str(write(folder / "Merged01.csv", lines(rows, "ciciot2023_merged"))), 202, found)


KDD = {"protocol_type": ["tcp", "udp", "icmp"], "service": ["http", "ftp_data", "X11", "eco_i"], "flag": ["SF", "S0"]}


def nsl_kdd(folder: Path) -> Expected:
    """No header; attacks with two rows; a test file with attacks of its own."""
    spec = spec_of("nsl_kdd")
    common, rare = spec.classes[:8], spec.classes[8:]
    train = made_rows("nsl_kdd", "attack", common, KDD, each=20) + made_rows("nsl_kdd", "attack", rare, KDD, each=2)
    write(folder / "KDDTrain+.txt", lines(train, "nsl_kdd", header=False))
    test = made_rows("nsl_kdd", "attack", spec.absent_classes, KDD, each=1)
    write(folder / "KDDTest+.txt", lines(test, "nsl_kdd", header=False))
    left_out = dict.fromkeys(rare, 2) | dict.fromkeys(spec.absent_classes, 1)
    return Expected(f"{folder}/KDDTrain+.txt,{folder}/KDDTest+.txt", 160, left_out=left_out)


def nsl_kdd_5(folder: Path) -> Expected:
    """All 40 labels of both files."""
    labels = ["normal", *(str(name) for name in spec_of("nsl_kdd_5").labels if name != "normal")]
    rows = made_rows("nsl_kdd", "attack", labels, KDD, each=4)
    rows += made_rows("nsl_kdd", "attack", ["normal"], KDD, each=20)
    write(folder / "KDDTrain+.txt", lines(rows[:100], "nsl_kdd", header=False))
    write(folder / "KDDTest+.txt", lines(rows[100:], "nsl_kdd", header=False))
    return Expected(f"{folder}/KDDTrain+.txt,{folder}/KDDTest+.txt", len(rows))


UNSW = {"proto": ["tcp", "udp", "unas"], "state": ["FIN", "CON", "INT"], "service": ["-", "http", "dns"]}
UNSW_LABELS = ["", " Fuzzers", " Fuzzers ", "Fuzzers", "Analysis", "Backdoor", "Backdoors", "DoS", "Exploits",
               "Generic", " Reconnaissance ", "Shellcode", " Shellcode ", "Worms"]  # fmt: skip


def unsw_nb15(folder: Path) -> Expected:
    """No header, blank labels, labels with blanks around them, blank cells, hexadecimal ports."""
    texts = UNSW | {"srcip": ["59.166.0.9"], "sport": ["0x000b", "1390"], "ct_ftp_cmd": [" ", "0", "1"],
                    "ct_flw_http_mthd": ["", "1"], "is_ftp_login": ["", "0", "1", "4"]}  # fmt: skip
    rows = made_rows("unsw_nb15", "attack_cat", UNSW_LABELS, texts, each=10)
    write(folder / "UNSW-NB15_1.csv", lines(rows[:60], "unsw_nb15", header=False))
    write(folder / "UNSW-NB15_2.csv", lines(rows[60:], "unsw_nb15", header=False))
    return Expected(f"{folder}/UNSW-NB15_[1-4].csv", 140)


def unsw_nb15_split(folder: Path) -> Expected:
    """A byte order mark before the header, normal traffic by name, a test file."""
    labels = spec_of("unsw_nb15_split").classes
    rows = made_rows("unsw_nb15_split", "attack_cat", labels, UNSW | {"is_ftp_login": ["0", "2"]}, each=10)
    write(folder / "UNSW_NB15_training-set.csv", lines(rows[::2], "unsw_nb15_split"), "utf-8-sig")
    write(folder / "UNSW_NB15_testing-set.csv", lines(rows[1::2], "unsw_nb15_split"), "utf-8-sig")
    return Expected(f"{folder}/*-set.csv", 100)


def ton_iot(folder: Path) -> Expected:
    """A dash for nothing in columns of text, an address in a column of numbers."""
    flags = {name: ["-", "-", "T", "F"] for name in ("dns_AA", "dns_RD", "dns_RA", "dns_rejected", "ssl_resumed")}
    texts = flags | {"proto": ["tcp", "udp"], "service": ["-", "dns"], "conn_state": ["S0", "SF"], "ssl_version": ["-"],
                     "ssl_established": ["-", "F"], "http_method": ["-", "GET"], "src_ip": ["192.168.1.37"],
                     "dns_query": ["-", "a.example"], "http_uri": ["-", "/a?b=c"]}  # fmt: skip
    rows = made_rows("ton_iot", "type", spec_of("ton_iot").classes, texts, each=12)
    rows[5] |= {"src_bytes": "0.0.0.0"}
    source = write(folder / "train_test_network.csv", lines(rows, "ton_iot"))
    return Expected(str(source), 119, {"not a number in src_bytes": 1})


def edge_iiotset(folder: Path) -> Expected:
    """Points in names, text beside 0 and 0.0, a shifted row."""
    texts = {"http.request.method": ["0", "0.0", "GET", "POST"], "mqtt.topic": ["0", "Temperature_and_Humidity"],
             "tcp.payload": ["0", "16:03:01"], "ip.src_host": ["192.168.0.128"], "tcp.srcport": ["443", "0.0"],
             "frame.time": [" 2021 11:44:10.081753000 ", "192.168.0.128"]}  # fmt: skip
    rows = made_rows("edge_iiotset", "Attack_type", spec_of("edge_iiotset").classes, texts, each=10)
    rows[3] |= {"tcp.len": "_ipps._tcp.local"}
    source = write(folder / "DNN-EdgeIIoT-dataset.csv", lines(rows, "edge_iiotset"))
    return Expected(str(source), 149, {"not a number in tcp.len": 1})


def bot_iot(folder: Path) -> Expected:
    """Nearly no normal traffic, a first file of one class, no ports for ARP."""
    texts = {"flgs": ["e", "e s", "e *"], "proto": ["udp", "tcp", "arp", "ipv6-icmp"], "state": ["CON", "RST", "INT"],
             "saddr": ["192.168.100.147"], "sport": ["80", "0x0303", ""]}  # fmt: skip
    rows = made_rows("bot_iot", "category", ["DoS", "DDoS", "Reconnaissance"], texts, each=40)
    rows += made_rows("bot_iot", "category", ["Normal", "Theft"], texts, each=3)
    write(folder / "UNSW_2018_IoT_Botnet_Full5pc_1.csv", lines(rows[:40], "bot_iot"))
    write(folder / "UNSW_2018_IoT_Botnet_Full5pc_2.csv", lines(rows[40:], "bot_iot"))
    return Expected(f"{folder}/*Full5pc_*.csv", 120, left_out={"Normal": 3, "Theft": 3})


def iot_23(folder: Path) -> Expected:
    """Zeek logs whose last three fields are separated by blanks, with - for what is not known."""
    texts = {"proto": ["tcp", "udp"], "service": ["-", "dns", "irc"], "conn_state": ["S0", "SF", "OTH"], "uid": ["C1"],
             "history": ["S", "ShADadFf", "-", "ShADadfFr"], "id.orig_h": ["192.168.1.132"], "id.resp_h": ["1.2.3.4"],
             "local_orig": ["-"], "local_resp": ["-"], "duration": ["-", "3.21"], "orig_bytes": ["-", "62"],
             "resp_bytes": ["-", "0"], "tunnel_parents": ["(empty)", "-"]}  # fmt: skip
    spec = spec_of("iot_23")
    names = {name: label for label, name in spec.labels.items()}
    labels = [str(names.get(name, name)) for name in spec.classes]
    rows = made_rows("iot_23", "detailed-label", labels[:8], texts, each=24)
    rows += made_rows("iot_23", "detailed-label", labels[8:], texts, each=2)
    found = [row | {"label": "benign" if row["detailed-label"] == "-" else "Malicious"} for row in rows]
    for number, part in enumerate((found[::2], found[1::2])):
        (folder / str(number)).mkdir()
        write(folder / str(number) / "conn.log.labeled", zeek_lines(part))
    return Expected(f"{folder}/*/conn.log.labeled", 192, left_out=dict.fromkeys(spec.classes[8:], 2))


def nf_uq_nids_v2(folder: Path) -> Expected:
    """Names of classes from four data sets, NetFlow fields that wrap or are infinite."""
    names = spec_of("nf_uq_nids_v2").classes
    labels = [{"Brute_Force": "Brute Force", "Infiltration": "Infilteration"}.get(name, name) for name in names]
    texts = {"PROTOCOL": ["6", "17", "1"], "L7_PROTO": ["0.0", "7.178", "5.0"], "TCP_FLAGS": ["22", "0"],
             "CLIENT_TCP_FLAGS": ["2", "0"], "SERVER_TCP_FLAGS": ["20", "0"], "IPV4_SRC_ADDR": ["192.168.100.148"],
             "SRC_TO_DST_SECOND_BYTES": ["140280.0", "inf"], "ICMP_TYPE": ["-29696"],
             "FLOW_DURATION_MILLISECONDS": ["4294499"], "Dataset": ["NF-BoT-IoT-v2", "NF-ToN-IoT-v2"]}  # fmt: skip
    rows = made_rows("nf_uq_nids_v2", "Attack", labels, texts, each=8)
    return Expected(str(write(folder / "NF-UQ-NIDS-v2.csv", lines(rows, "nf_uq_nids_v2"))), 168)


def n_baiot(folder: Path) -> Expected:
    """No label but the file's name; files of several devices."""
    files = ["1.benign", "2.benign", "1.gafgyt.combo", "2.mirai.udpplain"]
    for name in files:
        write(folder / f"{name}.csv", lines(made_rows("n_baiot", "", [name[2:]], {}, each=20), "n_baiot"))
    spec = spec_of("n_baiot")
    there = {spec.labels[f"{name}.csv"] for name in files}
    return Expected(f"{folder}/[1-9].*.csv", 80, absent=[name for name in spec.classes if name not in there])


CASES: list[Callable[[Path], Expected]] = [
    bot_iot, cicids2017, ciciot2023, ciciot2023_merged, cse_cic_ids2018, edge_iiotset, iot_23, n_baiot, nf_uq_nids_v2,
    nsl_kdd, nsl_kdd_5, ton_iot, unsw_nb15, unsw_nb15_split,
]  # fmt: skip


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
def test_a_spec_reads_a_file_with_its_publishers_quirks(made: Callable[[Path], Expected], tmp_path: Path) -> None:
    expected = made(tmp_path)
    found = check(made.__name__, expected.source, 0.05)
    assert (found["rows"], found["rejected_rows"]) == (expected.rows, expected.rejected_rows)
    assert found["left_out"] == expected.left_out and found["classes_without_rows"] == expected.absent


def test_every_public_set_has_a_case() -> None:
    assert sorted(made.__name__ for made in CASES) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_spec_is_whole(name: str) -> None:
    spec = spec_of(name)
    assert spec.facts["known_faults"] and spec.facts["sources"] and "https://" in spec.citation
    assert spec.scaling == "none" and "Left out" in (DATASETS / f"{name}.yaml").read_text()
    counts = spec.facts.get("class_rows", {})
    assert set(counts) <= {*spec.classes, *spec.absent_classes}
    assert not counts or sum(counts.values()) == spec.facts["rows"]
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", feature) for feature in spec.feature_names)
    assert all(feature.unit and feature.meaning for feature in spec.features)


@pytest.mark.parametrize("name", PUBLIC)
def test_no_feature_tells_who_when_or_the_label(name: str) -> None:
    spec = spec_of(name)
    read = {column for feature in spec.features for column in feature.source_columns}
    assert [column for column in sorted(read) if IDENTITY.match(column)] == []


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("nsl_kdd", "KDDTrain+.txt", "KDDTest+.txt"),
        ("nsl_kdd_5", "KDDTrain+.txt", "KDDTest+.txt"),
        ("unsw_nb15_split", "UNSW_NB15_training-set.csv", "UNSW_NB15_testing-set.csv"),
    ],
)
def test_the_publishers_test_file_is_known_by_its_name(name: str, train: str, test: str) -> None:
    split = spec_of(name).publisher_split
    assert split is not None and split.is_test(f"sets/{test}") and not split.is_test(f"sets/{train}")


def test_the_list_of_data_sets_has_a_line_for_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows(listed(), as_json=False)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(list_specs()) + 4
    assert sum("2,830,743" in line and "cicids2017" in line for line in told) == 1


def test_a_data_set_is_shown_with_its_faults() -> None:
    told = show("cicids2017")
    assert "Heartbleed (11)" in told["classes"] and told["published_rows"] == 2_830_743
    assert any("first FIN" in fault for fault in told["known_faults"]) and told["publisher_split"] == "none"


def test_the_table_of_data_sets_is_that_of_their_files() -> None:
    table = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    told = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:5]]
        for line in table.splitlines()
        if line.startswith("| `")
    }
    assert told == {
        row["name"]: [f"{row['rows']:,}" if row["rows"] else "not published", str(row["classes"]), str(row["features"])]
        for row in listed()
    }
