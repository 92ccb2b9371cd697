"""`iot-pipeline classify`: an event for each flow of files, logs that grow, or standard input, by a trained student."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from iot_pipeline.commands.checkpoint import newest, open_classifier, words
from iot_pipeline.commands.classify_options import STDIN, Options
from iot_pipeline.errors import UserError
from iot_pipeline.flows.source import local_files
from iot_pipeline.lake.atomic import held, read_json, sha256_file, write_json
from iot_pipeline.settings import Settings

if TYPE_CHECKING:
    from iot_pipeline.inference.ray_blocks import Pool
    from iot_pipeline.serving.classifier import Classifier
    from iot_pipeline.serving.formats import Encoder
    from iot_pipeline.serving.output import File

Log = Callable[[str], None]
BINARY = (b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # formats that can only be read whole
WHOLE = (b"[", b"@", b"%", b"<")  # a JSON array, ARFF, a web page


def check(options: Options) -> None:
    """Raise UserError for options that do not go together."""
    from iot_pipeline.serving.cached import EXPLAIN
    from iot_pipeline.serving.formats import FORMS
    from iot_pipeline.serving.tail import check_followed

    for name, value, known in (
        ("--to", options.to, FORMS),
        ("--explain", options.explain, EXPLAIN),
        ("--units", options.units, ("auto", "raw", "scaled")),
        ("--invalid", options.invalid or "error", ("error", "skip")),
    ):
        if value not in known:
            raise UserError(f"{name} {value}: use one of {', '.join(known)}")
    if STDIN in options.inputs and (options.follow or len(options.inputs) > 1):
        raise UserError("`-` (standard input) cannot be combined with other inputs or with --follow")
    if options.follow and options.to == "parquet":
        raise UserError("--follow --to parquet: a Parquet file cannot be read while it grows; use --to json")
    if options.follow and any("://" in name for name in options.inputs):
        raise UserError("--follow reads growing files on this machine; read a URL without it")
    if options.follow:
        check_followed(options.inputs)
    if options.cache == "none" and options.cache_size is not None:
        raise UserError("--cache-size with --cache none: no verdict is kept; leave one of them out")
    if options.out == Path(STDIN):
        raise UserError("--out -: omit --out to write events to standard output")
    if options.replicas is not None and options.streams:
        raise UserError("--replicas works on files only; omit it for standard input and --follow")
    if options.to == "parquet" and options.out is None and sys.stdout.isatty():
        raise UserError("--to parquet cannot be shown on a terminal: add --out FILE, or a pipe")


def classify(settings: Settings, options: Options, log: Log, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Write the events, and return the facts of the summary.

    Args:
        settings: The present settings.
        options: The options.
        log: Receives progress messages.
        stopped: True once the run shall end; asked where a stream waits.

    Raises:
        UserError: An option, input or checkpoint is wrong, or a row is no flow.
    """
    check(options)
    if not options.streams:  # before a student is loaded for nothing
        local_files(checked_source(options.inputs), own_files(options.out))
    stage, track = newest(settings, options.stage, options.track)
    log(f"loading the student of {stage}, {track}")
    with contextlib.ExitStack() as stack:
        session = Session(settings, options, stage, track, log, stack)
        started, before = time.monotonic(), session.run.summary.events
        if options.streams:
            session.stream(stopped)
        else:
            session.files()
        seconds = time.monotonic() - started
        return session.facts(seconds, session.run.summary.events - before)


