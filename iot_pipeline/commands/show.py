"""Output of `run` and `status`: live progress, the state of every artefact, the results table."""

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from iot_pipeline.bundle.rerun import Comparison
from iot_pipeline.commands.bundle import show_comparison
from iot_pipeline.commands.console import Output, SilentOnceClosed
from iot_pipeline.defs import plan
from iot_pipeline.defs.execute import Outcome
from iot_pipeline.defs.reads import present_value
from iot_pipeline.defs.recording import progress
from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.lake.store import FOLLOWS, MANIFEST, ArtefactId, Lake
from iot_pipeline.lake.verdict import last_verdict
from iot_pipeline.lake.verify import extra_files
from iot_pipeline.settings import Settings

MARKS = {"waiting": "·", "started": "▶", "done": "✔", "fresh": "=", "failed": "✘"}
STYLES = {"started": "bold cyan", "done": "green", "fresh": "dim", "failed": "bold red", "waiting": "dim"}


class Progress(logging.Handler):
    """Live table of a run. On a terminal it redraws; elsewhere (a log file, CI) it prints one line per event."""

    def __init__(self, planned: list[plan.Planned], quiet: bool) -> None:
        super().__init__()
        self.states: dict[ArtefactId, tuple[str, str, float]] = {p.artefact: ("waiting", "", 0.0) for p in planned}
        self.groups = {p.artefact: p.group for p in planned}
        # Dagster redirects standard output into its compute logs while an asset runs; this duplicate is not affected.
        self._stream: TextIO = os.fdopen(os.dup(1), "w")
        self.console = SilentOnceClosed(file=self._stream, quiet=quiet)
        self._live = Live(self, console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        self._begin = time.monotonic()

    def __enter__(self) -> "Progress":
        progress.addHandler(self)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        progress.removeHandler(self)
        if self._live:
            self._live.stop()
        with contextlib.suppress(BrokenPipeError):
            self._stream.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one event of an artefact."""
        artefact, event, text = vars(record)["artefact"], vars(record)["event"], printable(record.getMessage())
        state, _, since = self.states.get(artefact, ("waiting", "", 0.0))
        if event == "note":
            self.console.print(Text(text, style="yellow"))
            return
        if event == "progress":
            self.states[artefact] = (state, text.splitlines()[0] if text else "", since)
        else:
            self.states[artefact] = (event, text, time.monotonic() if event == "started" else since)
        if self._live is None and event != "fresh":
            clock = time.strftime("%M:%S", time.gmtime(time.monotonic() - self._begin))
            suffix = f"{text} s" if event == "done" else text
            line = f"{clock} {MARKS.get(event, ' ')} {artefact} {suffix}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
            with contextlib.suppress(BrokenPipeError):  # its reader has gone: the run goes on
                self._stream.flush()

    def __rich__(self) -> Group:
        """Render finished groups as one line, the current group artefact by artefact."""
        table = Table.grid(padding=(0, 1))
        for group in dict.fromkeys(self.groups.values()):
            members = [a for a, g in self.groups.items() if g == group]
            states = [self.states[a] for a in members]
            over = sum(state in ("done", "fresh") for state, _, _ in states)
            style = "green" if over == len(members) else "default"
            table.add_row("", Text(group, style=f"bold {style}"), f"{over} of {len(members)}", "")
            if (over and over < len(members)) or any(
                state in ("started", "failed") or text for state, text, _ in states
            ):
                for artefact, (state, text, since) in zip(members, states, strict=True):
                    spent = f"{time.monotonic() - since:.0f} s" if state == "started" else ""
                    note, style = f"{text} s" if state == "done" else text, STYLES.get(state, "")
                    named = Text(MARKS.get(state, "?"), style=style), Text(f"  {artefact}", style=style)
                    table.add_row(*named, spent, Text(note[:90], style="dim"))
        spent = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._begin))
        return Group(table, Text(f"{spent} so far; stop with Ctrl-C, the next run resumes there", style="dim"))


def results(settings: Settings, outcome: Outcome, as_json: bool, bundle: Comparison | None = None) -> None:
    """Print the results of a run: artefacts materialised, failures, the results table and the report's path.

    Those of an earlier run that no longer follow from the present settings and inputs are told to be stale instead.

    Args:
        settings: The present settings.
        outcome: What the run made.
        as_json: True to print JSON and nothing else.
        bundle: How the lake compares with the bundle that it was made from, if it was.

    Raises:
        UserError: Results or report were altered since; after everything that can be printed.
    """
    lake, altered, stale = Lake(settings.lake_path), list[str](), list[str]()
    folders: dict[str, Path] = {}
    present = present_value(lake, settings)
    for artefact in map(ArtefactId, ("track_comparison", "paper_report")):
        if lake.manifest(artefact) is not None:
            try:
                folder = lake.verified(artefact)
            except UserError as error:
                altered.append(str(error))
                continue
            if broken := lake.broken_lineage(artefact, present):
                stale.append(broken)
            else:
                folders[artefact.asset] = folder
    compared, reported = folders.get("track_comparison"), folders.get("paper_report")
    comparison: dict[str, Any] = {"table": [], "on_tracks": []}
    if compared:
        comparison = read_json(compared / "track_comparison.json")
    report = reported / "report.html" if reported else None
    if as_json:
        made, fresh, left = ([str(one) for one in some] for some in (outcome.made, outcome.fresh, outcome.left))
        failed = [{"artefact": str(artefact), "reason": why} for artefact, why in outcome.failed]
        found = {"made": made, "fresh": fresh, "failed": failed, "left": left, "results": comparison["table"]}
        found |= {"on_tracks": comparison["on_tracks"], "report": str(report) if report else None}
        found |= {"stale": stale}
        found |= {"bundle": asdict(bundle) | {"kept": bundle.kept}} if bundle is not None else {}
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        _print_outcome(lake, outcome, comparison, report)
        if stale and not outcome.failed:
            told = "Results and report of an earlier run are stale: `status` says why, `run` makes them again."
            wide_console().print(Text(told, style="yellow"), soft_wrap=True)
        if bundle is not None:
            show_comparison(bundle)
    if altered:
        raise UserError(f"not shown: {'; '.join(altered)}")


def _print_outcome(lake: Lake, outcome: Outcome, comparison: dict[str, Any], report: Path | None) -> None:
    """Print an outcome with the results table, the labels of parts that are not real, and the report's path."""
    console = wide_console()
    for artefact, why in outcome.failed:
        console.print(Text(printable(f"✘ {artefact}: {why}"), style="bold red"))
    if outcome.failed:
        left = ", ".join(str(artefact) for artefact in outcome.left[:6]) + (", ..." if len(outcome.left) > 6 else "")
        counts = f"stopped; {len(outcome.made)} made, {len(outcome.left)} left ({left})"
        console.print(Text(f"{counts}. Mend it and run again: what is made is not made twice."))
        return
    if comparison["table"]:
        console.print(table_of_results(comparison["table"]))
        for line in comparison["on_tracks"]:
            console.print(Text(line))
        for line in provenance_lines(lake):
            console.print(Text(line, style="yellow"))
    if not outcome.made:
        console.print(f"Nothing to do: all {len(outcome.fresh)} artefacts follow from their inputs.")
    else:
        console.print(f"{len(outcome.made)} artefacts made, {len(outcome.fresh)} were there already.")
    if report:
        console.print(Text(f"Report: {report}"), soft_wrap=True)


NARROW = 100  # columns of a terminal; below, a table shows only what has no second place
COLUMNS = [
    "model",
    "stage",
    "accuracy, distinct flows",
    "of AutoML",
    "macro-F1",
    "F1 of AutoML",
    "lowest recall",
    "accuracy, rows",
]


def table_of_results(rows: list[dict[str, Any]]) -> Table:
    """Return the results table: model, training stage, metrics with intervals, and below it the ceilings."""
    ceilings = f"{rows[0]['ceiling']:.4f} of distinct flows, {rows[0]['row ceiling']:.4f} of rows"
    limited = min(rows[0]["ceiling"], rows[0]["row ceiling"]) < 1
    caption = (
        f"No function of the flow text can pass {ceilings}: equal flows carry different labels."
        if limited
        else "Equal test flows carry equal labels: a function of the flow text can be right on all of them."
    )
    table = Table(title="Accuracy on the one test set, 95 % intervals", caption=caption)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("model", "stage") else "right", no_wrap=True)
    for row in rows:
        cells = (row.get(column) for column in COLUMNS)
        table.add_row(*(Text(f"{v:.4f}" if isinstance(v, float) else str("" if v is None else v)) for v in cells))
    return table


