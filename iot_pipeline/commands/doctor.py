"""`iot-pipeline doctor`: check of everything that the present settings need, before anything is spent."""

import contextlib
import glob
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from iot_pipeline.commands.checkpoint import engine_evidence
from iot_pipeline.commands.show import wide_console
from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import without_credentials
from iot_pipeline.flows.source import local_files
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.inference.engines import chosen_engine
from iot_pipeline.inference.projection import advice
from iot_pipeline.lake.remote import mirror
from iot_pipeline.lake.store import Lake
from iot_pipeline.machine import processor
from iot_pipeline.models.check import TINY_MATRICES, check_base, check_targets, check_tokenizer
from iot_pipeline.models.folder import in_hub_cache
from iot_pipeline.models.smollm2 import SMOLLM2, SMOLLM2_LABEL, source_of_smollm2
from iot_pipeline.settings import Settings, api_key
from iot_pipeline.teacher.store.database import SETTING, shown
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import is_paid, shown_address, source_of, store_of
from iot_pipeline.training.ray_launch import check_ray, connected

PACKAGES = [
    "dagster",
    "pandas",
    "pyarrow",
    "duckdb",
    "openai",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "autogluon.tabular",
    "bitsandbytes",
    "openvino",
    "ray",
]
OPTIONAL = {
    "bitsandbytes": "only needed for IOT_QUANTISATION=nf4: pip install 'iot-pipeline[gpu]'",
    "openvino": "only needed for a faster IOT_INFERENCE on CPUs: pip install 'iot-pipeline[openvino]'",
    "ray": "only needed for IOT_LAUNCHER=ray and IOT_BATCH=ray: pip install 'iot-pipeline[ray]'",
}


