"""Recording of a materialisation: every read of an asset body is recorded and becomes its manifest.

An artefact depends on what its asset body really read: `step.input(...)`, `step.settings.x` and `step.file(...)` record
each read, so freshness needs no second list that could be forgotten or wrong.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.asset_page import page_metadata
from iot_pipeline.defs.checks import describe_check
from iot_pipeline.defs.column_lineage import MEANINGS, Columns, column_lineage, description
from iot_pipeline.defs.reads import RecordedSettings, file_version, present_value, to_json
from iot_pipeline.defs.sinks import told_to_sinks
from iot_pipeline.errors import BudgetReached, UserError
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import DatasetSpec, load_spec, spec_files
from iot_pipeline.lake.atomic import write_csv, write_json
from iot_pipeline.lake.code_version import code_commit, code_version
from iot_pipeline.lake.manifest import CheckFacts
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.machine import this_machine
from iot_pipeline.settings import PROJECT_ROOT, Settings

PREVIEW_ROWS = 5
MISSING = "missing_input"  # metadata of a failure: what has to be made first
BUDGET = "budget_reached"  # metadata of a failure that is no fault: the next day's budget goes on with it
MEND = "make room or mend permissions, and run again: what is made stays"
progress = logging.getLogger("iot_pipeline.progress")  # the command line shows its records by a handler
progress.setLevel(logging.INFO)
progress.propagate = False
progress.addHandler(logging.NullHandler())


def announce(artefact: ArtefactId, event: str, text: str = "") -> None:
    """Log an artefact's event: fresh, waiting, started, progress, note (that stays in sight), done or failed."""
    progress.info("%s", text, extra={"artefact": artefact, "event": event})


