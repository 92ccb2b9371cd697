"""`iot-pipeline datasets`: list and show data sets, draft a spec from a file, check a spec against a file."""

import re
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.categories import count_values
from iot_pipeline.flows.download import without_credentials
from iot_pipeline.flows.infer_spec import draft_spec
from iot_pipeline.flows.rare import treat_rare, unsaid, with_kept_classes
from iot_pipeline.flows.reading.names import check_given_names
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import list_specs, load_spec
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.quality.mismatch import dataset_mismatch


def known() -> list[dict[str, Any]]:
    """List the data sets that come with the project: name, published rows, numbers of classes and features."""
    return [
        {
            "name": spec.name,
            "rows": spec.facts.get("rows"),
            "classes": len(spec.classes),
            "features": len(spec.features),
        }
        for spec in map(load_spec, list_specs())
    ]


def show(name: str) -> dict[str, Any]:
    """Describe a data set: where it comes from, how it is read, its classes with their published rows, its faults."""
    spec = load_spec(name)
    published = spec.facts.get("class_rows", {})
    split = spec.publisher_split
    return {
        "title": spec.title,
        "citation": spec.citation,
        "doi": spec.doi or "none",
        "licence": spec.licence,
        "label": spec.label_column,
        "header": f"none: {len(spec.column_names)} columns are named" if spec.column_names else "in the files",
        "publisher_split": "none" if split is None else split.test_files or f"{split.column} in {split.test}",
        "published_rows": spec.facts.get("rows", "not known"),
        "classes": [f"{name} ({published[name]:,})" if name in published else name for name in spec.classes],
        "features": spec.feature_names,
        "known_faults": spec.facts.get("known_faults", []),
    }


def new(
    file: str,
    name: str | None,
    label: str | None,
    out: Path | None,
    columns: str | None = None,
    serialisation: str = "ranked",
) -> dict[str, Any]:
    """Draft a spec from files and write it; return its path, what was inferred and what reading found.

    Args:
        file: The data file, a glob, or several with commas.
        name: Name of the data set; by default from the file's name.
        label: Label column; by default inferred.
        out: File to write; by default `<name>.yaml`.
        columns: Names of the columns of files without a header, with commas.
        serialisation: Form of the example flows.

    Raises:
        UserError: The file exists, the name is not allowed, or the draft is not a valid spec. Nothing is written then.
    """
    chosen = spec_name(file) if name is None else name
    if not re.fullmatch(r"[a-z0-9_]+", chosen):
        raise UserError(f"--name {chosen!r} is not a valid name: use small letters a-z, digits and _.")
    path = out or Path(f"{chosen}.yaml")
    if path.exists():
        raise UserError(f"{path} already exists: remove it, or name another file with --out")
    draft = draft_spec(file, chosen, label, serialisation, given_columns(columns))
    write_text(path, draft.yaml)
    return {
        "spec": str(path),
        "read": draft.notes,
        "label": draft.label,
        "classes": list(dict.fromkeys(draft.labels.values())),
        "features": draft.features,
        "categories": draft.categories,
        "left_out": draft.left_out,
        "giveaways": draft.giveaways,
        "examples": draft.examples,
    }


def given_columns(columns: str | None) -> list[str]:
    """Return the names of `--columns`; UserError for an empty or repeated one."""
    if columns is None:
        return []
    try:
        return check_given_names(columns.split(","))
    except ValueError as error:
        raise UserError(f"--columns: {error}: give the names of all columns, separated by commas.") from error


def spec_name(file: str) -> str:
    """Derive a data set name from a file name: `Größe 2.csv` -> `grosse_2`."""
    shown = without_credentials(file)
    stem = Path(re.split(r"[?#]", shown)[0]).name.split(".")[0].casefold()
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_") or "data_set"


def check(spec_name: str, file: str, limit: float) -> dict[str, Any]:
    """Check a spec against a file: rows, rejections, classes, duplicates, disagreements with published facts.

    Raises UserError if the spec does not fit the file.
    """
    spec = load_spec(spec_name)
    with tempfile.TemporaryDirectory(prefix="iot_check_") as folder:
        raw, flows = Path(folder) / "raw.parquet", Path(folder) / "flows.parquet"
        read = read_source(spec, file, raw, max_rejected_share=limit)
        built = build_flows(spec, raw, flows, limit, lost_lines=sum(read.rejected.values()))
        built, rare = treat_rare(spec, flows, built, tolerated=True)
        compared = dataset_mismatch(flows, with_kept_classes(spec, flows.parent))
        counted = count_values(flows, spec)
    facts = [item for key in ("findings", "agreements") for item in compared[key] if item["kind"] == "data"]
    return {
        "rows": built.rows_kept,
        "notes": [*read.notes, *built.warnings],
        "rejected_lines": read.rejected,
        "rejected_rows": built.rejected,
        "left_out": built.left_out,
        "distinct_flows": built.distinct_groups,
        "duplicate_share": round(1 - built.distinct_groups / built.rows_kept, 4),
        "rows_by_class": built.rows_by_class,
        **({"values_of_categories": counted} if counted else {}),
        "rare_classes": unsaid(spec, rare.rare) if rare.undecided else rare.told or "none",
        "rare_classes_undecided": rare.undecided,
        "classes_without_rows": [name for name, rows in built.rows_by_class.items() if not rows],
        "published_facts_checked": len(facts),
        "published_facts_that_disagree": [
            f"{item['what']}: published {_short(item['expected'])}, found {_short(item['found'])} ({item['source']})"
            for item in facts
            if not item["agrees"]
        ],
    }


def _short(value: Any) -> str:
    """Format a figure with at most six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else "nothing" if value is None else str(value)