class Session:
    """All that one call of the command opens; the exit stack of `classify` closes it."""

    def __init__(
        self, settings: Settings, options: Options, stage: str, track: str, log: Log, stack: contextlib.ExitStack
    ) -> None:
        from iot_pipeline.evaluation.drift import Drift
        from iot_pipeline.serving.cache import MOST_VERDICTS, VerdictCache, cache_key
        from iot_pipeline.serving.cached import CachedClassifier
        from iot_pipeline.serving.events import About
        from iot_pipeline.serving.formats import Encoder
        from iot_pipeline.serving.output import Pipe
        from iot_pipeline.serving.prepared import Losses, Reading
        from iot_pipeline.serving.run import Run
        from iot_pipeline.serving.summary import Summary

        self.options, self.log, self._stack = options, log, stack
        self.pool = replicas(settings, options)
        self.classifier = open_classifier(settings, stage, track, log, self.pool is not None)
        if self.pool is None:
            stack.callback(self.classifier.student.close)
        check_units(self.classifier, options.units)
        self.about = About.of(self.classifier, benign_classes(options.benign, self.classifier.spec.classes))
        key = cache_key(self.classifier)
        cache = None
        if options.cache != "none":
            path = Path(options.cache) if options.cache else settings.lake_path / "verdicts.sqlite"
            cache = VerdictCache(path, key, options.cache_size or MOST_VERDICTS)
            stack.callback(cache.close)
        own = own_files(options.out)
        self.reading = Reading(self.classifier.spec, words(settings), options.units, options.skips, own)
        encoder = Encoder(options.to, self.about)  # type: ignore[arg-type]
        self.file: File | None = None
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iot_classify_")))
        output: File | Pipe
        if options.out is not None:
            self.file = output = self._resumable(options.out, encoder, key)
            self.folder = self.file.folder
        else:
            output = Pipe(encoder, standard_output(), self.folder)
        state = self.file.summary if self.file is not None else {}
        losses = Losses.of(state["losses"]) if state else Losses()
        cached = CachedClassifier(self.classifier, cache, options.explain)  # type: ignore[arg-type]
        counts = Summary.of(state["counts"]) if state else Summary()
        self.run = Run(cached, self.about, output, losses, counts, Drift(self.classifier.writer), log)
        self.output = output

    def _resumable(self, out: Path, encoder: Encoder, key: str) -> File:
        """Open the output file, going on where an earlier run was killed."""
        from iot_pipeline.serving.output import File, discard_unbegun, resume_folder

        options = self.options
        if STDIN in options.inputs and resume_folder(out).exists():
            raise UserError(
                f"{out} was not finished, and standard input cannot be read again: remove it and {resume_folder(out)}"
            )
        if out.is_dir():
            raise UserError(f"{out} is a folder; name a new file")
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = resume_folder(out)
        if not folder.exists() and out.exists():
            raise UserError(f"{out} already exists; name a new file")
        folder.mkdir(exist_ok=True)
        self._stack.enter_context(held(folder / "lock", f"another process writes {out}"))
        self._stack.callback(discard_unbegun, folder)
        run = {
            "inputs": options.inputs, "--follow": options.follow, "model or settings (stage, track, lake)": key,
            "--to": options.to,
            "--explain": options.explain, "--units": options.units, "--invalid": options.skips,
            "--benign": sorted(self.about.benign),
        }  # fmt: skip
        file = File(encoder, out, run)
        if file.resumed and file.position:
            print(f"{out} is continued from its event {file.summary['counts']['events'] + 1:,}", file=sys.stderr)
        return file

    def files(self) -> None:
        """Answer whole files: read them first, so that what is wrong is told before anything is classified."""
        import pyarrow.parquet as pq

        from iot_pipeline.flows.batches import batches
        from iot_pipeline.serving.prepared import Losses, prepare
        from iot_pipeline.serving.run import BATCH, EXPLAINED_BATCH

        source = checked_source(self.options.inputs)
        flows, known = self.folder / "flows.parquet", self.folder / "reading.json"
        done = self.file.position.get("flows", 0) if self.file is not None else 0
        resumed = self.file is not None and self.file.resumed
        content = read_json(known) if resumed and known.exists() else None
        if content is not None and flows.exists():
            check_unchanged(source, content["files"], self.options.out)
        else:
            report, losses = prepare(self.reading, source, flows, self.log)
            content = {"files": report.files, "losses": losses.to_json()}
            write_json(known, content)
        self.run.losses = Losses.of(content["losses"])
        self.run.total = pq.read_metadata(flows).num_rows
        if self.pool is not None:
            self._answer_on_ray(self.pool, flows)
        size = BATCH if self.options.explain == "none" else EXPLAINED_BATCH
        for answered in batches(flows, size):  # by an earlier run
            if self.run.drift.rows >= done:
                break
            self.run.drift.add(answered)
        self.run.answer(batches(flows, size, done), lambda events: {"flows": events})
        self.output.finish()

    def _answer_on_ray(self, pool: Pool, flows: Path) -> None:
        """Let replicas answer the flows of a prepared file that are not known, before the first event is written."""
        from iot_pipeline.serving.output import REPLICAS
        from iot_pipeline.serving.ray_verdicts import answer_file

        folder = self.folder / REPLICAS
        answered = answer_file(self.run.answers, self.classifier, flows, folder, pool, self.log)
        self._stack.callback(answered.close)
        self.run.answers.classifier = answered

    def stream(self, stopped: Callable[[], bool]) -> None:
        """Answer lines as they come, until the input ends or the run is stopped."""
        from iot_pipeline.serving.run import EXPLAINED_BATCH
        from iot_pipeline.serving.streams import LINES, Pipe, Streams, beginning, tails

        options, place = self.options, self.file.position if self.file is not None else {}
        if options.follow:
            if absent := [name for name in options.inputs if not Path(name).exists()]:
                self.log(f"waiting for {', '.join(absent)}, not there yet")
            paths = {name: Path(name) for name in options.inputs}
            inputs = tails(paths, place, self.run.losses, own_files(options.out))
        else:
            begun = beginning(0)
            if not begun:
                raise UserError("standard input is empty: give flows with a header")
            if is_whole(begun):
                self._spooled(begun)
                return
            inputs = {"stdin": Pipe(0, begun)}
        lines = LINES if options.explain == "none" else EXPLAINED_BATCH
        streams = Streams(self.reading, inputs, self.run.losses, options.join_wait, place, lines)
        self._stack.callback(streams.close)
        self.run.answer(streams.tables(stopped, options.idle_exit), lambda _: streams.position())
        if self.file is not None and options.follow:  # the next run goes on from here
            self.output.commit(streams.position(), self.run.state())
            return
        self.run.answer(streams.rest(ended=not stopped()), lambda _: streams.position())
        if not options.follow and not self.run.summary.events:
            first = f"; {self.run.losses.examples[0]}" if self.run.losses.examples else ": it has a header alone"
            raise UserError(f"no line of standard input is a flow{first}")
        self.output.finish()

    def _spooled(self, begun: bytes) -> None:
        """Answer a file on standard input that can only be read whole."""
        spool = self.folder / "stdin"
        with spool.open("wb") as handle:
            handle.write(begun)
            shutil.copyfileobj(sys.stdin.buffer, handle)
        self.options = replace(self.options, inputs=[str(spool)])
        self.files()

    def facts(self, seconds: float, flows: int) -> dict[str, Any]:
        """Return the facts of the summary."""
        classifier, origin, losses = self.classifier, self.classifier.origin, self.run.losses
        fitted = classifier.fitted
        return {
            "out": str(self.options.out) if self.options.out else "standard output",
            **self.run.summary.facts(fitted is not None, classifier.alarm is not None),
            "drift": self._drift(),
            "rows_left_out": dict(losses.rows),
            "first_left_out": losses.examples,
            "notes": losses.notes + self._advice(),
            "flows_per_second": round(flows / seconds, 1) if seconds else None,
            "seconds": round(seconds, 2),
            "probabilities": "as scored" if fitted is None else f"calibrated, temperature {fitted.temperature:.3g}",
            "stage": origin.stage,
            "track": origin.track,
            "model_digest": origin.digest,
            "labels": origin.labels,
        }

    def _drift(self) -> list[str]:
        """Say how the flows differ from the train pool, in sentences."""
        from iot_pipeline.evaluation.drift import sentences

        drift, counts, alarm = self.run.drift, self.run.summary, self.classifier.alarm
        if not drift.rows:
            return []
        drift.unknown, drift.judged = float(counts.unknown), float(counts.events)
        return sentences(drift.report(alarm=alarm))

    def _advice(self) -> list[str]:
        """Return a sentence where most flows look unlike those of the train pool for one known reason."""
        counts, spec = self.run.summary, self.classifier.spec
        if spec.scaling == "given" and self.options.units == "auto" and counts.out_of_range > 0.5 * counts.events:
            return [
                "most flows are out of range, and this data set is published scaled: if these are in raw units "
                "(packets, bytes, seconds), use --units raw"
            ]
        return []


