"""Zeek's conn.log and flowmeter.log of the simulator's packets, counted packet by packet as Zeek does.

What these logs do not hold of the simulator's table: `pkts_difference` and `data_pkts_difference` (reading computes
them), the scale on which Farm-Flow is published (reading applies the spec's), the label and `is_attack` (a label is
added as a last field, as in labelled logs), the order of the table's rows, and digits after the sixth decimal.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.classes import FARM_FLOW
from iot_pipeline.simulator.packets import IP_HEADER, Packet, shares, trace
from iot_pipeline.simulator.simulate import class_rows, generator

Row = dict[str, Any]
CONN_TYPES = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port",
    "proto": "enum", "service": "string", "duration": "interval", "orig_bytes": "count", "resp_bytes": "count",
    "conn_state": "string", "local_orig": "bool", "missed_bytes": "count", "history": "string", "orig_pkts": "count",
    "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count", "tunnel_parents": "set[string]",
    "traffic": "string",
}  # fmt: skip


def logs_of(spec: Any, rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Lines of conn.log and of flowmeter.log for the flows of `simulate_farm_flow` of this seed, unshuffled."""
    codes = {name: int(code) for code, name in spec.labels.items()}
    conn, meter = [], []
    for name, number in class_rows(spec, rows).items():
        rng, kinds = generator(seed, codes[name]), FARM_FLOW[name]
        for kind, part in zip(kinds, shares([kind.share for kind in kinds], number), strict=True):
            if not part:
                continue
            drawn = trace(kind, part, rng)
            for payload, times, missed in zip(
                drawn.payload.tolist(), drawn.times.tolist(), drawn.missed.tolist(), strict=True
            ):
                uid = f"C{codes[name]}{len(conn):08d}"
                conn.append(connection(uid, kind.packets, payload, times, missed) | {"traffic": str(codes[name])})
                meter.append({"uid": uid} | flowmeter(kind.packets, payload, times))
    return conn, meter


def connection(uid: str, packets: Sequence[Packet], payload: Sequence[int], times: Sequence[int], missed: int) -> Row:
    """One line of conn.log; None is unset, as duration and bytes of a connection of one packet are."""
    line: Row = {"ts": f"{1545403816 + int(uid[2:]):d}.393603", "uid": uid, "id.orig_h": "192.168.1.132"}
    line |= {"id.orig_p": 40_000, "id.resp_h": "10.0.0.1", "id.resp_p": 1883, "service": None, "conn_state": "OTH"}
    line |= {"proto": "udp" if packets[0].header == 8 else "tcp", "local_orig": None, "history": "D"}
    line |= {"missed_bytes": missed, "tunnel_parents": "(empty)"}
    lasting = times[-1] > 0
    line["duration"] = f"{times[-1] / 1e6:.6f}" if lasting else None
    for side, forward in (("orig", True), ("resp", False)):
        sent = [n for n, packet in enumerate(packets) if packet.forward is forward]
        data = sum(payload[n] for n in sent)
        line[f"{side}_bytes"] = data if lasting else None
        line[f"{side}_pkts"] = len(sent)
        line[f"{side}_ip_bytes"] = data + sum(packets[n].header + IP_HEADER for n in sent)
    return {field: line.get(field) for field in CONN_TYPES}


def flowmeter(packets: Sequence[Packet], payload: Sequence[int], times: Sequence[int]) -> Row:
    """The fields of flowmeter.log that the features need; times in microseconds."""
    line: Row = {"flow_duration": f"{times[-1] / 1e6:.6f}"}
    counts = {}
    for name, ways in (("fwd", (True,)), ("bwd", (False,)), ("flow", (True, False))):
        sent = [n for n, packet in enumerate(packets) if packet.forward in ways]
        sizes, at = [payload[n] for n in sent], [times[n] for n in sent]
        gaps = [after - before for before, after in zip(at, at[1:], strict=False)]
        counts[name] = len(sent)
        line[f"{name}_pkts_per_sec"] = len(sent) * 1e6 / times[-1] if times[-1] else 0.0
        line[f"{name}_pkts_payload.tot"] = sum(sizes)
        line[f"{name}_pkts_payload.avg"] = sum(sizes) / len(sizes) if sizes else 0.0
        line[f"{name}_iat.tot"] = sum(gaps)
        line[f"{name}_iat.avg"] = sum(gaps) / len(gaps) if gaps else 0.0
        if name != "flow":
            headers = [packets[n].header for n in sent] or [0]
            line |= {f"{name}_pkts_tot": len(sent), f"{name}_data_pkts_tot": sum(size > 0 for size in sizes)}
            line |= {f"{name}_header_size_{key}": how(headers) for key, how in
                     (("tot", sum), ("min", min), ("max", max))}  # fmt: skip
    line["down_up_ratio"] = counts["bwd"] / counts["fwd"] if counts["fwd"] else 0.0
    return {field: f"{value:.6f}" if isinstance(value, float) else value for field, value in line.items()}


def tsv(path: str, lines: Sequence[Row], blanks: Sequence[str] = ()) -> str:
    """A log as Zeek's ASCII writer has it; the fields `blanks` follow the others after three blanks, as in IoT-23."""
    fields = [field for field in lines[0] if field not in blanks]
    types = [CONN_TYPES.get(field, "double") if field != "uid" else "string" for field in fields]
    last = "".join(f"   {field}" for field in blanks)
    text = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", f"#path\t{path}"]
    text += ["#open\t2018-12-21-15-50-16", "#fields\t" + "\t".join(fields) + last]
    text += ["#types\t" + "\t".join(types) + "   string" * len(blanks)]
    for line in lines:
        cells = ["-" if line[field] is None else str(line[field]) for field in fields]
        text.append("\t".join(cells) + "".join(f"   {line[field]}" for field in blanks))
    return "\n".join([*text, "#close\t2018-12-22-15-50-16"]) + "\n"


def json_log(lines: Sequence[Row]) -> str:
    """A log as Zeek's JSON writer has it: unset fields are not there."""
    numbers = {"ts", "duration"}
    kept = ({key: value for key, value in line.items() if value is not None} for line in lines)
    typed = ({key: float(value) if key in numbers else value for key, value in line.items()} for line in kept)
    return "".join(json.dumps(line) + "\n" for line in typed)


def rotated(folder: Path, path: str, lines: Sequence[Row], parts: int) -> str:
    """Write a log as `parts` gz files named by the hour; return a glob for them."""
    size = -(-len(lines) // parts)
    for number in range(parts):
        data = tsv(path, lines[number * size : (number + 1) * size]).encode()
        (folder / f"{path}.2018-12-21-{number:02d}.log.gz").write_bytes(gzip.compress(data))
    return str(folder / f"{path}.*.log.gz")


def unlabelled_pair(folder: Path, rows: int) -> str:
    """Write both logs of some simulated flows, without a label; return them as a source."""
    conn, meter = logs_of(load_spec("farm_flow"), 50 * rows, 42)
    for name, lines in (("conn", conn), ("flowmeter", meter)):
        bare = [{key: value for key, value in line.items() if key != "traffic"} for line in lines[::50]]
        (folder / f"{name}.log").write_text(tsv(name, bare))
    return f"{folder}/conn.log,{folder}/flowmeter.log"