class Step:
    """Interface of an asset body to lake and settings; created by `LakeResource.step`."""

    def __init__(self, context: dg.AssetExecutionContext, lake: Lake, settings: Settings, folder: Path) -> None:
        self.context = context
        self.lake = lake
        self.folder = folder
        self.artefact = artefact_of(context)
        self.metadata: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self.data_versions: dict[str, str] = {}  # of the inputs read so far
        self._checks: dict[str, CheckFacts] = {}
        self._volatile: set[str] = set()
        self._labels: set[str] = set()  # simulated, embedded and tiny parts among all inputs
        self._blocking = {spec.name: spec.blocking for spec in context.assets_def.check_specs}
        self._declared = {key for keys in context.assets_def.asset_deps.values() for key in keys}
        self._present, self._lineage = present_value(lake, settings), dict[ArtefactId, str]()
        self.settings: Settings = RecordedSettings(settings, self._seen)  # type: ignore[assignment]

    # -- reading -------------------------------------------------------------------------------------------
    def input(self, asset: str, partition: str = "") -> Path:
        """Return the folder of an upstream artefact, and record its data version as an input.

        Raises dg.Failure without retry if it is not declared, is missing, did not pass a blocking check, no longer
        follows from its own inputs (a prompt edited since), or has an altered file, itself or anywhere upstream.
        Dagster would let a later run continue then, at a cost of money or hours.
        """
        upstream = ArtefactId(asset, partition)
        if dg.AssetKey(asset) not in self._declared:
            raise dg.Failure(f"{self.artefact} reads {asset}, which is not among its deps", allow_retries=False)
        manifest = self.lake.manifest(upstream)
        if manifest is None:
            told = f"{upstream} has not been made; materialise it first"
            raise dg.Failure(told, metadata={MISSING: str(upstream)}, allow_retries=False)
        if failed := manifest.describe_failures():
            raise dg.Failure(f"{upstream} did not pass: {failed}", allow_retries=False)
        if broken := self.lake.broken_lineage(upstream, self._present, self._lineage):
            raise dg.Failure(
                f"stale input ({broken}); `iot-pipeline run` makes it again (or delete its folder first)",
                allow_retries=False,
            )
        self.data_versions[upstream.input_key] = manifest.data_version
        self._labels |= set(manifest.provenance.get("labels", []))
        return self.lake.folder(upstream)

    def upstream_artefacts(self, name: str) -> list[ArtefactId]:
        """List the fresh artefacts of an asset, or of all stages' assets of that name; the list is recorded.

        Stale ones (a stage with a prompt that was edited since) are left out and logged.
        """
        found = []
        for artefact in (one for one in self.lake.artefacts() if one.belongs_to(name)):
            if broken := self.lake.broken_lineage(artefact, self._present, self._lineage):
                self.log(f"left out, stale: {broken}")
            else:
                found.append(artefact)
        self._seen[f"artefacts {name}"] = [str(artefact) for artefact in found]
        return found

    def inputs(self, name: str) -> dict[ArtefactId, Path]:
        """Return the folders of `upstream_artefacts(name)`, each recorded as an input."""
        return {artefact: self.input(artefact.asset, artefact.partition) for artefact in self.upstream_artefacts(name)}

    def listing(self, source: str, files: Sequence[Path]) -> None:
        """Record the files that a glob matches, so that a new match is noticed."""
        self._seen[f"files {source}"] = [str(file) for file in files]

    def file(self, path: Path) -> Path:
        """Record a file outside the lake (a prompt, a spec) by its content, and return its path."""
        # Files of the project have relative names, so that a lake stays fresh when the checkout moves.
        name = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
        self._seen[f"file {name}"] = file_version(path, self.lake)
        return path

    def code(self, module: str) -> str:
        """Record the digest of code outside the asset's own that decides its content (the embedded teacher's)."""
        version = self._seen[f"code {module}"] = code_version(module)
        return version

    @cached_property
    def spec(self) -> DatasetSpec:
        """Spec of the data set, with the classes that the flows have; its file and those it extends are recorded.

        The classes are not recorded: whatever reads them depends on the flows.
        """
        name = self.settings.data.dataset
        for path in spec_files(name):
            self.file(path)
        spec = load_spec(name)
        made_before = self.artefact.asset in ("raw_flows", "flows")
        return spec if made_before else with_kept_classes(spec, self.lake.folder(ArtefactId("flows")))

    # -- writing -------------------------------------------------------------------------------------------
    def json(self, name: str, value: Any, volatile: bool = False) -> None:
        """Write JSON into the artefact; volatile files (timings) do not count for its data version."""
        write_json(self.folder / name, to_json(value))
        if volatile:
            self._volatile.add(name)

    def volatile(self, *names: str) -> None:
        """Mark files whose content may differ between equal runs."""
        self._volatile.update(names)

    def png(self, name: str, image: bytes, alt: str) -> None:
        """Write a figure and show it on the asset's page. PNG bytes depend on fonts, so they are volatile."""
        from iot_pipeline.reporting.style import embed

        (self.folder / name).write_bytes(image)
        self._volatile.add(name)
        self.metadata[Path(name).stem] = dg.MetadataValue.md(embed(image, alt))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows (scalars only) as a table on the asset's page, and write them as CSV (except a preview)."""
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            records = [
                dg.TableRecord({str(key): "" if row.get(key) is None else to_metadata(row[key]) for key in columns})
                for row in rows
            ]
            self.metadata[name] = dg.MetadataValue.table(records=records)
            if name != "preview":
                write_csv(self.folder / f"{name}.csv", columns, rows)
                self._volatile.add(f"{name}.csv")  # some contain timings

    def preview(self, parquet: str, columns: Columns | None = None, meanings: Mapping[str, str] | None = None) -> None:
        """Show columns and first rows of one of the artefact's Parquet files, and what its columns are made from."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / parquet) as file:
            first = next(file.iter_batches(PREVIEW_ROWS), None)
            self.table("preview", first.to_pylist() if first is not None else [])
            told, made = meanings or MEANINGS, columns or {}
            schema = [
                dg.TableColumn(name, str(kind), description(told.get(name, ""), made.get(name, ())))
                for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
            ]
        self.metadata["dagster/column_schema"] = dg.TableSchema(schema)
        if columns:
            there = {column.name for column in schema}
            found = {name: sources for name, sources in columns.items() if name in there}
            self.metadata["dagster/column_lineage"] = column_lineage(found)

    def summarise(self, **facts: Any) -> None:
        """Show facts on the asset's page and store them in the manifest's summary."""
        self.summary |= {key: to_json(value) for key, value in facts.items()}
        self.metadata |= {key: to_metadata(value) for key, value in facts.items()}

    def check(self, name: str, passed: bool, **facts: Any) -> None:
        """Record the verdict of an asset check; the asset declares it, and whether it blocks."""
        self._checks[name] = {"passed": bool(passed), "blocking": self._blocking[name], "facts": to_json(facts)}

    def tag_run(self, tags: dict[str, str]) -> None:
        """Add tags to the Dagster run; lists of runs show them."""
        self.context.instance.add_run_tags(self.context.run_id, tags)

    def log(self, text: str) -> None:
        """Send progress to the run's log and to every listener."""
        self.context.log.info(text)
        self.progress(text)

    def progress(self, text: str) -> None:
        """Send progress to listeners only, if the run's log has it already (a training process writes there itself).

        Raises UserError if another host took the lease of this artefact meanwhile: what is made here would be lost.
        """
        self.lake.check_lease(self.artefact)
        announce(self.artefact, "progress", text)

    # -- the end -------------------------------------------------------------------------------------------
    def finish(self, seconds: float, code_version: str) -> None:
        """Write the manifest into the folder."""
        own = [self.provenance["label"]] if "label" in self.provenance else []
        self.provenance |= {
            "labels": sorted(self._labels.union(own)),
            "run_id": self.context.run_id,
            "code_commit": code_commit(),
            "machine": this_machine(),
            "seconds": round(seconds, 2),
        }
        manifest = Manifest(
            asset=self.artefact.asset,
            partition=self.artefact.partition,
            data_version="",
            code_version=code_version,
            inputs=self.data_versions,
            settings=self._seen,
            files={},
            checks=self._checks,
            summary=self.summary,
            provenance=to_json(self.provenance),
        )
        self.finished = finish_artefact(self.folder, manifest, self._volatile)

    def result(self) -> dg.MaterializeResult:
        """Return the materialisation for Dagster: data version, metadata, check results."""
        metadata = page_metadata(self.artefact, self.finished) | self.metadata
        if isinstance(rows := self.summary.get("rows"), int):
            metadata["dagster/partition_row_count" if self.artefact.partition else "dagster/row_count"] = rows
        return dg.MaterializeResult(
            metadata=metadata,
            data_version=dg.DataVersion(self.finished.data_version),
            check_results=[dg.AssetCheckResult(**verdict) for verdict in verdicts(self._checks)],
        )


