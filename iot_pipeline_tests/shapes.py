"""Made tables in the shapes of four public data sets: their columns, classes, rarities and giveaways, no row of theirs.

Every class has its own centre in each feature, so that a short training can learn something; flows repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

KDD_FEATURES = [
    "duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent",
    "hot", "num_failed_logins", "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root",
    "num_file_creations", "num_shells", "num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login",
    "count", "srv_count", "serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate", "same_srv_rate",
    "diff_srv_rate", "srv_diff_host_rate", "dst_host_count", "dst_host_srv_count", "dst_host_same_srv_rate",
    "dst_host_diff_srv_rate", "dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate", "dst_host_serror_rate",
    "dst_host_srv_serror_rate", "dst_host_rerror_rate", "dst_host_srv_rerror_rate",
]  # fmt: skip
# Rows of each class in KDDTrain+, published; the rarest have two to four of 125,973.
KDD_CLASSES = {
    "normal": 67343, "neptune": 41214, "satan": 3633, "ipsweep": 3599, "portsweep": 2931, "smurf": 2646, "nmap": 1493,
    "back": 956, "teardrop": 892, "warezclient": 890, "pod": 201, "guess_passwd": 53, "buffer_overflow": 30,
    "warezmaster": 20, "land": 18, "imap": 11, "rootkit": 10, "loadmodule": 9, "ftp_write": 8, "multihop": 7, "phf": 4,
    "perl": 3, "spy": 2,
}  # fmt: skip
UNSW_FEATURES = [
    "dur", "proto", "service", "state", "spkts", "dpkts", "sbytes", "dbytes", "rate", "sttl", "dttl", "sload",
    "dload", "sloss", "dloss", "sinpkt", "dinpkt", "sjit", "djit", "swin", "stcpb", "dtcpb", "dwin", "tcprtt",
    "synack", "ackdat", "smean", "dmean", "trans_depth", "response_body_len", "ct_srv_src", "ct_state_ttl",
    "ct_dst_ltm", "is_ftp_login", "ct_flw_http_mthd",
]  # fmt: skip
UNSW_CLASSES = {
    "": 56000, "Generic": 40000, "Exploits": 33393, "Fuzzers": 18184, "DoS": 12264, "Reconnaissance": 10491,
    "Analysis": 2000, "Backdoor": 1746, "Shellcode": 1133, "Worms": 130,
}  # fmt: skip
CIC_FEATURES = [
    "flow_duration", "Header_Length", "Protocol Type", "Duration", "Rate", "Srate", "Drate", "fin_flag_number",
    "syn_flag_number", "rst_flag_number", "psh_flag_number", "ack_flag_number", "ece_flag_number", "cwr_flag_number",
    "ack_count", "syn_count", "fin_count", "urg_count", "rst_count", "HTTP", "HTTPS", "DNS", "Telnet", "SMTP", "SSH",
    "IRC", "TCP", "UDP", "DHCP", "ARP", "ICMP", "IPv", "LLC", "Tot sum", "Min", "Max", "AVG", "Std", "Tot size", "IAT",
    "Number", "Magnitue", "Radius", "Covariance", "Variance", "Weight",
]  # fmt: skip
CIC_CLASSES = [
    "DDoS-ICMP_Flood", "DDoS-UDP_Flood", "DDoS-TCP_Flood", "DDoS-PSHACK_Flood", "DDoS-SYN_Flood", "DDoS-RSTFINFlood",
    "DDoS-SynonymousIP_Flood", "DoS-UDP_Flood", "DoS-TCP_Flood", "DoS-SYN_Flood", "BenignTraffic",
    "Mirai-greeth_flood", "Mirai-udpplain", "Mirai-greip_flood", "DDoS-ICMP_Fragmentation", "MITM-ArpSpoofing",
    "DDoS-UDP_Fragmentation", "DDoS-ACK_Fragmentation", "DNS_Spoofing", "Recon-HostDiscovery", "Recon-OSScan",
    "Recon-PortScan", "DoS-HTTP_Flood", "VulnerabilityScan", "DDoS-HTTP_Flood", "DDoS-SlowLoris",
    "DictionaryBruteForce", "SqlInjection", "BrowserHijacking", "CommandInjection", "XSS", "Backdoor_Malware",
    "Recon-PingSweep", "Uploading_Attack",
]  # fmt: skip
TELEMETRY_CLASSES = {
    "normal": 560, "backdoor": 35, "ddos": 15, "injection": 10, "password": 26, "ransomware": 3, "scanning": 4,
    "xss": 9,
}  # fmt: skip
GROUP, LEAVE_OUT = "rare_classes: {then: group, into: Rare}\n", "rare_classes: {then: leave_out}\n"
DISTINCT = 20  # one row of so many is new, the others repeat it


@dataclass(frozen=True)
class Shape:
    """One table's shape: how it is written, and what a draft of its spec must find.

    columns: names of a file without a header, else none. giveaways: columns that tell the label and are no features.
    blank: class of rows without a label. rule: what is done with rare classes.
    """

    write: Callable[[Path, int, int], None]
    label: str
    features: int
    categories: tuple[str, ...]
    giveaways: tuple[str, ...]
    columns: tuple[str, ...] = ()
    blank: str = ""
    rule: str = GROUP

    def completed(self, draft: str, rare: bool) -> str:
        """Return a draft as a person completes it: with the class of blank labels, and a rule for rare classes."""
        if self.blank:
            draft = draft.replace(f'  # "": {self.blank}\n', f'  "": {self.blank}\n')
            draft = draft.replace("\nclasses:\n", f"\nclasses:\n  - {self.blank}\n")
        return draft + self.rule if rare and "\nrare_classes:" not in draft else draft


def repeated(table: pd.DataFrame, rows: int, random: np.random.Generator) -> pd.DataFrame:
    """Fill a table up to `rows` with repeats of its rows, shuffled: flows of a capture repeat."""
    more = random.integers(0, len(table), rows - len(table))
    places = np.concatenate([np.arange(len(table)), more])
    random.shuffle(places)
    return table.iloc[places].reset_index(drop=True)


def drawn(classes: dict[str, int], rows: int, random: np.random.Generator) -> np.ndarray:
    """Draw the class of each row in its published share, every class twice at least, shuffled; `rows` or more."""
    rows = max(rows, 3 * len(classes))
    names, weights = list(classes), np.array(list(classes.values()), np.float64)
    sure = [name for name in names for _ in range(2)]
    rest = random.choice(names, rows - len(sure), p=weights / weights.sum())
    labels = np.array([*sure, *rest], dtype=object)
    random.shuffle(labels)
    return labels


def numbers(labels: np.ndarray, features: Sequence[str], random: np.random.Generator) -> pd.DataFrame:
    """Draw a value of each feature: around the class's centre, whole, a share of 1, or with one decimal."""
    codes, classes = pd.factorize(labels, sort=True)
    centres = np.random.default_rng(7).gamma(1.0, 4.0, (len(classes), len(features)))
    columns = {}
    for place, name in enumerate(features):
        spread = random.gamma(2.0, 0.4, len(labels)) if place % 3 else random.integers(0, 3, len(labels)) * 0.5
        value = centres[codes, place] * spread
        if name.endswith(("_rate", "_number")):
            columns[name] = np.round(value % 1, 2)
        else:
            columns[name] = np.round(value * 100) if place % 2 else np.round(value, 1)
    return pd.DataFrame(columns)


