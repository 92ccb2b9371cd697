"""Engines behind one interface, and the profile that chooses one by what was measured on this machine.

A profile is offered only where a measurement says that it is faster here and gives the reference's labels
(`PROFILE_RULES`). The measurements are the asset `inference_benchmark`'s, in `inference.json`.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from iot_pipeline.errors import UserError
from iot_pipeline.inference.openvino_engine import EngineUnavailable, OpenVinoStudent
from iot_pipeline.inference.student import Student
from iot_pipeline.machine import processor

Profile = Literal["reference", "balanced", "aggressive"]
REFERENCE, VLLM = "reference", "vllm-bf16"
LEAST_AGREEMENT = 0.999  # share of flows with the reference's label
LEAST_COMPARED = 1000  # flows: of fewer, 99.9 % cannot be told from less
LARGEST_DIFFERENCE = 1e-3  # of a probability, for `balanced`


class Kind(NamedTuple):
    """Kind of engine; `profile`: the least careful one that may choose it."""

    name: str
    on_card: bool
    profile: Profile
    open: Callable[[str | Path, Path | None, str, int | None], Student]


def _openvino(precision: Any) -> Callable[[str | Path, Path | None, str, int | None], Student]:
    return lambda base, adapter, _device, threads: OpenVinoStudent.open(base, adapter, precision, threads)


def _transformers(dtype: str) -> Callable[[str | Path, Path | None, str, int | None], Student]:
    return lambda base, adapter, device, threads: Student.load(base, adapter, device, threads, dtype)


# vLLM (vllm_engine.py) is no kind: it cannot hold an answer to the numbers of its flow, which is the default.
KINDS = (
    Kind("transformers-fp32", False, "reference", _transformers("fp32")),
    Kind("openvino-fp32", False, "balanced", _openvino("fp32")),
    Kind("transformers-bf16", False, "aggressive", _transformers("bf16")),
    Kind("openvino-bf16", False, "aggressive", _openvino("bf16")),
    Kind("openvino-int8", False, "aggressive", _openvino("int8")),
    Kind("transformers-bf16", True, "reference", _transformers("bf16")),
)


def kinds_of(device: str) -> tuple[Kind, ...]:
    """Return the kinds of engine for a device, the reference first."""
    return tuple(kind for kind in KINDS if kind.on_card == device.startswith("cuda"))


class Measured(NamedTuple):
    """Measurement of an engine beside the reference, in one process, alternating.

    seconds: a flow, the least of several; of the processor on a CPU (what else runs there counts for nothing), of the
    clock on a GPU. agreement: share of equal labels. difference:
    largest of a probability. flows: compared.
    """

    engine: str
    profile: Profile
    seconds: float
    agreement: float
    difference: float
    flows: int


def profiles(reference_seconds: float, measured: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Choose the engine of each profile from measurements: the fastest that the profile's rule allows, or none.

    `aggressive` may also take what `balanced` takes. Each entry has the evidence, or the reason why there is none.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for profile, allowed in (("balanced", {"balanced"}), ("aggressive", {"balanced", "aggressive"})):
        refused, fit = [], []
        for one in (one for one in measured if one.profile in allowed):
            reason = _refusal(one, reference_seconds)
            if reason:
                refused.append(f"{one.engine}: {reason}")
            else:
                fit.append(one)
        if fit:
            best = min(fit, key=lambda one: one.seconds)
            told = best._asdict() | {"times_reference": round(reference_seconds / best.seconds, 3)}
            chosen[profile] = {"offered": True, **told, "refused": refused}
        else:
            chosen[profile] = {"offered": False, "reason": "; ".join(refused) or "no engine for it here"}
    return chosen


def _refusal(one: Measured, reference_seconds: float) -> str:
    """Return why no profile takes an engine; empty if one does."""
    if not one.seconds < reference_seconds:
        return f"not faster ({reference_seconds / one.seconds:.2f} times the reference's speed)"
    if one.agreement < LEAST_AGREEMENT:
        return f"gives the reference's label to {100 * one.agreement:.4f} % of {one.flows:,} flows, less than 99.9 %"
    if one.profile == "balanced":
        if not one.difference <= LARGEST_DIFFERENCE:
            return f"a probability differs by {one.difference:.2g}, more than {LARGEST_DIFFERENCE}"
    elif one.flows < LEAST_COMPARED:
        return f"compared on {one.flows:,} flows; 99.9 % needs {LEAST_COMPARED:,}"
    return ""


@cache
def measured_on() -> dict[str, Any]:
    """Describe the machine that evidence is of: processor, cores, memory in GiB."""
    import psutil

    return {
        "processor": processor(), "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)
    }  # fmt: skip


def open_engine(
    base: str | Path,
    adapter: Path | None,
    profile: Profile,
    evidence: Mapping[str, Any] | None,
    log: Callable[[str], None],
    model: str = "",
    device: str = "auto",
    threads: int | None = None,
) -> Student:
    """Load a student by the engine that a profile chooses here; the reference, said, where the evidence has none.

    Args:
        base: Folder or hub id of the base.
        adapter: Folder of the adapter; None for the base alone.
        profile: What may be traded for speed.
        evidence: Content of `inference.json`; None if nothing was measured.
        log: Called with which engine was taken, and why.
        model: Data version of the adapter: labels of less precise engines were compared for one student alone.
        device: `cpu`, `cuda`, or "auto".
        threads: CPU threads.
    """
    where = device_here() if device == "auto" else device
    told = list[str]()  # once it is open: an engine that is not installed did not answer
    kind = kind_of(profile, evidence, where, told.append, model)
    try:
        opened = kind.open(base, adapter, where, threads)
    except EngineUnavailable as error:
        reference = kinds_of(where)[0]
        told = [f"IOT_INFERENCE={profile}: the reference, {reference.name}, answers: {error}"]
        opened = reference.open(base, adapter, where, threads)
    written = (evidence or {}).get("explanations", {})
    if isinstance(opened, OpenVinoStudent) and written.get("offered"):
        opened.writes = True
        told.append(f"explanations: {written['engine']}, {written['times_reference']:.1f} times the reference's speed")
    for sentence in told:
        log(sentence)
    return opened


def device_here() -> str:
    """Return `cuda` if this process sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def kind_of(
    profile: Profile, evidence: Mapping[str, Any] | None, device: str, log: Callable[[str], None], model: str = ""
) -> Kind:
    """Return the kind of engine that a profile chooses; the reference, said, where the evidence has none.

    Args:
        profile: What may be traded for speed.
        evidence: Content of `inference.json`; None if nothing was measured.
        device: `cpu` or `cuda`.
        log: Called with which engine was taken, and why.
        model: Data version of the adapter.
    """
    reference, *others = kinds_of(device)
    name, reason = chosen_engine(profile, evidence, device, model)
    kind = next((one for one in others if one.name == name), None)
    if kind is not None:
        log(f"IOT_INFERENCE={profile}: {name}, {reason}")
    elif profile != REFERENCE:
        log(f"IOT_INFERENCE={profile}: the reference, {reference.name}, answers: {reason}")
    return kind or reference


