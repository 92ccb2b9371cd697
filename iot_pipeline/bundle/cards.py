"""Cards for hubs: a dataset card, `.eval_results` beside each model card, and a task for lm-evaluation-harness."""

from pathlib import Path
from typing import Any

import yaml

from iot_pipeline.bundle.contents import students
from iot_pipeline.bundle.source import Source
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.reporting.report import render
from iot_pipeline.vocabulary import Partition

TASK = "lm_eval/iot_flows.yaml"
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def dump(value: Any) -> str:
    """Format a value as YAML in its own order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def write_dataset_card(source: Source, out: Path) -> None:
    """Write the card of the data: front matter as hubs read it, and what a user must know."""
    facts = source.facts
    data = facts.data_set
    front = {
        "pretty_name": data.title or data.name or "IoT flows",
        "language": ["en"],
        "license": "other",
        "license_name": data.licence or "not stated",
        "task_categories": ["text-classification", "text-generation"],
        "tags": ["iot", "intrusion-detection", "iot_pipeline", *(["synthetic"] if facts.simulated else [])],
        "source_datasets": ["original" if facts.simulated else "extended"],
        "configs": [
            {"config_name": "test", "data_files": [{"split": "test", "path": "test.jsonl"}]},
            *(
                {"config_name": path.stem, "data_files": [{"split": "train", "path": path.name}]}
                for path in sorted((out / "data").glob("*.jsonl"))
                if path.stem != "test"
            ),
        ],
    }
    banner = render("banner.md.j2", facts)
    limits = render("limits.md.j2", facts)
    text = f"""---
{dump(front)}---

# {_plain(data.title or "IoT flows")}: flows as text, classes and explanations

{banner}
`test.jsonl` has the distinct test flows: `flow_group`, `flow` (text), `label` (class of most of its rows), `labels` and
`rows`. The other files are the rows that students were trained on, one file a track and stage: `prompt` is a flow,
`completion` the explanation. No test flow is among them.

Source: {_plain(data.citation or "not stated")}. DOI: {data.doi or "none"}. Licence of the source: \
{_plain(data.licence or "not stated")}.

## Limits

{limits}
`croissant.json` in the bundle describes the same files for machines, with the fields of responsible AI.
"""
    write_text(out / "data" / "README.md", text)


def _plain(text: str) -> str:
    return " ".join(text.replace("<", "(").replace(">", ")").split())


def write_eval_results(source: Source, out: Path, day: str) -> None:
    """Write `.eval_results/test.yaml` beside each model card: the metrics of distinct test flows."""
    data = source.facts.data_set.name or "unknown"
    for _, stage, track in students(source):
        found = source.facts.evaluation.get(Partition(stage, track), {"views": {}})["views"].get("distinct")
        if not found:
            continue
        simulated = "; simulated flows" if source.facts.simulated else ""
        results = [
            {
                "dataset": {"id": data, "task_id": f"test_distinct_{metric}"},
                "value": round(100 * found[metric], 4),
                "date": day,
                "source": {"name": "report/report.html of this bundle, chapter Evaluation of each track"},
                "notes": f"{name} in per cent, distinct test flows, none trained on{simulated}",
            }
            for metric, name in METRICS.items()
        ]
        place = out / "models" / f"{stage}-{track}" / ".eval_results" / "test.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, dump(results))


def write_lm_eval(source: Source, out: Path) -> None:
    """Write the task of lm-evaluation-harness: each class line is scored behind the flow, as `explain` scores it."""
    student = next((f"models/{stage}-{track}" for _, stage, track in students(source)), "models/STAGE-TRACK")
    classes = next(iter(source.facts.evaluation.values()), {}).get("classes") or list(source.spec.classes)
    task = {
        "task": "iot_flows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "data/test.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{flow}}",
        "target_delimiter": "\n",
        "doc_to_choice": [f"CLASSIFICATION: {name}" for name in classes],
        "doc_to_target": f"{{{{ {classes!r}.index(label) }}}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "description": "distinct test flows, each once; run it in the bundle's folder"},
    }
    (out / TASK).parent.mkdir(parents=True, exist_ok=True)
    write_text(out / TASK, dump(task))
    write_text(
        out / "lm_eval" / "README.md",
        "# Test set as a task of lm-evaluation-harness\n\nIn the bundle's folder (models/base is there if the base "
        f"was built here):\n\n    lm_eval --model hf --model_args pretrained=models/base,peft={student} \\\n"
        "      --tasks iot_flows --include_path lm_eval --apply_chat_template\n\n"
        "Batches and padding move log-likelihoods a little: near ties may fall otherwise than in the report.\n",
    )
