"""Sinks beside Dagster: every making of an artefact, from the UI or a command, is told to those that are set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline.defs.asset_page import folder_url
from iot_pipeline.lake.store import MANIFEST, ArtefactId, Lake, Manifest
from iot_pipeline.settings import Settings
from iot_pipeline.sinks.making import Made, Making
from iot_pipeline.sinks.telling import open_sinks, tell

ADDRESS = "ui.address"  # file in the folder of a Dagster instance: URL of the UI that is open


@contextmanager
def told_to_sinks(
    context: dg.AssetExecutionContext,
    chosen: Settings | None,
    lake: Lake,
    artefact: ArtefactId,
    say: Callable[[str], None],
) -> Iterator[Callable[[Manifest, dict[str, Any]], None]]:
    """Tell the sinks that an artefact is being made, and what became of it at the end of the block.

    The block calls what is yielded with the finished manifest and the metadata of the asset's page.

    Args:
        context: Of the execution.
        chosen: The present settings, which name the sinks; None where none is told.
        lake: The lake.
        artefact: What is made.
        say: Receives the sentence on a sink that is down.

    Raises:
        UserError: The library of a sink is missing.
    """
    sinks = open_sinks(chosen) if chosen is not None else []
    if not sinks:
        yield lambda manifest, metadata: None
        return
    link = f"{ui_address(context.instance)}{folder_url(artefact)}{MANIFEST}"
    making = Making(artefact, context.run_id, context.job_name, lake.root.name, link)
    finished: list[Made] = []
    tell(sinks, lambda sink: sink.started(making), say)
    try:
        # Its place, not its folder: what a bucket has there is the artefact before, which may be damaged.
        yield lambda manifest, metadata: finished.append(_made(manifest, metadata, lake.place(artefact)))
    except BaseException as error:
        kind = type(error).__name__
        tell(sinks, lambda sink: sink.failed(making, kind), say)
        raise
    for made in finished:
        tell(sinks, lambda sink, made=made: sink.made(making, made), say)  # type: ignore[misc]


def _made(manifest: Manifest, metadata: dict[str, Any], folder: Path) -> Made:
    schema, lineage = metadata.get("dagster/column_schema"), metadata.get("dagster/column_lineage")
    columns = [(column.name, column.type) for column in schema.columns] if schema else []
    deps = lineage.deps_by_column if lineage else {}
    sources = {name: [(one.asset_key.to_user_string(), one.column_name) for one in of] for name, of in deps.items()}
    return Made(manifest, folder, columns, sources)


def ui_address(instance: dg.DagsterInstance) -> str:
    """Return the URL of the UI that was opened last on an instance; empty if there was none."""
    file = Path(instance.root_directory) / ADDRESS
    return file.read_text(encoding="utf-8", errors="replace").strip()[:200] if file.is_file() else ""