@dataclass(frozen=True)
class Opening:
    """Student to be loaded elsewhere: by which engine, from which files.

    `base`: folder or hub id; `name`: kind of engine, `reference`, or `vllm-bf16`.
    """

    base: str
    adapter: Path | None
    name: str

    def open(self, threads: int | None) -> Student:
        """Load the student in this process; UserError if its files or its engine are missing here."""
        if self.name == VLLM:
            return self._by_vllm()
        device = device_here()
        kind = next((one for one in kinds_of(device) if self.name in (one.name, REFERENCE)), None)
        if kind is None:
            raise UserError(f"{platform.node()} has no {self.name} on its {device}: replicas must be of one kind")
        try:
            return kind.open(self.base, self.adapter, device, threads)
        except EngineUnavailable as error:
            raise UserError(
                f"{platform.node()} cannot load {self.name} ({error}): install it there, or set IOT_INFERENCE=reference"
            ) from error

    def _by_vllm(self) -> Any:
        """Load the student with vLLM, which answers as a `Student` does but for hidden states."""
        from iot_pipeline.inference.vllm_engine import VllmStudent

        try:
            return VllmStudent.open(self.base, self.adapter)
        except EngineUnavailable as error:
            raise UserError(f"IOT_RAY_ENGINE=vllm: {platform.node()} cannot ({error}); leave it unset") from error


def replica_engine(wanted: str, usual: Callable[[], str], needs_states: bool) -> str:
    """Return the engine of replicas that classify: the usual one, or vLLM if it is wanted.

    Raises UserError if flows of no known class are told by hidden states, which vLLM does not give.
    """
    if wanted == "same":
        return usual()
    if needs_states:
        raise UserError(
            "IOT_RAY_ENGINE=vllm: this student's detector of unknown flows reads hidden states, which vLLM does not "
            "give; leave it unset"
        )
    return VLLM


def chosen_engine(
    profile: Profile, evidence: Mapping[str, Any] | None, device: str, model: str = ""
) -> tuple[str, str]:
    """Return (engine, why) of a profile by evidence; the engine is empty if the reference has to answer.

    Args:
        profile: What may be traded for speed.
        evidence: Content of `inference.json`; None if nothing was measured.
        device: `cpu` or `cuda`.
        model: Data version of the adapter.
    """
    if profile == REFERENCE:
        return "", ""
    if not evidence or "profiles" not in evidence:
        return "", "nothing was measured; `iot-pipeline run --until inference_benchmark` measures"
    if (was := evidence["machine"]) != measured_on() or evidence["on_card"] != device.startswith("cuda"):
        return "", f"speed was measured on another machine ({was['processor']}, {was['cores']} cores)"
    found = evidence["profiles"].get(profile, {"offered": False, "reason": "not measured"})
    if not found["offered"]:
        return "", str(found["reason"])
    if found["profile"] == "aggressive" and evidence["model"] != model:
        of = f"{evidence['track']} {evidence['stage']}"
        return "", f"labels of {found['engine']} were compared for another student, {of}; balanced may be faster too"
    told = f"{found['times_reference']:.1f} times the reference's speed, {found['agreement']:.2%} of its labels"
    return str(found["engine"]), f"{told} on {found['flows']:,} flows"