@dataclass
class Finding:
    """Finding of the examination; `state` is ok, note or error."""

    topic: str
    state: str
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Return findings for the present settings, in the order in which a run would meet them."""
    machine = f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, {processor()}"
    topics = [_data_set, _source, _lake, _store, _teacher, _base, _gpu, _inference]
    topics += [_ray] if settings.run.launcher == "ray" else []
    topics += [_records] if settings.run.dagster_postgres is not None else []
    topics += [_audit_tokenizer] if settings.evaluation.audit_tokenizer else []
    return [
        Finding("machine", "ok", machine),
        *(_package(name, settings) for name in PACKAGES),
        *(examined(settings) for examined in topics),
    ]


def _package(name: str, settings: Settings) -> Finding:
    try:
        return Finding("package", "ok", f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        by_ray = "ray" in (settings.run.launcher, settings.run.batch)
        wanted = {"bitsandbytes": settings.student.quantisation == "nf4", "ray": by_ray}
        needed = name not in OPTIONAL or wanted.get(name, False)
        return Finding("package", "error" if needed else "note", f"{name} is not installed; {OPTIONAL.get(name, '')}")


def _data_set(settings: Settings) -> Finding:
    try:
        spec = load_spec(settings.data.dataset)
    except UserError as error:
        return Finding("data set", "error", str(error))
    return Finding("data set", "ok", f"{spec.name}: {len(spec.features)} features, {len(spec.classes)} classes")


def _source(settings: Settings) -> Finding:
    if settings.data.source == "simulate":
        try:
            edition = load_spec(settings.data.dataset).simulated_as
        except UserError:
            return Finding("source", "error", "simulated, but there is no such data set")
        if edition is None:
            told = f"only Farm-Flow can be simulated; set IOT_SOURCE for {settings.data.dataset}"
            return Finding("source", "error", told)
        rows = settings.data.rows or load_spec(edition).facts["rows"]
        return Finding("source", "note", f"simulated: {rows:,} rows, no real capture")
    try:
        local_files(settings.data.source)
    except UserError as error:
        return Finding("source", "error", f"IOT_SOURCE: {error}")
    return Finding("source", "ok", without_credentials(settings.data.source))


@contextlib.contextmanager
def _looked_at(settings: Settings) -> Iterator[Lake]:
    """Open the lake without writing to it; a lake in a bucket is mirrored in a temporary folder."""
    if not settings.remote_lake:
        yield Lake(settings.lake_path, read_only=True)
        return
    with tempfile.TemporaryDirectory(prefix="iot_pipeline-doctor-") as folder:
        yield Lake(mirror(settings.remote_lake, Path(folder)), read_only=True)


def _lake(settings: Settings) -> Finding:
    root = settings.lake_path
    there = next(folder for folder in (root, *root.parents) if folder.exists())  # an examination creates nothing
    if there == root and root.is_dir() and os.access(root, os.R_OK | os.X_OK) and not os.access(root, os.W_OK):
        usable = "status, estimate, verify, `run --dry-run` and `cache export` work on it"
        told = f"{root} may only be read: {usable}; to make something, set IOT_LAKE to a writable folder"
        return Finding("lake", "note", told)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("lake", "error", f"cannot write to {there}; set IOT_LAKE to a writable folder")
    free = shutil.disk_usage(there).free / 1e9
    state, where = "ok" if free > 5 else "note", str(root)
    if settings.remote_lake:
        try:
            with _looked_at(settings) as lake:
                where = f"{lake.address}, {len(lake.artefacts())} artefacts; copies in {root}"
        except UserError as error:
            return Finding("lake", "error", str(error))
    return Finding("lake", state, f"{where}, {free:.0f} GB free" + ("" if state == "ok" else " (5 are wise)"))


def _store(settings: Settings) -> Finding:
    try:
        url = store_of(settings)
        if not exists(url):
            return Finding("store", "ok", f"answers will be kept in {shown(url)}")
        with Store(url, read_only=True) as store:
            told = f"{store.ledger()['attempts']:,} attempts, ${store.spent_usd():,.2f} spent"
        return Finding("store", "ok", f"{shown(url)}: {told}")
    except UserError as error:
        return Finding("store", "error", str(error))


def _records(settings: Settings) -> Finding:
    """Tell whether the PostgreSQL of Dagster's records can be reached; it creates nothing there."""
    from iot_pipeline.defs.home import check_url
    from iot_pipeline.defs.workers import connected
    from iot_pipeline.defs.workers import shown as place

    assert settings.run.dagster_postgres is not None
    try:
        url = check_url(settings.run.dagster_postgres.get_secret_value())
        with contextlib.closing(connected(url.render_as_string(hide_password=False))) as connection:
            told = connection.exec_driver_sql("SHOW server_version").scalar()
        return Finding("records", "ok", f"Dagster's are kept in {place(url)}, PostgreSQL {told}")
    except UserError as error:
        return Finding("records", "error", str(error))


def _teacher(settings: Settings) -> Finding:
    if settings.teacher.server == "embedded":
        return Finding("teacher", "note", "embedded rule-based analyst on loopback; its answers are marked as its own")
    try:
        source, paid = source_of(settings), is_paid(settings)
    except UserError as error:
        return Finding("teacher", "error", str(error))
    if settings.teacher.server == "replay":
        return Finding("teacher", "ok", f"replay: stored answers of {source}, nothing is asked")
    if api_key() is None:
        state = "error" if settings.teacher.server == "openai" else "note"
        return Finding("teacher", state, f"OPENAI_API_KEY is not set (environment or .env) for {source}")
    money = (
        f"budget ${settings.run.teacher_budget_usd:,.2f}" if paid else "taken to be free: no budget (IOT_TEACHER_PAID)"
    )
    return Finding("teacher", "ok", f"{source}, by {settings.run.teacher_via}, {money}")


def _gpu(settings: Settings) -> Finding:
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    if settings.run.launcher == "ray" and settings.run.ray_address is not None:
        return Finding("GPU", "note", f"{gpus} found here, for measurements; students train on the Ray cluster")
    wanted = settings.run.processes or max(1, gpus)
    state = "error" if gpus and wanted > gpus else "ok" if gpus else "note"
    return Finding("GPU", state, f"{gpus} found, IOT_PROCESSES={settings.run.processes or 'unset'}")