def words(labels: np.ndarray, options: Sequence[str], random: np.random.Generator) -> np.ndarray:
    """Draw a category that is mostly the class's own."""
    codes, _ = pd.factorize(labels, sort=True)
    own = codes % len(options)
    return np.array(options, dtype=object)[
        np.where(random.random(len(labels)) < 0.8, own, random.integers(0, len(options), len(labels)))
    ]


def nsl_kdd(path: Path, rows: int, seed: int = 1) -> None:
    """Write NSL-KDD's shape: no header, three categories, 23 classes of which three have two to four rows in all."""
    random = np.random.default_rng(seed)
    labels = drawn(KDD_CLASSES, rows // DISTINCT, random)
    table = numbers(labels, KDD_FEATURES, random)
    table["protocol_type"] = words(labels, ["tcp", "udp", "icmp"], random)
    table["service"] = words(labels, ["http", "private", "domain_u", "smtp", "ftp_data", "eco_i", "other"], random)
    table["flag"] = words(labels, ["SF", "S0", "REJ", "RSTR"], random)
    table["attack"], codes = labels, pd.factorize(labels, sort=True)[0]
    table["difficulty"] = codes  # each difficulty is of one class, so that it tells the label
    repeated(table, rows, random).to_csv(path, index=False, header=False)


def unsw_nb15(path: Path, rows: int, seed: int = 1) -> None:
    """Write UNSW-NB15's shape: three categories, a blank attack_cat for normal flows, and label 0 or 1."""
    random = np.random.default_rng(seed)
    labels = drawn(UNSW_CLASSES, rows // DISTINCT, random)
    table = numbers(labels, UNSW_FEATURES, random)
    table["proto"] = words(labels, ["tcp", "udp", "arp", "ospf", "unas"], random)
    table["service"] = words(labels, ["-", "dns", "http", "smtp", "ftp"], random)
    table["state"] = words(labels, ["FIN", "INT", "CON", "REQ"], random)
    table["attack_cat"], table["label"] = labels, (labels != "").astype(int)
    table = repeated(table, rows, random)
    table.insert(0, "id", np.arange(1, rows + 1))
    table.to_csv(path, index=False)


def ciciot2023(path: Path, rows: int, seed: int = 1) -> None:
    """Write CICIoT2023's shape: 46 numbers, 34 classes whose names have hyphens."""
    random = np.random.default_rng(seed)
    weights = dict(
        zip(CIC_CLASSES, np.geomspace(7_000_000, 40_000, len(CIC_CLASSES)).astype(int).tolist(), strict=True)
    )
    labels = drawn(weights, rows // DISTINCT, random)
    repeated(numbers(labels, CIC_FEATURES, random).assign(label=labels), rows, random).to_csv(path, index=False)


def telemetry(path: Path, rows: int, seed: int = 1) -> None:
    """Write TON_IoT telemetry's shape: date, time, three readings, label 0 or 1 and the type of attack."""
    random = np.random.default_rng(seed)
    labels = drawn(TELEMETRY_CLASSES, rows // DISTINCT, random)
    table = numbers(labels, ["temperature", "pressure", "humidity"], random)
    table = repeated(table.assign(label=(labels != "normal").astype(int), type=labels), rows, random)
    seconds = pd.Timestamp("2019-03-31 12:36:52") + pd.to_timedelta(np.arange(rows), unit="s")
    table.insert(0, "date", seconds.strftime("%d-%b-%y"))
    table.insert(1, "time", seconds.strftime("%H:%M:%S"))
    table.to_csv(path, index=False)


SHAPES = {
    "nsl_kdd": Shape(
        nsl_kdd,
        "attack",
        41,
        ("protocol_type", "service", "flag"),
        ("difficulty",),
        (*KDD_FEATURES, "attack", "difficulty"),
    ),
    "unsw_nb15": Shape(
        unsw_nb15, "attack_cat", 35, ("proto", "service", "state"), ("label",), blank="Normal", rule=LEAVE_OUT
    ),
    "ciciot2023": Shape(ciciot2023, "label", 46, (), ()),
    "telemetry": Shape(telemetry, "type", 3, (), ("label",), rule=LEAVE_OUT),
}
