"""MLflow: one run for each trained student, with its settings, curve and metrics, and links to its manifests."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

# Read by mlflow as it is imported (its telemetry would leave the machine) and at each request.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # a redirect would take figures and credentials elsewhere
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402

from iot_pipeline.lake.atomic import read_json  # noqa: E402
from iot_pipeline.lake.store import ArtefactId  # noqa: E402
from iot_pipeline.sinks.making import Made, Making  # noqa: E402
from iot_pipeline.vocabulary import Trained, unstaged  # noqa: E402

CHECKPOINT = "lora_checkpoint"
MEASURED = ("eval_metrics", "explanation_quality", "reasons")
PREFIX = "iot_pipeline."  # of tags
MOST_METRICS, MOST_PARAMS = 1000, 100  # that MLflow takes in one request


class MlflowSink:
    """Runs in the experiment `iot_pipeline/<lake>` of a tracking server.

    Credentials are MLflow's own: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, from the environment.
    """

    setting = "IOT_MLFLOW_URI"

    def __init__(self, uri: str) -> None:
        self.address = uri

    def started(self, making: Making) -> None:
        """Tell nothing: only a finished student has figures."""

    def failed(self, making: Making, kind: str) -> None:
        """Tell nothing."""

    def made(self, making: Making, made: Made) -> None:
        """Log a checkpoint, or what was measured of one; other artefacts are not told."""
        asset, stage = unstaged(making.artefact.asset)
        if asset != CHECKPOINT and asset not in MEASURED:
            return
        client = MlflowClient(tracking_uri=self.address)
        student = ArtefactId(f"{CHECKPOINT}_{stage}", making.artefact.partition)
        version = made.manifest.data_version if asset == CHECKPOINT else made.manifest.inputs.get(student.input_key, "")
        run_id = _run_of(client, making, student, version)
        tags = {f"manifest.{asset}": making.link, f"version.{asset}": made.manifest.data_version}
        if asset == CHECKPOINT:
            tags |= {"labels": "; ".join(made.manifest.provenance.get("labels", []))}
            tags |= {"code_commit": str(made.manifest.provenance.get("code_commit"))}
            _log(client, run_id, metrics=list(_curve(made)), params=made.settings())
        _log(client, run_id, metrics=list(_figures(asset, made)), tags=tags)


def _run_of(client: MlflowClient, making: Making, student: ArtefactId, version: str) -> str:
    """Return the id of a student's run, found by its checkpoint's version; a new one, finished, if none is there."""
    name = f"iot_pipeline/{making.lake}"
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment is not None else client.create_experiment(name)
    trained = Trained.parse(student.partition)
    tags = {"checkpoint": str(student), "version.lora_checkpoint": version}
    asked = " and ".join(f"tags.`{PREFIX}{key}` = '{value}'" for key, value in tags.items())
    if found := client.search_runs([place], asked, max_results=1):
        return str(found[0].info.run_id)
    stage = unstaged(student.asset)[1]
    tags |= {"stage": stage, "track": trained.track, "seed": str(trained.seed)}
    run = client.create_run(
        place, tags={PREFIX + key: value for key, value in tags.items()},
        run_name=f"{trained.track} {stage} seed {trained.seed}",
    )  # fmt: skip
    client.update_run(run.info.run_id, status="FINISHED")  # set_terminated would print the address
    return str(run.info.run_id)


def _log(
    client: MlflowClient,
    run_id: str,
    metrics: list[Metric],
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log to a run, in requests as large as MLflow takes."""
    given = [Param(key, str(value)) for key, value in (params or {}).items()]
    marks = [RunTag(PREFIX + key, value) for key, value in (tags or {}).items() if value]
    for at in range(0, len(given), MOST_PARAMS):
        client.log_batch(run_id, params=given[at : at + MOST_PARAMS])
    room = MOST_METRICS - len(marks)
    for at in range(0, max(1, len(metrics)), room):
        client.log_batch(run_id, metrics=metrics[at : at + room], tags=marks if at == 0 else [])


def _curve(made: Made) -> Iterator[Metric]:
    """Yield the losses of a training by optimiser step."""
    now = int(1000 * time.time())
    for line in (made.folder / "loss.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name in ("loss", "validation_loss"):
            if row.get(name) is not None:
                yield Metric(name, float(row[name]), now, int(row["step"]))


def _figures(asset: str, made: Made) -> Iterator[Metric]:
    """Yield the numbers of an artefact's summary, and of evaluations those of each view."""
    now = int(1000 * time.time())
    for name, value in made.manifest.summary.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Metric(f"{asset}/{name}", float(value), now, 0)
    if asset == "eval_metrics":
        for view, scored in read_json(made.folder / "eval.json")["views"].items():
            for name in ("log_loss", "brier", "ece"):
                values = {name: scored.get(name), f"calibrated_{name}": (scored.get("calibrated") or {}).get(name)}
                yield from (
                    Metric(f"{asset}/{key}_{view}", float(value), now, 0)
                    for key, value in values.items()
                    if value is not None
                )
