"""Report chapters on data, split and the teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iot_pipeline.reporting import figures, tables
from iot_pipeline.reporting.blocks import Section
from iot_pipeline.reporting.comparison import split_key
from iot_pipeline.reporting.tables import Column

Context = Mapping[str, Any]
RULES_SHOWN = 2
FINDINGS_SHOWN = 15
OUTLIERS_SHOWN = 10


def data(context: Context) -> Section:
    """Build the data chapter: source, duplicates, conflicts, mismatches, profile, patterns, samples."""
    section = Section("data", "Data")
    _source(section, context)
    _duplicates(section, context)
    _conflicts(section, context)
    _mismatch(section, context)
    _profile(section, context)
    _patterns(section, context)
    _samples(section, context)
    return section


def _source(section: Section, context: Context) -> None:
    section.heading("Source")
    source, built = context.get("raw_flows"), context.get("flows")
    if not source or not built:
        section.missing("raw_flows, flows")
        return
    refused = source.get("rejected") or {}
    section.text(
        f"{source.get('label') or 'Read from the files below'}. {source['rows']:,} rows were read"
        f" ({sum(refused.values()):,} lines refused), {built['rows_kept']:,} kept,"
        f" {sum(built['rejected'].values()):,} rejected, {sum(built['left_out'].values()):,} left out as the data"
        f" set's description says{_reconciled(source['rows'], built)}."
    )
    section.table(source.get("files") or [], caption="Files.", asset="raw_flows")
    counts = [("line refused", refused), ("row rejected", built["rejected"]), ("row left out", built["left_out"])]
    rows = [{"what": what, "reason": why, "count": n} for what, found in counts for why, n in found.items()]
    section.table(rows, caption="What did not become a flow, and why.", asset="raw_flows, flows")


def _reconciled(rows: int, built: Mapping[str, Any]) -> str:
    """Return a clause that accounts for all rows read: kept, rejected or left out."""
    lost = rows - built["rows_kept"] - sum(built["rejected"].values()) - sum(built["left_out"].values())
    return "; that is every row" if lost == 0 else f"; {lost:,} rows are unaccounted for"


def _duplicates(section: Section, context: Context) -> None:
    section.heading("Duplicates")
    report = context.get("dedup_report")
    if not report:
        section.missing("dedup_report")
        return
    raw, same = report["raw"], report["text"]
    known = (report.get("published") or {}).get("share")
    section.text(
        f"{raw['duplicate_rows']:,} of {report['rows']:,} rows ({tables.percent(raw['duplicate_share'])})"
        f" repeat the exact values of an earlier row, which leaves {raw['distinct']:,} distinct flows. As"
        f" text, the way a model reads them, {tables.percent(same['duplicate_share'])} repeat and"
        f" {same['distinct']:,} distinct prompts are left."
        + (f" Published: {tables.percent(known)}." if known is not None else "")
    )
    section.figure(
        figures.duplicates(report),
        "Bars of the share of duplicate rows by class beside the published shares",
        "A duplicate repeats an earlier row of its own class.",
        "dedup_report",
    )


def _conflicts(section: Section, context: Context) -> None:
    section.heading("Equal flows, different labels")
    report = context.get("label_conflicts")
    if not report:
        section.missing("label_conflicts")
        return
    text = report["text"]
    section.text(
        f"{text['conflicting_groups']:,} of {text['groups']:,} distinct prompts carry more than one label;"
        f" {text['conflicting_rows']:,} rows are among them. At least {text['unavoidable_errors']:,} rows"
        " must be named wrongly by any model that reads this text: the ceiling over all rows is"
        f" {tables.accuracy(report['ceilings']['row'])}, over distinct flows"
        f" {tables.accuracy(report['ceilings']['distinct'])}."
    )
    section.figure(
        figures.conflicts(report),
        "Heat map of rows in conflicting flow groups by their label and the group's majority",
        "Off the diagonal: rows whose label loses against another label of the very same text.",
        "label_conflicts",
    )


def _mismatch(section: Section, context: Context) -> None:
    section.heading("Does the table match what is published?")
    report = context.get("dataset_mismatch")
    if not report:
        section.missing("dataset_mismatch")
        return
    section.text(
        f"{report['checked']} published facts were checked against the rows and against each other; "
        f"{report['disagreeing']} disagree." + (f" {report['note']}" if report.get("note") else "")
    )
    findings = report["findings"]
    shown = findings[:FINDINGS_SHOWN]
    more = f" The first {len(shown)} of {len(findings)}; the artefact has all." if len(findings) > len(shown) else ""
    if findings:
        section.figure(
            figures.mismatches(report),
            "Bars of the relative difference between found and expected figures",
            "The largest differences that can be put as a share; the table has the rest.",
            "dataset_mismatch",
        )
    section.table(
        shown,
        [
            Column("what"),
            Column("expected", write=tables.text, numeric=True),
            Column("found", numeric=True),
            Column("difference", numeric=True),
            Column("source", "published as"),
        ],
        f"Disagreements.{more}",
        "dataset_mismatch",
    )


def _profile(section: Section, context: Context) -> None:
    section.heading("What the classes look like")
    report = context.get("flow_profile")
    if not report:
        section.missing("flow_profile")
        return
    if report.get("table"):
        section.figure(
            figures.profile(report["table"]),
            "Quartile bars of the six features that differ most between classes",
            "The six features whose class medians lie farthest apart.",
            "flow_profile",
        )
        _outliers(section, report["table"])
    constant = (report.get("zero_variance") or {}).get("(all)") or []
    if constant:
        section.text(f"The same value in every row, so of no use to any model: {', '.join(constant)}.")
    scales = {name: scale["recovered"] for name, scale in report["scales"].items() if scale["recovered"]}
    section.table(
        [
            {"feature": name, "step": scale["quantum"], "rows on the grid": scale["share_on_grid"]}
            for name, scale in scales.items()
        ],
        [
            Column("feature"),
            Column("step", numeric=True),
            Column("rows on the grid", write=tables.percent, numeric=True),
        ],
        "Features whose values lie on a grid: one step is a fixed number of raw units, so the scaling can be undone.",
        "flow_profile",
    )


def _outliers(section: Section, table: Sequence[Mapping[str, Any]]) -> None:
    """Add the features and classes with the largest outlier shares."""
    found = [row for row in table if row["class"] != "(all)" and row["outlier_share"]]
    section.table(
        sorted(found, key=lambda row: (-row["outlier_share"], row["class"], row["feature"]))[:OUTLIERS_SHOWN],
        [
            Column("class"),
            Column("feature"),
            *(Column(key, numeric=True) for key in ("p25", "median", "p75", "max")),
            Column("outlier_share", "outliers", tables.percent, True),
        ],
        "Outliers: rows farther than 1.5 interquartile ranges from the quartiles of their class. The largest shares;"
        " the artefact has all.",
        "flow_profile",
    )


def _patterns(section: Section, context: Context) -> None:
    section.heading("Patterns guide")
    report = context.get("attack_patterns")
    if not report:
        section.missing("attack_patterns")
        return
    section.text(
        f"Rules from shallow trees, learned on {report['learned_on']}, measured on the"
        f" {report['measured_on']}. Coverage: the share of the class's distinct flows that a rule catches."
        " Precision: the share of what it catches that is of the class."
    )
    shares = [
        Column("coverage", write=tables.percent, numeric=True),
        Column("precision", write=lambda share: "nothing caught" if share is None else tables.percent(share),
               numeric=True),
    ]  # fmt: skip
    section.table(
        figures.rule_rows(report, RULES_SHOWN),
        [Column("class"), Column("rule"), *shares],
        f"At most {RULES_SHOWN} rules a class; guide.md in the artefact has all.",
        "attack_patterns",
    )
    section.figure(
        figures.patterns(report),
        "Scatter of coverage and precision of learned rules and of rules from published figures",
        "Upper right is good; what catches nothing stands at 0, 0. Crosses: rules that published figures give, scored"
        " on the same flows.",
        "attack_patterns",
    )
    section.table(
        figures.prior_rule_rows(report),
        [Column("classes"), Column("rule"), *shares, Column("source")],
        "Rules of the prior work, on distinct test flows.",
        "attack_patterns",
    )


def _samples(section: Section, context: Context) -> None:
    section.heading("Samples side by side")
    report = context.get("sample_comparison")
    if not report:
        section.missing("sample_comparison")
        return
    classes = list(report["rows"])
    by_feature: dict[str, dict[str, Any]] = {}
    for line in report.get("table") or []:
        if line["sample"] == 0 and line["feature"] in report["marked"]:
            raw = line["raw"]
            known = raw is not None and raw == raw  # NaN means that the scale of this feature is unknown
            text = f"{line['printed']} ({tables.number(round(raw, 3))} {line['unit']})" if known else line["printed"]
            by_feature.setdefault(line["feature"], {"feature": line["feature"]})[line["class"]] = text
    section.table(
        list(by_feature.values()),
        [Column("feature"), *(Column(name, name) for name in classes)],
        "One seeded distinct flow a class: value as the model reads it, raw units in brackets where the scale"
        " is known; the features that tell the classes apart best.",
        "sample_comparison",
    )


def split(context: Context) -> Section:
    """Build the split chapter: the sides, and the leakage that a split by row would have caused."""
    section = Section("split", "Split and leakage")
    report = context.get("evaluation_split")
    if report:
        section.text(
            "Rows with the same prompt text form a flow group, and a group is on one side only. All tracks"
            " and stages are tested on the same flows."
        )
        section.table(
            [
                {"side": side, "rows": rows, "distinct flows": report["groups"][side]}
                for side, rows in report["rows"].items()
            ],
            caption=f"Sides of the split, seed {report['seed']}.",
            asset="evaluation_split",
        )
        _rules(section, context)
        section.figure(
            figures.sides(report),
            "Stacked bars of the distinct flows of each class by side of the split",
            "Groups are dealt class by class; large groups go to the train pool.",
            "evaluation_split",
        )
    else:
        section.missing("evaluation_split")
    leaks = context.get("leakage_report")
    if not leaks:
        section.missing("leakage_report")
        return section
    free, by_row = leaks["leak_free"], leaks["row_wise"]
    known = published(context, "row_split_prompt_leak")
    section.text(
        f"Split by row, {tables.percent(by_row['shared_test_share'])} of the test rows have a prompt that was"
        f" trained on; here {tables.percent(free['shared_test_share'])} do. {_effect(free, by_row)}"
        + (f" Published for a split by row: {tables.percent(known)} shared prompts." if known else "")
    )
    section.figure(
        figures.leakage(leaks),
        "Bars of shared prompts and of accuracy under a split by group and a split by row",
        "The same table and the same models; only the way of splitting, and so the rows tested, differ.",
        "leakage_report",
    )
    return section


def _rules(section: Section, context: Context) -> None:
    """Add a text on conflicting and oversized groups, the ceiling of the test side, and leaks before the split."""
    ceilings = (context.get("label_conflicts") or {}).get("ceilings")
    test = (context["evaluation_split"].get("row_ceiling") or {}).get("test")
    section.text(
        "A group with several labels is dealt with the class of most of its rows. A group so large that a side would"
        " be little else stays in the train pool."
        + (
            f" Such are the groups with most conflicts, so the test side's row ceiling is {tables.accuracy(test)} where"
            f" the whole table's is {tables.accuracy(ceilings['row'])}: accuracy over test rows must be read with that"
            " in mind; accuracy over distinct flows does not depend on it."
            if ceilings and test is not None
            else ""
        )
    )
    spec = context.get("spec") or {}
    if spec.get("scaling_note"):
        title = "Known leak" if spec.get("scaling") == "given" else "Scaling"
        section.text(f"{title}: {spec['scaling_note']}")


def published(context: Context, name: str) -> Any:
    """Return a published fact of the spec, at the top level of its facts or one below; None if unpublished."""
    facts = (context.get("spec") or {}).get("facts") or {}
    places = [facts, *(value for value in facts.values() if isinstance(value, Mapping))]
    return next((place[name] for place in places if name in place), None)


def _effect(free: Mapping[str, Any], by_row: Mapping[str, Any]) -> str:
    name = "model" if free.get("model") and by_row.get("model") else "lookup"
    here, there = free[name]["row"], by_row[name]["row"]
    if here is None or there is None:
        return ""
    subject = "The same small LightGBM" if name == "model" else "A table look-up"
    change = 100 * (there - here)
    compared = "higher" if change >= 0 else "lower"
    return (
        f"{subject} scores {abs(change):.2f} percentage points {compared} over rows that way; part of that is that the"
        " two splits test other rows."
    )


def tracks(context: Context) -> Section:
    """Build the tracks chapter: counts, and up to three unedited examples of the teacher's answers per track."""
    section = Section("tracks", "Teacher and tracks")
    found = context.get("tracks") or {}
    section.text(
        "Three tracks hold the same rows in the same order under the same labels. original: rows with the"
        " same text and label share one answer. paraphrased: the first row of a flow keeps that answer, each"
        " further row gets it in other words. feature_varied: each further row gets an answer of its own, and"
        " varied features where variation can change them: the table of variations counts how many did."
    )
    if not found:
        section.missing("original, paraphrased, feature_varied")
    rows = []
    for key, track in found.items():
        stage, name = split_key(key)
        report = track.get("report") or {}
        rows.append({"track": name, "stage": stage, **{k: v for k, v in report.items() if _is_scalar(v)}})
    section.table(rows, caption="What each increment holds.", asset="original, paraphrased, feature_varied")
    varied = [
        {"stage": split_key(key)[0], "further rows": n, "outcome": outcome}
        for key, track in found.items()
        for outcome, n in ((track.get("report") or {}).get("variations") or {}).items()
    ]
    section.table(varied, caption="Variations: what became of the features of further rows.", asset="feature_varied")
    refused = [
        {"track": split_key(key)[1], "stage": split_key(key)[0], "reason": why, "rows": n}
        for key, track in found.items()
        for why, n in ((track.get("report") or {}).get("quarantine_reasons") or {}).items()
    ]
    section.table(refused, caption="Rows without an answer, by reason.", asset="original, paraphrased, feature_varied")
    for key, track in found.items():
        stage, name = split_key(key)
        for number, example in enumerate(track.get("examples") or [], start=1):
            section.quote(
                f"{name} {stage}, example {number}", [("flow", example["prompt"]), ("answer", example["answer"])]
            )
    for name, prompt in (context.get("prompts") or {}).items():
        section.quote(f"prompt file of {name}, version {prompt['version'][:12]}", [("prompt", prompt["text"])])
    return section


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
