"""Forms that reviewers ask for: REFORMS's 32 items, the artefact appendix of USENIX and ACM, and the bundle's README.

An answer that only people can give is marked; nothing is answered that the manifests do not tell.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iot_pipeline.bundle.contents import students
from iot_pipeline.bundle.source import Source
from iot_pipeline.lake.atomic import write_json, write_text

PEOPLE = "TO BE ANSWERED BY THE AUTHORS"
Answer = Callable[[Source], str | None]


def _rows(source: Source) -> dict[str, Any]:
    return dict((source.facts.evaluation_split or {}).get("rows") or {})


def _sources(source: Source) -> str:
    data = source.facts.data_set
    real = (
        "simulated by this project after its published figures" if source.facts.simulated else "files of the publisher"
    )
    return f"{data.title}: {real}. {data.citation}. DOI {data.doi or 'none'}."


def _counts(source: Source) -> str:
    told = ", ".join(f"{side} {rows:,}" for side, rows in _rows(source).items())
    built = source.facts.flows or {}
    kept = f"{built['rows_kept']:,}" if "rows_kept" in built else "unknown"
    return f"{kept} rows kept; by side: {told}."


def _excluded(source: Source) -> str | None:
    built = source.facts.flows
    if not built:
        return None
    told = {**(built.get("rejected") or {}), **(built.get("left_out") or {})}
    return "; ".join(f"{reason}: {rows:,}" for reason, rows in told.items()) or "No row was rejected or left out."


def _models(source: Source) -> str:
    used = source.facts.used
    trained = ", ".join(f"{track} {stage}" for _, stage, track in students(source)) or "none"
    return (
        f"LoRA students on {used.base_model} ({trained}); baselines AutoGluon, LightGBM, 1-NN, hash lookup, majority."
    )


def _leak(source: Source) -> str | None:
    leaks = source.facts.leakage_report
    if not leaks:
        return None
    return (
        f"Share of test rows whose prompt was trained on: {leaks['leak_free']['shared_test_share']:.4f} here, "
        f"{leaks['row_wise']['shared_test_share']:.4f} under a split by row."
    )


def _duplicates(source: Source) -> str | None:
    report = source.facts.dedup_report
    if not report:
        return None
    return (
        f"{report['raw']['duplicate_share']:.4f} of rows repeat a flow; equal flow texts are a group and on one side "
        "only. Near-duplicates of train flows are counted in chapter Split and leakage."
    )


def _tests(source: Source) -> str | None:
    study = source.facts.study
    if not study or study["seeds"] < 2:
        return "One training seed: no comparison is put into words, so no test was made."
    return f"{study['seeds']} seeds; bootstrap over flows and seeds; Holm's correction over all contrasts."


def _fixed(text: str) -> Answer:
    return lambda _source: text


def _people(_source: Source) -> None:
    return None


# Module, item, question in short, answer. After Kapoor et al., REFORMS (Science Advances 10, 2024), 32 items.
ITEMS: list[tuple[str, str, Answer]] = [
    ("1a", "Population or distribution about which the claim is made", _people),
    ("1b", "Motivation for choosing this population", _people),
    ("1c", "Motivation for the use of machine learning", _people),
    ("2a", "Data set that is used", lambda source: f"{_sources(source)} data/ and answers/ of this bundle."),
    ("2b", "Code", lambda source: "iot_pipeline, commit " + str(_commit(source)) + "; code versions in lineage.json."),
    ("2c", "Computing environment", _fixed("environment/requirements.lock.txt and environment/environment.json.")),
    ("2d", "Documentation", _fixed("README.md of this bundle; docs/ of the code.")),
    ("2e", "Script that reproduces all results", _fixed("iot-pipeline run --from BUNDLE, without key or network.")),
    ("3a", "Source of the data", _sources),
    ("3b", "Sampling frame", _people),
    ("3c", "Why the data set is useful for the question", _people),
    ("3d", "Outcome variable", lambda source: f"The class of a flow: {', '.join(source.spec.classes)}."),
    ("3e", "Number of samples", _counts),
    ("3f", "Missing data", _fixed("Rows with missing or impossible values are rejected and counted (item 4a).")),
    ("3g", "Is the evaluation data representative", _people),
    ("4a", "Excluded data, and why", _excluded),
    ("4b", "Impossible or corrupt samples", lambda source: _excluded(source)),
    ("4c", "Transformations", lambda source: f"Flow text as {source.facts.used.serialisation}; "
                                             f"{source.facts.data_set.scaling_note or 'values as published'}"),
    ("5a", "All models", _models),
    ("5b", "Why these model types", _people),
    ("5c", "Evaluation method", _fixed("One held-out side of flow groups; validation, calibration apart.")),
    ("5d", "Model selection", _fixed("The student with the highest accuracy on the validation side.")),
    ("5e", "Hyperparameter selection", _fixed("None was searched by this run; config/settings.env has all values.")),
    ("5f", "Baselines", _fixed("AutoGluon (fixed), LightGBM, 1-NN, hash lookup, majority, on equal rows.")),
    ("6a", "Train-test separation", _leak),
    ("6b", "Dependencies and duplicates between sides", _duplicates),
    ("6c", "Legitimacy of each feature", _people),
    ("7a", "Metrics", _fixed("Accuracy, macro-F1, lowest recall, log-loss, Brier, ECE, in three views.")),
    ("7b", "Uncertainty", _fixed("95 % cluster-bootstrap intervals over flow groups.")),
    ("7c", "Statistical tests", _tests),
    ("8a", "Evidence of external validity", lambda source: "None: the flows are simulated."
                                                           if source.facts.simulated else None),
    ("8b", "Where the findings are not expected to hold", lambda source: "; ".join(source.labels) or None),
]  # fmt: skip


def _commit(source: Source) -> str:
    commits = {str(manifest.provenance.get("code_commit")) for manifest in source.manifests.values()}
    return ", ".join(sorted(commits))


def write_reforms(source: Source, out: Path) -> None:
    """Write REFORMS.md and reforms.json: each item with its answer, or marked for the authors."""
    told = [{"item": item, "question": question, "answer": answer(source)} for item, question, answer in ITEMS]
    write_json(
        out / "reforms.json", [{**one, "answered_by": "machine" if one["answer"] else "authors"} for one in told]
    )
    machine = sum(bool(one["answer"]) for one in told)
    lines = [
        "# REFORMS checklist",
        "",
        f"{machine} of {len(told)} items are answered from the manifests; the others are marked. Read every answer "
        "before you sign it.",
        "",
        "| item | question | answer |",
        "| --- | --- | --- |",
        *(f"| {one['item']} | {one['question']} | {_cell(one['answer'] or f'**{PEOPLE}**')} |" for one in told),
    ]
    write_text(out / "REFORMS.md", "\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def write_appendix(source: Source, out: Path, size: int) -> None:
    """Write the artefact appendix in the sections of USENIX and ACM; `size` is that of the bundle in bytes."""
    seconds = sum(manifest.provenance.get("seconds") or 0 for manifest in source.manifests.values())
    systems, cores, processors = (
        ", ".join(sorted({str(m.provenance.get("machine", {}).get(fact)) for m in source.manifests.values()}))
        for fact in ("system", "cores", "processor")
    )
    exhibits = "report/exhibits.json names every table, figure and number; `iot-pipeline trace table-1` leads on."
    labels = "\n".join(f"- {label}" for label in source.labels) or "- Nothing in it is simulated or embedded."
    data = "the flows are simulated, so no personal data is in them" if source.facts.simulated else f"data: {PEOPLE}"
    enough = "a CPU; " if source.facts.tiny_base else ""
    text = f"""# Artefact appendix

