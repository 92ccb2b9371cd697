"""Rows of the report's tables and curves whose columns follow from the data."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from iot_pipeline.evaluation.explanations import importance_agreement
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import formats, markdown
from iot_pipeline.reporting.comparison import lowest_recall
from iot_pipeline.reporting.exhibits import lineage_id
from iot_pipeline.reporting.gather import Facts, Json, Origin, Run, Track
from iot_pipeline.vocabulary import ARMS, CONTROLS, STAGES, Partition

INPUTS_SHOWN = 8  # of an artefact in the lineage chapter; `iot-pipeline trace` prints all
# Explanation metrics that come first, since the table is wider than a page.
VERDICT = ("measure", "flows", "difference", "low", "high", "p, corrected", "verdict")
TENSORS = ("rows", "distinct_rows", "tokens", "supervised_tokens", "longest", "rows_cut")
COUNTS = ("rows", "repeat_rows", "share_varied", "distinct_requests", "distinct_answers", "distinct_wordings")
FIRST = ("explained", "faultless", "numbers_grounded", "values_true", "features_real", "directions_true")


def name_of(partition: Partition) -> str:
    """Format a student as `original 10K`."""
    return f"{partition.track} {partition.stage}"


def by_partition(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return one row per track and stage."""
    return [{"track": partition.track, "stage": partition.stage, **values} for partition, values in found.items()]


def increments(tracks: Mapping[Partition, Track]) -> list[Json]:
    """Return what each increment's report counts, without its breakdowns."""
    scalar = (str, int, float, bool, type(None))
    counts = {
        partition: {key: value for key, value in track.report.items() if isinstance(value, scalar)}
        for partition, track in tracks.items()
    }
    return by_partition({partition: _in_order(found, COUNTS) for partition, found in counts.items()})


