"""OpenLineage events of every artefact, made from its manifest: inputs and output by version, columns, settings.

dagster-openlineage is not used: its events name neither inputs nor partitions, several artefacts share one run id, and
they quote error messages and the facts of checks, in which words of flows may stand.
"""

import os
import uuid
from datetime import UTC, datetime
from typing import Any

import requests
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    dataset_version_dataset,
    error_message_run,
    execution_parameters_run,
    output_statistics_output_dataset,
    parent_run,
    schema_dataset,
    tags_run,
)
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

from iot_pipeline import __version__
from iot_pipeline.env_file import dotenv
from iot_pipeline.reporting.gather import placeless
from iot_pipeline.sinks.making import TIMEOUT_S, Made, Making

KEY = "OPENLINEAGE_API_KEY"
PRODUCER = f"iot_pipeline/{__version__}"
NO_RETRY = {"total": 0, "connect": 0, "read": 0, "status_forcelist": []}


class OpenLineageSink:
    """Events over HTTP to `<url>/api/v1/lineage`; the key, if any, is OPENLINEAGE_API_KEY."""

    setting = "IOT_OPENLINEAGE_URL"

    def __init__(self, url: str) -> None:
        self.address = url
        session = requests.Session()
        session.max_redirects = 0  # a redirect would take events and key elsewhere
        key = os.environ.get(KEY) or dotenv().get(KEY)
        auth = {"auth": ApiKeyTokenProvider({"api_key": key})} if key else {}
        self._transport = HttpTransport(
            HttpConfig(url=url, timeout=TIMEOUT_S, retry=NO_RETRY, session=session, **auth)  # type: ignore[arg-type]
        )

    def started(self, making: Making) -> None:
        """Send START."""
        self._send(making, RunState.START, {}, [], OutputDataset(namespace_of(making), str(making.artefact)))

    def made(self, making: Making, made: Made) -> None:
        """Send COMPLETE with every input, the output and the settings."""
        manifest, space = made.manifest, namespace_of(making)
        inputs = [
            _versioned(InputDataset, space, str(upstream), version) for upstream, version in manifest.upstream().items()
        ]
        inputs += [
            _versioned(InputDataset, "file", str(placeless(name.removeprefix("file "))), str(version))
            for name, version in manifest.settings.items()
            if name.startswith("file ")
        ]
        output = _versioned(OutputDataset, space, str(making.artefact), manifest.data_version)
        output.facets |= _columns(made, space)
        output.outputFacets = {
            "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=rows if isinstance(rows := manifest.summary.get("rows"), int) else None,
                size=sum(int(facts["bytes"]) for facts in manifest.files.values()),
                fileCount=len(manifest.files),
            )
        }
        self._send(making, RunState.COMPLETE, _run_facets(made), inputs, output)

    def failed(self, making: Making, kind: str) -> None:
        """Send FAIL with the kind of the error alone."""
        facet = error_message_run.ErrorMessageRunFacet(message=kind, programmingLanguage="python")
        output = OutputDataset(namespace_of(making), str(making.artefact))
        self._send(making, RunState.FAIL, {"errorMessage": facet}, [], output)

    def _send(self, making: Making, state: RunState, facets: Any, inputs: list[Any], output: OutputDataset) -> None:
        space = namespace_of(making)
        parent = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=making.run_id), job=parent_run.Job(namespace=space, name=making.job)
        )
        # A Dagster run may make several artefacts; each is a run of its own here.
        run_id = str(uuid.uuid5(uuid.UUID(making.run_id), str(making.artefact)))
        self._transport.emit(
            RunEvent(
                eventType=state,
                eventTime=datetime.now(UTC).isoformat(),
                run=Run(runId=run_id, facets=facets | {"parent": parent}),
                job=Job(namespace=space, name=making.artefact.asset),
                inputs=inputs,
                outputs=[output],
                producer=PRODUCER,
            )
        )


def namespace_of(making: Making) -> str:
    """Return OPENLINEAGE_NAMESPACE, or the name of the lake."""
    return os.environ.get("OPENLINEAGE_NAMESPACE") or f"iot_pipeline.{making.lake}"


def _versioned(kind: Any, namespace: str, name: str, version: str) -> Any:
    facet = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
    return kind(namespace=namespace, name=name, facets={"version": facet})


def _columns(made: Made, namespace: str) -> dict[str, Any]:
    """Return the facets of a table's columns: names with types, and the input columns that each is made from."""
    inputs = [*made.manifest.upstream()]
    found: dict[str, Any] = {}
    if made.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in made.columns]
        found["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if made.sources:
        found["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={
                column: column_lineage_dataset.Fields(
                    inputFields=[
                        column_lineage_dataset.InputField(namespace=namespace, name=str(one), field=of)
                        for asset, of in sources
                        for one in inputs
                        if one.asset == asset
                    ]
                )
                for column, sources in made.sources.items()
            }
        )
    return found


def _run_facets(made: Made) -> dict[str, Any]:
    """Return settings, code and labels of an artefact as facets of its run."""
    provenance = made.manifest.provenance
    tags = {
        "code_version": made.manifest.code_version,
        "code_commit": str(provenance.get("code_commit") or "unknown"),
        "labels": "; ".join(provenance.get("labels", [])),
        "checks_failed": ", ".join(name for name, check in made.manifest.checks.items() if not check["passed"]),
    }
    settings = [
        execution_parameters_run.ExecutionParameter(key=name, value=value) for name, value in made.settings().items()
    ]
    return {
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(parameters=settings),
        "tags": tags_run.TagsRunFacet(
            tags=[
                tags_run.TagsRunFacetFields(key=key, value=value, source="INTEGRATION")
                for key, value in tags.items()
                if value
            ]
        ),
    }