class LakeResource(dg.ConfigurableResource):
    """Lake that gives assets their `Step`. `folder`: the lake's; empty for that of the settings."""

    folder: str = ""

    def root(self) -> Path:
        """Return the folder of the lake."""
        return Path(self.folder) if self.folder else settings_module.settings().lake_path

    @contextlib.contextmanager
    def step(self, context: dg.AssetExecutionContext) -> Iterator[Step]:
        """Run an asset body on a staging folder, which replaces the artefact's folder if the body succeeds.

        A UserError or an error of the file system becomes a dg.Failure of one sentence: no traceback, no retry.
        """
        settings = settings_module.settings()
        artefact = artefact_of(context)
        announce(artefact, "started")
        begin = time.monotonic()
        try:
            lake = Lake(self.root())
            with (
                # Of a lake that is named here, sinks are not told: a replay in a scratch lake is no making.
                told_to_sinks(
                    context, None if self.folder else settings, lake, artefact, functools.partial(note, context)
                ) as tell,
                lake.replacing(artefact) as folder,
            ):
                step = Step(context, lake, settings, folder)
                yield step
                version = context.assets_def.code_versions_by_key[context.asset_key] or ""
                step.finish(time.monotonic() - begin, version)
                tell(step.finished, step.metadata)
            step.folder = lake.folder(artefact)
        except UserError as error:
            announce(artefact, "failed", str(error))
            reached = {BUDGET: True} if isinstance(error, BudgetReached) else {}
            raise dg.Failure(str(error), metadata=reached, allow_retries=False) from None
        except dg.Failure as error:
            announce(artefact, "failed", error.description or "")
            raise
        except OSError as error:
            told = f"{error.filename or artefact}: {error.strerror or error}; {MEND}"
            announce(artefact, "failed", told)
            raise dg.Failure(told, allow_retries=False) from error
        except Exception as error:
            announce(artefact, "failed", f"{type(error).__name__}: {error}")
            raise
        if failed := step.finished.describe_failures():
            announce(artefact, "failed", f"check did not pass: {failed}")
        else:
            announce(artefact, "done", f"{step.finished.provenance['seconds']:.1f}")


def note(context: dg.AssetExecutionContext, text: str) -> None:
    """Log a warning that does not concern the artefact, where it stays in sight."""
    context.log.warning(text)
    announce(artefact_of(context), "note", text)


def to_metadata(value: Any) -> str | int | float | bool:
    """Convert a value for Dagster's metadata and tables."""
    value = to_json(value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def verdicts(checks: Mapping[str, CheckFacts]) -> list[dict[str, Any]]:
    """Return each check of a manifest as arguments for Dagster's check result."""
    return [
        {
            "check_name": name, "passed": check["passed"],
            "severity": dg.AssetCheckSeverity.ERROR if check["blocking"] else dg.AssetCheckSeverity.WARN,
            "metadata": {key: to_metadata(value) for key, value in check["facts"].items()},
            "description": describe_check(name, check["passed"], check["facts"]),
        }
        for name, check in checks.items()
    ]  # fmt: skip


def artefact_of(context: dg.AssetExecutionContext) -> ArtefactId:
    """Return the artefact (asset and partition) that this execution materialises."""
    key = context.asset_key.to_user_string()
    return ArtefactId(key, str(context.partition_key) if context.has_partition_key else "")
