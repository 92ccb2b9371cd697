"""`iot-pipeline trace`: from a table, figure, number, artefact or training row back to prompts, settings and source."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.integrity import SHORT
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.lineage.chain import Chain, Link, chain_of, cited_files, made_again, parse_artefact, upstream_of
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.lineage.training_row import trace_row
from iot_pipeline.reporting.exhibits import Exhibit, exhibit_named, read_exhibits
from iot_pipeline.settings import Settings
from iot_pipeline.teacher_factory import store_of
from iot_pipeline.vocabulary import unstaged

FILES_SHOWN = 6
MOST_DIGITS = 18


def trace(settings: Settings, words: list[str], stage: str | None, track: str | None) -> dict[str, Any]:
    """Trace what the words name: `row 17`, `table-3`, `Figure 2` or `asset[partition]`.

    Args:
        settings: The present settings.
        words: Words of the command line.
        stage: Stage of a training row; None for the only one that the settings name.
        track: Track of a training row.

    Returns:
        {row: ...} (trace_row) or {exhibit (or None), files, chain, problems (an exhibit's inputs made again since)}.

    Raises:
        UserError: There is no lake, or nothing of that name.
    """
    lake = Lake(settings.lake_path, read_only=True)
    lake.check_exists()
    if words[0].lower() == "row":
        if len(words) != 2 or (number := whole_number(words[1])) is None:
            raise UserError("say which row, from 1: `iot-pipeline trace row 17 --stage 10K --track paraphrased`")
        if stage is None or track is None:
            raise UserError("a training row needs --stage and --track, such as --stage 10K --track paraphrased")
        return {"row": trace_row(lake, store_of(settings), number, stage, track)}
    name = " ".join(words)
    artefact = parse_artefact(name)
    if lake.manifest(artefact) is not None:
        return _told(lake, None, [artefact])
    exhibits = read_exhibits(lake.verified(REPORT)) if lake.manifest(REPORT) is not None else []
    exhibit = exhibit_named(exhibits, name)
    if exhibit is None:
        raise UserError(_unknown(lake, exhibits, name))
    return _told(lake, exhibit, sources_of(lake, exhibit))


def whole_number(text: str) -> int | None:
    """Return a number of at most MOST_DIGITS digits, None for any other text: int() refuses more than 4,300 digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def sources_of(lake: Lake, exhibit: Exhibit) -> list[ArtefactId]:
    """List the artefacts that an exhibit comes from: of those it cites the ones that the report was made of.

    The lake may hold others of the same assets, of further seeds and stages, or made since.
    """
    every = upstream_of(lake, REPORT)
    direct = every & {REPORT, *_inputs_of_report(lake)}
    read = {unstaged(one.asset)[0] for one in direct}  # of other assets, such as the study's grid, there are all
    return sorted(one for one in every if exhibit.cites(one) and (one in direct or unstaged(one.asset)[0] not in read))


def _inputs_of_report(lake: Lake) -> dict[ArtefactId, str]:
    manifest = lake.manifest(REPORT)
    return manifest.upstream() if manifest is not None else {}


def _unknown(lake: Lake, exhibits: list[Exhibit], name: str) -> str:
    """Say that nothing has this name, and what there is."""
    partitions = [str(one) for one in lake.artefacts() if one.belongs_to(parse_artefact(name).asset)]
    if partitions:
        which = "there is no such partition; there are" if "[" in name else "name one of its partitions:"
        return f"{name}: {which} {', '.join(partitions[:12])}"
    if not exhibits:
        return (
            f"{name}: no artefact has this name, and there is no report in {lake.address}; `iot-pipeline run` makes it"
        )
    last = {one.kind: one.id for one in exhibits}
    return (
        f"{name}: there is no such table, figure, number or artefact; the report has table-1 to "
        f"{last.get('table', 'none')}, figure-1 to {last.get('figure', 'none')}, number-1 to "
        f"{last.get('number', 'none')}, and `iot-pipeline status` lists the artefacts"
    )


def _told(lake: Lake, exhibit: Exhibit | None, artefacts: list[ArtefactId]) -> dict[str, Any]:
    files = [file for artefact in artefacts for file in cited_files(lake, artefact)] if exhibit else []
    about = {"id": exhibit.id, "name": exhibit.name, **asdict(exhibit)} if exhibit else None
    read = {one: version for one, version in _inputs_of_report(lake).items() if exhibit and one in artefacts}
    problems = [f"{exhibit.name}: {sentence}" for sentence in made_again(lake, read)] if exhibit else []
    return {"exhibit": about, "files": files, "chain": chain_of(lake, *artefacts), "problems": problems}


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Print a trace; what does not fit its manifest goes to standard error too."""
    chain: Chain | None = found.get("chain")
    if as_json:
        told = {**found, "chain": asdict(chain)} if chain is not None else found
        print(json.dumps(told, indent=1, default=str))
        return
    lines = row_lines(found["row"]) if chain is None else chain_lines(found, chain)
    for line in lines:
        print(printable(line))
    for problem in [*found["problems"], *chain.problems] if chain is not None else []:
        print(printable(f"not as written: {problem}"), file=sys.stderr)


def chain_lines(found: Mapping[str, Any], chain: Chain) -> Iterator[str]:
    """Yield the lines that tell files and chain of an exhibit, or of an artefact, whose exhibit is None."""
    exhibit = found["exhibit"]
    if exhibit:
        yield f"{exhibit['name']}, chapter {exhibit['chapter']}: {exhibit['title']}"
        if not chain.links:
            yield f"  none of what it is made of ({', '.join(exhibit['assets'])}) is in this lake"
    for file in found["files"]:
        yield f"  file {file['path']}  sha256 {file['sha256']}  {file['bytes']:,} bytes"
    for link in chain.links:
        yield ""
        yield from _link_lines(link)
    if chain.cost:
        cost = chain.cost
        yield ""
        yield (
            f"Teacher, all tracks above: {cost['requests']:,} requests, {cost['prompt_tokens']:,} prompt and "
            f"{cost['completion_tokens']:,} answer tokens, ${cost['billed_usd']:.4f} billed"
        )
    for prompt in chain.prompts:
        yield ""
        yield f"Prompt {prompt.name}  sha256 {prompt.sha256}  {prompt.snapshot}"
        yield from (f"  | {line}" for line in prompt.text.splitlines())


def _link_lines(link: Link) -> Iterator[str]:
    yield f"{link.artefact}  data version {link.data_version}"
    seed = f", seed {link.seed}" if link.seed is not None else ""
    rows = f", {link.rows:,} rows" if isinstance(link.rows, int) else ""
    yield (
        f"  made {link.made} in {link.seconds} s, code commit {link.code_commit}, version {link.code_version}, "
        f"run {link.run_id}{seed}{rows}"
    )
    if link.settings:
        yield f"  settings: {', '.join(f'{name}={value}' for name, value in sorted(link.settings.items()))}"
    for name, version in link.outside_files.items():
        yield f"  outside file {name}  sha256 {version}"
    if link.inputs:
        yield f"  made of: {', '.join(f'{name} {version[:SHORT]}' for name, version in link.inputs.items())}"
    for name, facts in list(link.files.items())[:FILES_SHOWN]:
        yield f"  {link.folder}/{name}  sha256 {facts['sha256']}  {facts['bytes']:,} bytes"
    if len(link.files) > FILES_SHOWN:
        more = len(link.files) - FILES_SHOWN
        yield f"  and {more} more file{'s' if more != 1 else ''} (--json has all)"
    if link.cost:
        yield f"  teacher {link.teacher}: {', '.join(f'{name} {value:,}' for name, value in link.cost.items())}"
    if link.label:
        yield f"  {link.label}"
    if link.problem:
        yield f"  NOT AS WRITTEN: {link.problem}"


def shared(rows: int) -> str:
    """Say how many training rows have the same answer."""
    return f"{rows:,} rows share the answer" if rows > 1 else "no other row shares the answer"


def row_lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that tell all that is known of a training row (trace_row)."""
    yield f"Row {row['row']:,} of {row['track']} {row['stage']}: {row['artefact']}, {row['file']}"
    varied = f", {row['variation']}" if row["variation"] else ""
    yield f"  label {row['label']}, {row['kind']}{varied}; flow group {row['flow_group']}"
    yield f"  data version {row['data_version']}"
    source = row["source"]
    where = f"; source row {source['raw_row']:,} (raw_flows/raw.parquet)" if "raw_row" in source else ""
    yield f"  source: {source.get('file', 'unknown')}{where}"
    values = source.get("raw") or source.get("flow") or {}
    yield f"    {', '.join(f'{name}={value}' for name, value in values.items())}"
    yield "Flow as the teacher and the student read it"
    yield from _quoted(row["flow"])
    prompt = row["prompt"]
    yield f"Prompt {prompt['name']}  sha256 {prompt['sha256']}  {prompt['snapshot']}"
    yield from _quoted(prompt["text"])
    yield f"Request {row['key']}"
    for message in (row["request"] or {}).get("messages", []):
        yield f"  {message['role']}:"
        yield from _quoted(message["content"])
    by = row["answered_by"]
    yield f"Answer by {by['model']} ({by['source']}), of {by['artefact']}; {shared(row['shared_by_rows'])}"
    yield from _quoted(row["answer"])
    yield f"Attempts: {len(row['attempts'])}"
    for sent in row["attempts"]:
        assumed = " (assumed)" if sent["cost_assumed"] else ""
        yield (
            f"  {sent['at']} {sent['outcome']}, {sent['prompt_tokens']:,} prompt and {sent['completion_tokens']:,} "
            f"answer tokens, ${sent['cost_usd']:.6f}{assumed}, {sent['seconds']:.2f} s"
        )
    price = row["price_usd"]
    yield f"Price: {'unknown' if price is None else f'${price:.6f}'}"
    yield from (f"Note: {note}" for note in row["notes"])


def _quoted(text: str | None) -> Iterator[str]:
    return (f"  | {line}" for line in (text or "not in the lake").splitlines())