def wide_console() -> Console:
    """Return a console as wide as the terminal; for a file or pipe, as wide as the tables need (150)."""
    console = Output()
    return console if console.is_terminal else Output(width=150)


def provenance_lines(lake: Lake) -> list[str]:
    """Return the labels of what is not real in this lake, in words, from the manifests."""
    manifests = (lake.manifest(artefact) for artefact in lake.artefacts())
    labels = (manifest.provenance.get("label") for manifest in manifests if manifest is not None)
    return list(dict.fromkeys(filter(None, labels)))


def status(definitions: Any, settings: Settings, as_json: bool) -> None:
    """Print the state of every artefact that the settings require. Raises UserError if there is no lake."""
    lake = Lake(settings.lake_path)
    lake.check_exists()
    planned = plan.wanted(definitions, settings)
    reasons = plan.forecast(lake, settings, planned)
    rows = [_state(lake, p, reasons[p.artefact]) for p in planned]
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
        return
    console = wide_console()
    narrow = console.width < NARROW
    table = Table(title=Text(lake.address))
    for column in ("artefact", "state", "why") if narrow else ("group", "artefact", "state", "made", "seconds", "why"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for row in rows:
        style = {"fresh": "green", "stale": "yellow", "missing": "dim"}[row["state"]]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        why = told_reasons(row["why"]) if row["state"] == "stale" else ""
        if row["extra_files"]:  # no reason to make it again, which would delete them
            named = f"{row['extra_files'][0]}" + (", ..." if len(row["extra_files"]) > 1 else "")
            why = "; ".join(filter(None, [why, printable(f"not in its manifest: {named}")]))
        cells = Text(row["artefact"]), Text(row["state"], style=style)
        if narrow:
            table.add_row(*cells, Text(why))
        else:
            table.add_row(Text(row["group"]), *cells, row["made"] or "", seconds, Text(why))
    console.print(table)
    counts = {state: sum(row["state"] == state for row in rows) for state in ("fresh", "stale", "missing")}
    console.print(f"{counts['fresh']} fresh, {counts['stale']} stale, {counts['missing']} missing")
    verdict = last_verdict(lake)
    told = verdict.sentence(lake) if verdict else "not verified yet: `iot-pipeline verify` hashes everything"
    console.print(Text(printable(told), style="" if verdict and not verdict.mismatches else "yellow"), soft_wrap=True)


def told_reasons(reasons: list[str]) -> str:
    """Format stale reasons as one line: an artefact's own reasons, else the first root cause upstream."""
    told = [reason for reason in reasons if not reason.startswith(FOLLOWS)] or reasons[:1]
    more = [f"and {len(reasons) - len(told)} more"] if len(reasons) > len(told) else []
    return "; ".join(told + more)


def _state(lake: Lake, planned: plan.Planned, why: list[str]) -> dict[str, Any]:
    manifest = lake.manifest(planned.artefact)
    path = lake.place(planned.artefact) / MANIFEST
    made = datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds") if path.is_file() else None
    return {
        "group": planned.group,
        "artefact": str(planned.artefact),
        "state": "missing" if manifest is None else "stale" if why else "fresh",
        "why": why,
        "extra_files": extra_files(lake.place(planned.artefact), manifest) if manifest else [],
        "made": made,
        "seconds": manifest.provenance.get("seconds") if manifest else None,
        "data_version": manifest.data_version if manifest else None,
    }