def is_whole(begun: bytes) -> bool:
    """Return True if input that begins with these bytes can only be read as a whole file, not line by line.

    That holds for archives, Parquet, JSON arrays, ARFF, UTF-16, and lines that end with CR alone.
    """
    from iot_pipeline.flows.reading.encodings import marked_encoding
    from iot_pipeline.flows.reading.other_formats import STARTS

    only_cr = b"\r" in begun[:-1] and b"\n" not in begun
    return (
        begun.startswith((*BINARY, *STARTS))
        or begun.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(WHOLE)
        or only_cr
        or bool(marked_encoding(begun))
    )


def replicas(settings: Settings, options: Options) -> Pool | None:
    """Return the replicas that answer whole files (`--replicas`, IOT_BATCH=ray); None for one student here.

    Raises UserError if Ray is not installed.
    """
    from iot_pipeline.inference.ray_batch import check_ray
    from iot_pipeline.inference.ray_blocks import Pool

    if options.streams or (options.replicas is None and settings.run.batch == "local"):
        return None
    check_ray()
    if settings.run.ray_address is not None and options.out is None:
        raise UserError("IOT_RAY_ADDRESS needs --out FILE, on storage that the cluster's machines share")
    return Pool(options.replicas or settings.run.ray_replicas, settings.run.ray_address, settings.run.threads)


