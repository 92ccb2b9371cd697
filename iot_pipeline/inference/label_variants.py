"""Variants of label scoring: each optimisation alone and with the ones before it, and every engine beside the other."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.engines import Kind, Measured, kinds_of
from iot_pipeline.inference.measuring import Row, Timed, alternated, not_run, one_by_one, peak_memory, timed, together
from iot_pipeline.inference.scoring import LEAST_SHARED, Options, shared_prefix
from iot_pipeline.inference.student import Student
from iot_pipeline.models.last_layer import fits

GROUP, ENGINES = "ours", "engines"
NAIVE = Options(**dict.fromkeys(asdict(Options()), False))
STEPS = {
    "head_rows": "head rows",
    "last_layer": "last layer at the label",
    "reuse_prefix": "prefix reuse",
    "sort_lengths": "length sorting",
    "read_once": "cache by flow",
}
ROUNDS = 2


@dataclass
class Scoring:
    """Measuring of label scores: a student of the reference, distinct prompts, classes and limits.

    repeated: prompts as rows come, equal ones included. alone: prompts that are scored one by one. most_seconds: of
    one pass.
    """

    student: Student
    prompts: Sequence[str]
    repeated: Sequence[str]
    classes: Sequence[str]
    device: str
    alone: int
    most_seconds: float
    say: Callable[[str], None]

    def options(self) -> list[Row]:
        """Measure the options: none, each alone, and each with the ones before it, on rows as they come."""
        rows = self._fitting(self.repeated, 512)
        tried: dict[str, Options] = {"label only, transformers as it is": NAIVE}
        useless = self._useless()
        for option, title in STEPS.items():
            tried[f"label only, {title} alone"] = replace(NAIVE, **{option: True})
        so_far = NAIVE
        for option, title in STEPS.items():
            so_far = replace(so_far, **{option: True})
            tried[f"label only, + {title}"] = so_far
        calls = {
            name: self._scorer(replace(self.student, options=option), rows)
            for name, option in tried.items()
            if not any(title in name for title in useless)
        }
        for call in list(calls.values())[:1]:
            call()  # warm-up
        peaks: dict[str, dict[str, float]] = {}
        found = alternated({name: self._watched(name, call, peaks) for name, call in calls.items()}, 2, self.device)
        wanted = next(iter(found.values())).value.argmax(1)
        return [
            self._row(name, GROUP, len(rows), found[name], wanted) | peaks[name] | self._singly(tried[name])
            for name in tried
            if name in found
        ] + [not_run(name, GROUP, reason) for name in tried for title, reason in useless.items() if title in name]

    def _watched(
        self, name: str, call: Callable[[], np.ndarray], peaks: dict[str, dict[str, float]]
    ) -> Callable[[], np.ndarray]:
        """Return a call that notes its peak of memory in `peaks`."""

        def watched() -> np.ndarray:
            with peak_memory(self.device) as peak:
                value = call()
            peaks[name] = peak
            return value

        return watched

    def _singly(self, options: Options) -> Row:
        """Time single flows with some options."""
        engine = replace(self.student, options=options)
        calls = [timed(self._scorer(engine, [text]), self.device) for text in self.prompts[: self.alone]]
        single = one_by_one(calls)
        return {"single_p50": single["seconds_p50"], "single_p95": single["seconds_p95"]}

    def engines(
        self, base: str | Path, adapter: Path | None, threads: int | None
    ) -> tuple[list[Row], list[Measured], float]:
        """Measure each engine of the device beside the reference, in turn with it.

        Args:
            base: Folder or hub id.
            adapter: Folder; None for the base alone.
            threads: CPU threads.

        Returns:
            Rows of the table, what profiles are chosen by, and the reference's seconds a flow.
        """
        reference, *others = kinds_of(self.device)
        texts = self._fitting(self.prompts, len(self.prompts))
        rows = [self._alone(self.student, reference.name)]
        one = timed(self._scorer(self.student, texts), self.device)
        rows.append(self._row(f"label only, {reference.name}, batched", ENGINES, len(texts), one, one.value.argmax(1)))
        measured, least = list[Measured](), self._spent(one) / len(texts)
        for kind in others:
            try:
                found, judged, beside = self._beside(kind, base, adapter, threads, texts)
            except UserError as error:
                rows.append(not_run(f"label only, {kind.name}", ENGINES, str(error)))
                continue
            rows += found
            measured.append(judged)
            least = min(least, beside)
        return rows, measured, least

    def _beside(
        self, kind: Kind, base: str | Path, adapter: Path | None, threads: int | None, texts: Sequence[str]
    ) -> tuple[list[Row], Measured, float]:
        with peak_memory(self.device) as peak:
            opened = timed(lambda: self._opened(kind, base, adapter, threads))
            engine: Student = opened.value
            calls = {"reference": self._scorer(self.student, texts), kind.name: self._scorer(engine, texts)}
            found = alternated(calls, ROUNDS, self.device)
        wanted, scores = found["reference"].value, found[kind.name].value
        difference = float(np.abs(np.exp(scores) - np.exp(wanted)).max())
        beside = self._spent(found["reference"]) / len(texts)
        row = self._row(f"label only, {kind.name}, batched", ENGINES, len(texts), found[kind.name], wanted.argmax(1))
        told = {
            "opened_in_seconds": round(opened.seconds, 2),
            "times_reference": round(found["reference"].seconds / found[kind.name].seconds, 3),
            "times_reference_cpu": round(found["reference"].cpu / found[kind.name].cpu, 3),
            "largest_difference": difference,
        }
        rows = [self._alone(engine, kind.name), row | peak | told, self._cached(engine, kind.name)]
        seconds, agreement = (
            self._spent(found[kind.name]) / len(texts),
            float((scores.argmax(1) == wanted.argmax(1)).mean()),
        )
        engine.close()
        return rows, Measured(kind.name, kind.profile, seconds, agreement, difference, len(texts)), beside

    def _cached(self, engine: Student, name: str) -> Row:
        """Measure an engine with all options together, on rows as they come."""
        rows = self._fitting(self.repeated, 512)
        one, wanted = timed(self._scorer(engine, rows), self.device), self.student.score_labels(rows, self.classes)
        return self._row(f"label only, {name}, + {STEPS['read_once']}", ENGINES, len(rows), one, wanted.argmax(1))

    def _opened(self, kind: Kind, base: str | Path, adapter: Path | None, threads: int | None) -> Student:
        engine = kind.open(base, adapter, self.device, threads)
        engine.score_labels(self.prompts[:2], self.classes)
        return engine

    def _alone(self, engine: Student, name: str) -> Row:
        chosen = self.prompts[: self.alone]
        calls = [timed(lambda text=text: engine.score_labels([text], self.classes), self.device) for text in chosen]  # type: ignore[misc]
        row = {"name": f"label only, {name}, batch 1", "group": ENGINES, "run": True, "reason": ""}
        return row | {"device": self._device_name()} | one_by_one(calls)

    def _row(self, name: str, group: str, flows: int, one: Timed, wanted: np.ndarray) -> Row:
        agreement = round(float((one.value.argmax(1) == wanted).mean()), 6)
        self.say(f"{name}: {flows / one.seconds:,.0f} flows/s, labels {agreement:.2%}")
        row = {"name": name, "group": group, "run": True, "reason": "", "device": self._device_name()}
        return row | together(flows, one) | {"label_agreement": agreement}

    def _scorer(self, engine: Student, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        return lambda: engine.score_labels(texts, self.classes)

    def _fitting(self, texts: Sequence[str], most: int) -> Sequence[str]:
        """Return as many texts as one pass scores in its seconds, and at most `most`."""
        some = texts[: min(32, len(texts))]
        self.student.score_labels(some, self.classes)  # warm-up
        one = timed(self._scorer(self.student, some), self.device)
        each = self._spent(one) / len(some)
        return texts[: min(len(texts), most, max(len(some), int(self.most_seconds / max(each, 1e-6))))]

    def _spent(self, one: Timed) -> float:
        """Return the seconds that count: of the processor on a CPU, of the clock on a GPU."""
        return one.cpu if self.device == "cpu" else one.seconds

    def _useless(self) -> dict[str, str]:
        """Return the options that change nothing for this base, with the reason."""
        shared = len(shared_prefix(self.student._prompts(self.prompts[:256])))
        found = {}
        if shared < LEAST_SHARED:
            found[STEPS["reuse_prefix"]] = f"prompts share {shared} tokens; reuse begins at {LEAST_SHARED}"
        inner = self.student.model
        if not fits(getattr(inner, inner.base_model_prefix)):
            found[STEPS["last_layer"]] = "for Qwen2 of at most 8 layers, where the last one is much of the work"
        return found

    def _device_name(self) -> str:
        return str(self.student.describe()["device"])