def tensors(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return the counts of training tensors by student."""
    name = {"rows_label_and_end_supervised": "rows with label and end supervised"}
    return by_partition(
        {
            partition: {name.get(key, key): value for key, value in _in_order(stats, TENSORS).items()}
            for partition, stats in found.items()
        }
    )


def samples(report: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the first sample of each class by marked feature: feature -> class -> value, raw units in brackets."""
    found: dict[str, dict[str, str]] = {}
    for line in report["table"]:
        if line["sample"] == 0 and line["feature"] in report["marked"]:
            text, raw = line["printed"], line["raw"]
            if raw is not None and raw == raw:  # NaN means that the scale of this feature is unknown
                text = f"{text} ({formats.number(round(raw, 3))} {line['unit']})"
            found.setdefault(line["feature"], {})[line["class"]] = text
    return found


def curves(runs: Mapping[Partition, Run]) -> dict[str, list[Json]]:
    """Return the loss curves by student, each with the validation loss of the trained adapter as its last point."""
    found = {}
    for partition, run in runs.items():
        loss = run.facts.get("validation_loss")
        last = [{"step": run.facts["steps"], "validation_loss": loss}] if loss is not None else []
        found[name_of(partition)] = run.curve + last
    return found


def decodings(result: Mapping[str, Any]) -> dict[str, Json]:
    """Return mean explanation metrics of one student by decoding: free, and grounded if it was measured."""
    ways = {"free": result["aggregate"], "grounded": (result.get("grounded") or {}).get("aggregate")}
    return {
        way: {name: means[name] for name in (*FIRST, *means) if name in means} for way, means in ways.items() if means
    }


def explanations(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return mean explanation metrics by student and decoding."""
    return [
        row
        for partition, result in found.items()
        for way, means in decodings(result).items()
        for row in by_partition({partition: {"decoding": way, **means}})
    ]


def by_rule(result: Mapping[str, Any]) -> list[Json]:
    """Return the explanation metrics of one student: value by decoding, and interval and chance of the free ones."""
    means = decodings(result)
    beside = {row["share"]: row for row in result.get("shares") or []}
    return [
        {
            "rule": name.replace("_", " "),
            **{way: of.get(name) for way, of in means.items()},
            **(_beside(beside.get(name)) if beside else {}),
        }
        for name in means["free"]
    ]


def _beside(row: Mapping[str, Any] | None) -> Json:
    return {f"free, {key}": row[key] if row else None for key in ("low", "high", "chance")}


def shares(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return each share of true claims of each student with interval and chance level."""
    keys = ("share", "value", "low", "high", "chance")
    return [
        row
        for partition, result in found.items()
        for share in result.get("shares") or []
        for row in by_partition({partition: _in_order(share | {"share": share["share"].replace("_", " ")}, keys)})
    ]


def _in_order(row: Mapping[str, Any], keys: tuple[str, ...]) -> Json:
    """Return a row with these keys first: the files that it is read from are sorted by name."""
    return {key: row[key] for key in (*keys, *row) if key in row}


def diversities(tracks: Mapping[Partition, Track]) -> list[Json]:
    """Return the diversity of each increment's answers, as they are and with features and numbers masked."""
    names = {
        "self_bleu": "self-BLEU",
        "distinct_1": "distinct-1",
        "distinct_2": "distinct-2",
        "distinct_3": "distinct-3",
    }
    return [
        row
        for partition, track in tracks.items()
        if "diversity" in track.report
        for text in ("raw", "masked")
        for row in by_partition(
            {
                partition: {
                    "text": text,
                    "answers": track.report["diversity"]["answers"],
                    **{names.get(key, key): value for key, value in track.report["diversity"][text].items()},
                }
            }
        )
    ]


def variations(tracks: Mapping[Partition, Track]) -> list[Json]:
    """Return the repeat rows of each increment and class by what became of their features."""
    return [
        {"stage": partition.stage, **row}
        for partition, track in tracks.items()
        for row in track.report.get("variations_by_class", [])
    ]


def agreements(facts: Facts) -> list[Json]:
    """Return the share of features named in explanations that AutoML, trained on the same rows, relies on."""
    found = {
        partition: importance_agreement(result.get("items") or [], facts.importances(partition.stage))
        for partition, result in facts.explanations.items()
    }
    return by_partition({partition: agreement for partition, agreement in found.items() if agreement})


def weakest(scored: Mapping[str, Any]) -> Json:
    """Return name, recall and support of the class with the lowest recall in a view."""
    recall, name = lowest_recall(scored)
    return {"name": name, "recall": recall, "support": scored["per_class"][name]["support"]}


def made_of(facts: Facts, origin: Origin) -> Markup:
    """Return the inputs of an artefact with the first digits of their versions, as links to their lines."""
    lines = {one.artefact for one in facts.lineage}
    shown = list(origin.inputs.items())[:INPUTS_SHOWN]
    told = [f"{_linked(one) if one in lines else markdown.escape(one)} {version[:12]}" for one, version in shown]
    more = len(origin.inputs) - len(shown)
    return Markup(", ".join(told + ([f"and {more} more"] if more else [])))


def _linked(artefact: ArtefactId) -> str:
    return f"[{markdown.escape(artefact)}](#{lineage_id(artefact)})"


def reasons(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return each measure of right reasons of each student, beside chance and the values of template and tree."""
    shown = []
    for partition, result in found.items():
        beside = {who: {row["measure"]: row["value"] for row in rows} for who, rows in result["measures"].items()}
        for row in result["measures"]["student"]:
            values = {"student": row["value"], **{key: row[key] for key in ("low", "high", "chance", "other_class")}}
            free = {who: beside[who].get(row["measure"]) for who in ("template", "tree")}
            shown += by_partition(
                {partition: {"measure": _spoken(row), "flows": row["explanations"], **values, **free}}
            )
    return shown


def reason_verdicts(found: Mapping[Partition, Mapping[str, Any]]) -> list[Json]:
    """Return the verdicts on each student against template and tree."""
    return [
        row
        for partition, result in found.items()
        for who, verdicts in result["verdicts"].items()
        for verdict in verdicts
        for row in by_partition({partition: {"against": who, **_verdict(verdict)}})
    ]


def _verdict(row: Mapping[str, Any]) -> Json:
    """Return the columns of a verdict in their order."""
    told = {"p, corrected" if key == "p_holm" else key: value for key, value in row.items()}
    return _in_order({**told, "measure": _spoken(row)}, VERDICT)


def teacher_reasons(found: Mapping[str, Mapping[str, Any]]) -> list[Json]:
    """Return the measures of the teacher's explanations by stage, whose LightGBM it is held against."""
    keys = ("explanations", "value", "low", "high", "chance", "other_class")
    return [
        {"stage": stage, "measure": _spoken(row), **{key: row[key] for key in keys}}
        for stage, result in found.items()
        for row in result["teacher"]["measures"]
    ]


def _spoken(row: Mapping[str, Any]) -> str:
    return str(row["measure"]).replace("_", " ").replace("shap ", "SHAP ")


def arms(study: Mapping[str, Any], controls: bool) -> list[tuple[str, Json]]:
    """Return the arms of a study with their metrics, by stage and students first: its controls, or the others.

    Baselines follow by name.
    """

    def place(arm: str) -> tuple[int, int, str]:
        model, stage = arm.split()
        return STAGES.index(stage), ARMS.index(model) if model in ARMS else len(ARMS), model

    return [(name, study["arms"][name]) for name in sorted(study["arms"], key=place) if is_control(name) == controls]


def written(study: Mapping[str, Any]) -> list[Json]:
    """Return the shares of explanations of a study, students in the order of reports, free writing first.

    A share has its spread over seeds beside it if there are several.
    """
    places = {name: place for place, name in enumerate(ARMS)}
    found = sorted(study["explanations"], key=lambda row: (places.get(row["arm"].split()[0], len(places)), row["way"]))
    names = ("faultless", "numbers_grounded", "values_true", "directions_true")
    return [{**row, "shares": [_with_spread(row.get(name), row["seeds"]) for name in names]} for row in found]


def _with_spread(share: Mapping[str, Any] | None, seeds: int) -> str:
    if not share:
        return formats.MISSING
    spread = f" ± {share['spread']:.3f}" if seeds > 1 else ""
    return f"{share['mean']:.3f}{spread}"


def contrasts(study: Mapping[str, Any], controls: bool) -> list[Json]:
    """Return the contrasts of a study: those of its controls, or the others."""
    return [row for row in study["contrasts"] if is_control(row["first"]) == controls]


def questions(study: Mapping[str, Any]) -> dict[str, str]:
    """Return the question of each control that a study has."""
    found = {name.split()[0] for name in study["arms"]}
    return {name: question for name, question in CONTROLS.items() if name in found}


def is_control(arm: str) -> bool:
    """Return True for an arm of a control, such as `label_only 10K`."""
    return arm.split()[0] in CONTROLS