def _ray(settings: Settings) -> Finding:
    address = settings.run.ray_address
    if address is None:
        return Finding("Ray", "ok", "each training starts a Ray on this machine and stops it (IOT_RAY_ADDRESS)")
    try:
        check_ray()
        connected(address)
    except UserError as error:
        return Finding("Ray", "error", str(error))
    workers, gpus = settings.run.processes or 1, settings.run.ray_gpus
    return Finding(
        "Ray",
        "ok",
        f"{without_credentials(address)} takes jobs; {workers} workers, "
        f"IOT_RAY_GPUS={'unset' if gpus is None else gpus}",
    )


def _inference(settings: Settings) -> Finding:
    """Tell which bases the memory here holds, and which engine IOT_INFERENCE takes, by what was measured."""
    on_card = bool(glob.glob("/dev/nvidia[0-9]*"))
    memory = psutil.virtual_memory().total / 1e9
    if on_card:
        import torch

        on_card = torch.cuda.is_available()
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if on_card else memory
    profile, fits = settings.serving.inference, advice(memory, on_card)
    try:
        with _looked_at(settings) as lake:
            evidence = engine_evidence(lake)
    except UserError as error:
        return Finding("inference", "note", f"{fits}; {error}")
    engine, reason = chosen_engine(profile, evidence, "cuda" if on_card else "cpu", (evidence or {}).get("model", ""))
    answers = f"{engine} answers, {reason}" if engine else f"the reference answers{': ' if reason else ''}{reason}"
    return Finding("inference", "ok", f"{fits}; IOT_INFERENCE={profile}: {answers}")


def _base(settings: Settings) -> Finding:
    base = settings.student.base_model
    try:
        if base == "tiny":
            check_targets(TINY_MATRICES, settings.student.lora_targets)
            return Finding("student", "note", "a tiny Qwen2 built here; no match for a real base model")
        if base == SMOLLM2:
            return Finding("student", "ok", f"{SMOLLM2_LABEL}; {source_of_smollm2(settings.base_cache_path)}")
        if not Path(base).exists() and not in_hub_cache(base):
            return Finding("student", "note", f"base model {base} comes from the hub at first use; examined then")
        facts = check_base(base, download=False)
        check_targets(facts["matrices"], settings.student.lora_targets)
    except UserError as error:
        return Finding("student", "error", str(error))
    unused = f", {facts['unused_tensors']} further tensors that it does not use" if facts["unused_tensors"] else ""
    size = f"{facts['architecture']}, {facts['parameters']:,} parameters"
    return Finding("student", "ok", f"base model {base}: {size}{unused}")


def _audit_tokenizer(settings: Settings) -> Finding:
    named = str(settings.evaluation.audit_tokenizer)
    try:
        if not Path(named).exists() and not in_hub_cache(named):
            return Finding("audit", "note", f"tokenizer {named} comes from the hub at first use; examined then")
        check_tokenizer(named, download=False)
    except UserError as error:
        return Finding("audit", "error", str(error))
    return Finding("audit", "ok", f"tokenizer {named}")


def told_settings(settings: Settings) -> list[tuple[str, str, str]]:
    """Return every setting as (variable, value as text without credentials, meaning)."""
    return [(name, _told(name, value), meaning) for name, value, meaning in settings.describe()]


def _told(name: str, value: object) -> str:
    if name == SETTING and value:
        try:
            return shown(str(value))
        except UserError:
            return "(not shown: no place for a store)"  # it may contain anything, credentials included
    if name == "IOT_TEACHER":
        return shown_address(str(value))
    return ",".join(value) if isinstance(value, list) else "" if value is None else without_credentials(str(value))


def show(findings: list[Finding], settings: Settings) -> None:
    """Print the findings and every setting."""
    console = wide_console()
    table = Table("topic", "state", "finding", title="Examination")
    for finding in findings:
        style = {"ok": "green", "note": "yellow", "error": "bold red"}[finding.state]
        table.add_row(finding.topic, Text(finding.state, style=style), Text(finding.text))
    console.print(table)
    table = Table("variable", "value", "meaning", title="Settings")
    for name, value, description in told_settings(settings):
        table.add_row(name, Text(value, overflow="fold"), Text(description))
    console.print(table)
