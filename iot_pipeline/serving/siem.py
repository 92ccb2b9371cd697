"""Events as security tools read them: OCSF Detection Finding, Elastic Common Schema, Suricata's EVE.

What a schema has no field for stands under one key of our own (`unmapped` in OCSF, `iot_pipeline` elsewhere).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from iot_pipeline import __version__
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.events import DIGITS, About, Row, evidence, iso, verdict_part
from iot_pipeline.serving.identity import address, port, protocol

PRODUCT = "iot_pipeline"
OCSF_VERSION, ECS_VERSION = "1.5.0", "8.17.0"
SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}  # of OCSF
CONFIDENCES = ((0.9, 3, "High"), (0.5, 2, "Medium"), (0.0, 1, "Low"))
FIRST_SIGNATURE = 4_000_000  # of EVE signatures: flows of no known class, then one a class
EVE_PRIORITY = {4: 1, 3: 2, 2: 3, 1: 4}


def severity(verdict: Verdict, about: About) -> int:
    """Return 1 (ordinary traffic), 2 (ordinary, but unsure), 3 (an attack, but unsure; or unknown) or 4 (an attack)."""
    if about.is_benign(verdict):
        return 2 if verdict.unsure else 1
    return 3 if verdict.unsure or verdict.unknown else 4


def sentence(verdict: Verdict) -> str:
    """Return a verdict in one line: class, probability, and the other classes that cannot be ruled out."""
    if verdict.unknown:
        assert verdict.strange is not None
        why = f"; {verdict.strange.reasons[0]}" if verdict.strange.reasons else ""
        return f"of no known class, nearest {verdict.label} (p = {verdict.strange.p_value:.4f}{why})"
    told = f"{verdict.label} with probability {verdict.probability:.3f}"
    others = [name for name in verdict.members or [] if name != verdict.label]
    return told + (f"; cannot rule out {', '.join(others)}" if others else "")


def own_part(row: Row, verdict: Verdict, about: About) -> dict[str, Any]:
    """Return what no schema has a field for; probabilities as a list, because a class name may have a dot."""
    part = verdict_part(verdict, about)
    part["probabilities"] = [{"class": name, "probability": value} for name, value in part["probabilities"].items()]
    return {"file": row.file, "row": row.row, "flow_group": row.flow_group, "time_of": row.time_of, **part}


def endpoint(row: Row, side: str) -> dict[str, Any]:
    """Return the address and port of a side (`src`, `dest`) that are well-formed."""
    found = {"ip": address(row.flow.get(f"{side}_ip")), "port": port(row.flow.get(f"{side}_port"))}
    return {name: value for name, value in found.items() if value is not None}


def ocsf(row: Row, verdict: Verdict, about: About) -> dict[str, Any]:
    """Return an event as an OCSF Detection Finding (class 2004)."""
    level, milliseconds = severity(verdict, about), round(row.time * 1000)
    _, confidence, words = next(c for c in CONFIDENCES if verdict.probability >= c[0])
    model, origin = about.model, about.origin
    said, facts = verdict.explanation, evidence(verdict)[0]
    return {
        "activity_id": 1, "activity_name": "Create", "category_uid": 2, "category_name": "Findings",
        "class_uid": 2004, "class_name": "Detection Finding", "type_uid": 200401,
        "type_name": "Detection Finding: Create",
        "time": milliseconds,
        "severity_id": level, "severity": SEVERITIES[level],
        "status_id": 1, "status": "New",
        "is_alert": not about.is_benign(verdict),
        "confidence_id": confidence, "confidence": words, "confidence_score": round(100 * verdict.probability),
        "message": sentence(verdict),
        "metadata": {
            "version": OCSF_VERSION, "uid": row.uid, "log_name": row.file, "labels": origin.labels,
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": __version__, "lang": "en"},
        },
        "finding_info": {
            "uid": row.uid, "title": verdict.name, "types": [verdict.name], "created_time": milliseconds,
            "desc": said.text if said is not None else sentence(verdict), "data_sources": [row.file],
            "analytic": {
                "type_id": 4, "type": "Learning (ML/DL)", "uid": model["digest"], "version": model["adapter"],
                "name": f"{origin.base} {origin.stage} {origin.track}",
            },
        },
        "evidences": [ocsf_evidence(row) | {"data": {"facts": [fact._asdict() for fact in facts]}}],
        "unmapped": own_part(row, verdict, about),
    }  # fmt: skip


def ocsf_evidence(row: Row) -> dict[str, Any]:
    """Return endpoints and connection of a flow."""
    found: dict[str, Any] = {}
    for key, side in (("src_endpoint", "src"), ("dst_endpoint", "dest")):
        # A port alone is no endpoint: the schema wants an address or a name.
        if "ip" in (place := endpoint(row, side)):
            found[key] = place
    connection = {"protocol_name": protocol(row.flow.get("proto")), "uid": row.flow.get("uid")}
    if connection := {name: str(value) for name, value in connection.items() if value is not None}:
        found["connection_info"] = connection | {"direction_id": 0}
    return found


def ecs(row: Row, verdict: Verdict, about: About) -> dict[str, Any]:
    """Return an event by the Elastic Common Schema."""
    alert = not about.is_benign(verdict)
    sides = {"source": ecs_side(row, "src"), "destination": ecs_side(row, "dest")}
    transport, application = protocol(row.flow.get("proto")), row.flow.get("service")
    network = {"transport": transport, "protocol": application if isinstance(application, str) else None}
    addresses = list(dict.fromkeys(side["ip"] for side in sides.values() if "ip" in side))
    said = verdict.explanation
    found = {
        "@timestamp": iso(row.time),
        "ecs": {"version": ECS_VERSION},
        "message": sentence(verdict),
        "event": {
            "id": row.uid, "kind": "alert" if alert else "event",
            "category": ["intrusion_detection", "network"] if alert else ["network"],
            "type": ["info"] if alert else ["connection", "info"],
            "module": PRODUCT, "dataset": f"{PRODUCT}.classify", "severity": severity(verdict, about),
            "risk_score": round(100 * verdict.probability, DIGITS - 2) if alert else 0.0,
            "reason": said.text if said is not None else sentence(verdict),
        },
        "rule": {"name": verdict.name, "ruleset": about.origin.track, "version": about.model["digest"]},
        "observer": {"product": PRODUCT, "vendor": PRODUCT, "type": "ids", "version": __version__},
        "log": {"file": {"path": row.file}},
        **sides,
        "network": {name: value for name, value in network.items() if value is not None},
        "related": {"ip": addresses} if addresses else {},
        PRODUCT: own_part(row, verdict, about) | {"flow": {name: str(value) for name, value in row.flow.items()}},
    }  # fmt: skip
    return {name: value for name, value in found.items() if value != {}}


def ecs_side(row: Row, side: str) -> dict[str, Any]:
    """Return a side as ECS has it: `address` whatever it looks like, `ip` and `port` if they are well-formed."""
    given = row.flow.get(f"{side}_ip")
    return ({} if given is None else {"address": str(given)}) | endpoint(row, side)


def eve(row: Row, verdict: Verdict, about: About) -> dict[str, Any]:
    """Return an event as a line of Suricata's eve.json: an alert, or a flow if the traffic is ordinary."""
    alert = not about.is_benign(verdict)
    found: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(row.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z"),
        "flow_id": int(row.uid[:13], 16),  # 52 bits: exact in JavaScript too
        "event_type": "alert" if alert else "flow",
    }
    for side in ("src", "dest"):
        found |= {f"{side}_{name}": value for name, value in endpoint(row, side).items()}
    if (transport := protocol(row.flow.get("proto"))) is not None:
        found["proto"] = transport.upper()
    if isinstance(row.flow.get("service"), str):
        found["app_proto"] = row.flow["service"]
    if alert:
        found["alert"] = {
            "action": "allowed", "gid": 1, "rev": 1,
            "signature_id": signature_id(verdict),
            "signature": f"{PRODUCT} {verdict.name}", "category": verdict.name,
            "severity": EVE_PRIORITY[severity(verdict, about)],
            "metadata": {"model_digest": [about.model["digest"]], "probability": [f"{verdict.probability:.6f}"]},
        }  # fmt: skip
    own = own_part(row, verdict, about)
    return found | {PRODUCT: own | {"flow": {name: str(value) for name, value in row.flow.items()}}}


def signature_id(verdict: Verdict) -> int:
    """Return the id of a class: its place among the classes after FIRST_SIGNATURE, which is `unknown`."""
    return FIRST_SIGNATURE + (0 if verdict.unknown else 1 + list(verdict.probabilities).index(verdict.label))
