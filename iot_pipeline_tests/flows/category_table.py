"""A small table with three categories, as NSL-KDD has them, and its spec."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import yaml

from iot_pipeline.flows.spec import DatasetSpec, load_spec

CATEGORIES = ("proto", "service", "flag")
NUMBERS = ("duration", "src_bytes", "dst_bytes", "count", "srv_count", "serror_rate", "rerror_rate")
# class: its values of proto, service and flag, and the factor of its sizes
CLASSES = {
    "normal": (("tcp", "udp"), ("http", "dns", "-"), ("SF",), 10.0),
    "neptune": (("tcp",), ("private", "http"), ("S0", "REJ"), 0.1),
    "smurf": (("icmp",), ("ecr_i",), ("SF",), 40.0),
    "satan": (("tcp", "udp"), ("other", "x11/6", "3pc"), ("REJ", "RSTO"), 0.5),
}


def write_csv(file: Path, rows: int, seed: int = 1, repeats: int = 1) -> None:
    """Write `rows` flows, each `repeats` times; a class is told by its categories together with its sizes."""
    chance = random.Random(seed)
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*CATEGORIES, *NUMBERS, "label"])
        for number in range(rows):
            label = list(CLASSES)[number % len(CLASSES)]
            *values, size = CLASSES[label]
            words = [chance.choice(choices) for choices in values]
            numbers = [round(size * chance.expovariate(1 / (place + 1)), 1) for place in range(len(NUMBERS))]
            writer.writerows([[*words, *numbers, label]] * repeats)


def spec_content(**changes: object) -> dict[str, object]:
    """Return the content of the table's spec file."""
    features: list[dict[str, str]] = [
        {"name": name, "kind": "category", "unit": "", "meaning": f"{name} of the connection"} for name in CATEGORIES
    ]
    features += [{"name": name, "unit": "count", "meaning": f"{name} of the connection"} for name in NUMBERS]
    content: dict[str, object] = {
        "name": "connections", "title": "Connections", "citation": "none", "licence": "CC0", "label_column": "label",
        "labels": {}, "classes": list(CLASSES), "features": features, "scaling": "none", "scaling_note": "as delivered",
        "format": {"significant": 4},
    }  # fmt: skip
    return content | changes


def write_spec(file: Path, **changes: object) -> Path:
    """Write the spec file, with some keys changed."""
    file.write_text(yaml.safe_dump(spec_content(**changes), sort_keys=False))
    return file


def connections(**changes: object) -> DatasetSpec:
    """Return the table's spec, with some keys changed."""
    return DatasetSpec.model_validate(spec_content(**changes))


def loaded(folder: Path, rows: int, repeats: int = 1, **changes: object) -> tuple[DatasetSpec, Path]:
    """Write table and spec into a folder; return the spec and the table's file."""
    write_csv(folder / "connections.csv", rows, repeats=repeats)
    return load_spec(write_spec(folder / "connections.yaml", **changes)), folder / "connections.csv"