def checked_source(inputs: Sequence[str]) -> str:
    """Return several inputs as one source; UserError for a path with a comma, which separates files there."""
    for name in inputs:
        if "," in name and os.path.exists(name):  # noqa: PTH110
            raise UserError(f"{name!r} has a comma in its name, which separates files: rename it")
    return ",".join(inputs)


def check_units(classifier: Classifier, given: str) -> None:
    """Raise UserError for units in which flows of the data set cannot be given."""
    from iot_pipeline.serving.units import UNITS, Unit, Units

    ranks = classifier.writer.ranks
    assert ranks is not None  # written for every serialisation
    if given in UNITS:  # else they are found out by the flows
        Units(classifier.spec, ranks).check(cast(Unit, given))


def benign_classes(given: str | None, classes: list[str]) -> frozenset[str] | None:
    """Return the classes that are no attack, as given with commas; None to go by their names."""
    if given is None:
        return None
    named = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in named if name not in classes]:
        raise UserError(f"--benign {', '.join(unknown)}: the classes are {', '.join(classes)}")
    return frozenset(named)


def own_files(out: Path | None) -> tuple[Path, ...]:
    """Return the files that a run writes beside its input, which a glob of the input may match when it goes on."""
    from iot_pipeline.serving.output import resume_folder

    return () if out is None else (out, resume_folder(out))


def check_unchanged(source: str, files: list[dict[str, Any]], out: Path | None) -> None:
    """Raise UserError if a file on this machine is no longer what an earlier run read; URLs are not asked again."""
    before = sorted((file["name"], file["sha256"]) for file in files if "url" not in file)
    now = sorted((path.name, sha256_file(path)) for path in local_files(source, own_files(out)))
    if before != now:
        changed = [name for name, _ in set(before) ^ set(now)]
        raise UserError(
            f"{', '.join(sorted(set(changed)))} changed since {out} was begun: remove it and {out}.resume to start over"
        )


def standard_output() -> IO[bytes]:
    """Return standard output for bytes; nothing else may write to it."""
    return sys.stdout.buffer


@contextlib.contextmanager
def stop_signals(graceful: bool) -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells the signal which asked to stop, if any.

    With `graceful` the first SIGINT or SIGTERM only asks; a second one, and without it the first, raises
    KeyboardInterrupt.
    """
    asked: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        asked.append(number)
        if not graceful or len(asked) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
