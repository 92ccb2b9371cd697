"""Croissant 1.1 description of a bundle's data with its RAI part, as `mlcroissant` reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.bundle.source import Source
from iot_pipeline.lake.atomic import sha256_file, write_json

FILE = "croissant.json"
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#",
    **{name: f"cr:{name}" for name in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
        "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
        "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}  # fmt: skip
TEST = {"flow_group": "sc:Text", "flow": "sc:Text", "label": "sc:Text", "rows": "sc:Integer"}
TRACK = {"prompt": "sc:Text", "completion": "sc:Text"}


def write_croissant(source: Source, out: Path, day: str) -> None:
    """Write croissant.json over the files in `data/`; `day` is the date of publication."""
    files = sorted((out / "data").glob("*.jsonl"))
    distribution = [
        {
            "@type": "cr:FileObject", "@id": path.name, "name": path.name, "contentUrl": f"data/{path.name}",
            "encodingFormat": "application/jsonlines", "sha256": sha256_file(path),
            "contentSize": f"{path.stat().st_size} B",
        }
        for path in files
    ]  # fmt: skip
    sets = [_record_set("test", TEST, "Distinct test flows, none of which was trained on.", "flow_group")]
    for track in (path.stem for path in files if path.stem != "test"):
        told = f"Rows of the track and stage {track}: a flow, and the teacher's explanation of it."
        sets.append(_record_set(track, TRACK, told))
    write_json(out / FILE, {**_about(source, day), **responsible(source), "distribution": distribution,
                            "recordSet": sets})  # fmt: skip


def _record_set(name: str, columns: Mapping[str, str], description: str, key: str = "") -> dict[str, Any]:
    """Describe the rows of the file of the same name.

    Args:
        name: Name of the set, and of its file without the ending.
        columns: Type of each column.
        description: What a row is.
        key: Column that tells rows apart; empty if none does.
    """
    fields = [
        {
            "@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": kind,
            "source": {"fileObject": {"@id": f"{name}.jsonl"}, "extract": {"column": column}},
        }
        for column, kind in columns.items()
    ]  # fmt: skip
    found = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, "field": fields}
    return found | ({"key": {"@id": f"{name}/{key}"}} if key else {})


def _about(source: Source, day: str) -> dict[str, Any]:
    data = source.facts.data_set
    real = "simulated after its published figures" if source.facts.simulated else "as delivered by its source"
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": f"{data.name or 'flows'}-explained",
        "description": f"{data.title}, {real}: network flows as text, their classes, and explanations by a teacher.",
        "url": f"https://doi.org/{data.doi}" if data.doi else "about:blank",
        "license": data.licence or "not stated",
        "citeAs": data.citation or "not stated",
        "datePublished": day,
        "version": "1.0.0",
        "creator": {"@type": "sc:Organization", "name": "iot_pipeline"},
        "keywords": ["intrusion detection", "network flows", "explanations"],
    }


def responsible(source: Source) -> dict[str, Any]:
    """Return the RAI fields that the manifests can answer; `source` tells what is simulated, embedded or varied."""
    facts, used = source.facts, source.facts.used
    simulated, embedded = facts.simulated, facts.embedded_teacher
    teacher = (
        "a rule-based analyst (no language model)" if embedded else f"the model {used.teacher_model or used.teacher}"
    )
    collected = (
        "Flows were simulated from packet-level models; no network was captured." if simulated
        else f"Flows come from the publisher's files: {facts.data_set.citation or facts.data_set.title}."
    )  # fmt: skip
    split = facts.evaluation_split or {}
    limited: bool = not facts.label_conflicts or facts.label_conflicts["ceilings"]["row"] < 1
    return {
        "rai:dataCollection": collected,
        "rai:dataCollectionType": ["Software Collection" if simulated else "Secondary Data Analysis"],
        "rai:dataPreprocessingProtocol": [
            "Equal flow texts form a group, and a group is on one side of the split only.",
            f"Serialisation of flows: {used.serialisation}.",
            facts.data_set.scaling_note or "Values are as published.",
        ],
        "rai:dataManipulationProtocol": "The track feature_varied moves feature values of repeated flows where models "
        "that never saw the flow keep its label; each varied row is marked in the answer provenance.",
        "rai:dataImputationProtocol": "None: rows with missing or impossible values are rejected and counted.",
        "rai:dataAnnotationProtocol": [
            "Labels are the publisher's." if not simulated else "Labels are those of the simulated attack.",
            f"Explanations were written by {teacher}, given the label, and kept if rules found no fault.",
        ],
        "rai:machineAnnotationTools": [teacher],
        "rai:dataBiases": [
            "Class frequencies are those of the source, not of a network in use; repeated flows are frequent.",
            "Explanations are given the label: they justify it, right or wrong.",
        ],
        "rai:dataLimitations": [
            *(["Nothing here was measured on a real network."] if simulated else []),
            *(["Explanations follow rules and sound alike."] if embedded else []),
            *(["Equal flows carry different labels; no function of the text can be right on all rows."] * limited),
        ],
        "rai:dataUseCases": ["Training and testing of models that name and explain attacks in IoT network flows; "
                             "not for blocking traffic without people."],
        "rai:dataSocialImpact": "Attackers can read detection rules; people may trust wrong explanations.",
        "rai:personalSensitiveInformation": [
            "None: the flows are simulated." if simulated
            else "Each row has a label and these features: "
            + ", ".join(feature.name for feature in source.spec.features)
        ],
        "rai:dataReleaseMaintenancePlan": "A bundle is one frozen release; a later run makes another one.",
        "rai:annotationsPerItem": "1",
        "prov:wasDerivedFrom": f"https://doi.org/{facts.data_set.doi}" if facts.data_set.doi else "not stated",
        "rai:hasSyntheticData": bool(simulated or "feature_varied" in {one.track for one in facts.tracks}),
        "rai:dataCollectionRawData": f"{sum((split.get('rows') or {}).values()):,} rows in the split.",
    }  # fmt: skip