## Abstract

One run of iot_pipeline on {source.facts.data_set.title}: {len(source.manifests)} artefacts from source rows to the
report, with the teacher's answers. What is not the real thing in it:

{labels}

## Description and requirements

- **Security, privacy, ethics**: no network is touched; the weights are safetensors; {data}.
- **How to access**: this folder ({size / 1e6:.1f} MB). Permanent archive and DOI: {PEOPLE}.
- **Hardware**: {enough}made on {cores} cores ({processors}) in {seconds / 60:.0f} minutes of work.
- **Software**: Python 3.11 or 3.12; environment/requirements.lock.txt; made on {systems}.
- **Benchmarks**: none beyond the bundle.

## Set-up

    git clone REPOSITORY && cd iot_pipeline && git checkout COMMIT && python3 -m venv .venv
    .venv/bin/pip install -e . -c BUNDLE/environment/requirements.lock.txt

COMMIT: {_commit(source)}. REPOSITORY: {PEOPLE}. The commands below are in `.venv/bin`; BUNDLE is this folder.

## Evaluation workflow

1. **Functional**: `iot-pipeline verify BUNDLE` hashes every file; a flipped byte is named.
2. **Reproduced**: `iot-pipeline run --from BUNDLE` makes everything again, without a key or a network, compares it
   with the bundle, and names what differs. It took {seconds / 60:.0f} minutes when it was made.
3. **Claims**: {exhibits}

Which artefacts are equal to the byte and which are not promised to be: docs/reproduce.md of the code.

## Badges

Available: after archiving. Functional and Reproduced: by the steps above.
"""
    write_text(out / "ARTIFACT-APPENDIX.md", text)


def write_readme(source: Source, out: Path) -> None:
    """Write what is where in the bundle, and the two commands that use it."""
    labels = "\n".join(f"> **{label}**" for label in source.labels)
    text = f"""# Reviewer's bundle: {source.facts.data_set.title}

{labels}

    iot-pipeline verify THIS_FOLDER       # every file against SHA256SUMS, every copy against the lineage
    iot-pipeline run --from THIS_FOLDER   # make it again, without a key and without a network, and compare

| place | what |
|---|---|
| `report/` | report.html, report.md, exhibits.json; each table as CSV and LaTeX, each figure as PNG, SVG and PDF |
| `prompts/` | each prompt by name and by sha256 |
| `answers/answers.parquet` | every answer of the teacher with its request |
| `data/` | the test flows, the tracks' chat rows, their card |
| `models/` | adapters with cards and `.eval_results`; `base` if the base was built here |
| `config/` | settings.env, and the description of the data set |
| `environment/` | every package with its version, Python, system |
| `lineage.json`, `workflow.json` | every artefact with inputs, settings, hashes, checks, code and cost |
| `ro-crate-metadata.json`, `croissant.json` | the same for machines: Provenance Run RO-Crate, Croissant 1.1 with RAI |
| `lm_eval/` | the test set as a task of lm-evaluation-harness |
| `REFORMS.md`, `ARTIFACT-APPENDIX.md` | forms, answered where the machine knows the answer |
| `SHA256SUMS` | hashes of all files; `sha256sum -c SHA256SUMS` reads it too |

Rows of a real source are not in the bundle, since its licence decides; `lineage.json` has the sha256 of each file.
"""
    write_text(out / "README.md", text)
