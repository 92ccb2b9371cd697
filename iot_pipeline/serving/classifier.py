"""Classification of flows by a trained student: what `classify`, `explain` and `serve` answer, in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from iot_pipeline.augmentation.answers import facts_of, parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.conformal import prediction_sets
from iot_pipeline.evaluation.metrics import apply_temperature
from iot_pipeline.evaluation.unknown.detector import ALARMS, Unknown
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.grammar import held_to
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.models.tokenizer import LABEL_LINE
from iot_pipeline.serving.evidence import Fact, farthest
from iot_pipeline.serving.features import group_writer
from iot_pipeline.settings import Settings
from iot_pipeline.sft.tasks import asked

Log = Callable[[str], None]
LEVEL = "0.95"  # share of flows whose set holds their class
FARTHEST = 5  # features that describe a flow without an explanation
UNKNOWN = "unknown"  # in place of a class


class Fitted(NamedTuple):
    """Temperature of the probabilities and threshold of the sets, both of the calibration side."""

    temperature: float
    threshold: float


@dataclass(frozen=True)
class Origin:
    """Where a student's verdicts come from: every event cites it.

    `model`: data version of the adapter; `made_of`: data versions of base and adapter; `prompt`: data version of the
    track's prompt; `labels`: parts that are not real (simulated flows, embedded teacher, tiny base); `lake`: data
    versions of the flows that it was trained on and of their texts.
    """

    stage: str
    track: str
    base: str
    model: str
    made_of: dict[str, str]
    prompt: str
    labels: list[str]
    lake: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of base and adapter together: it names the model."""
        return sha256(
            "".join(f"{name} {version}\n" for name, version in sorted(self.made_of.items())).encode()
        ).hexdigest()


@dataclass(frozen=True)
class Explanation:
    """An answer in words, how it was decoded, its statements that the flow does not support, and the facts it cites.

    `cited`: the indicators whose value is the flow's.
    """

    text: str
    decoding: str
    unsupported: list[str]
    cited: list[Fact] = field(default_factory=list)


@dataclass(frozen=True)
class Strangeness:
    """Judgement whether a flow is of a class that the student learnt.

    `p_value`: share of flows of known classes that are at least as strange. `unknown`: that share is at most the rate
    of false alarms of the detector. `reasons`: what sets the flow apart, in words, the most telling first.
    """

    p_value: float
    unknown: bool
    reasons: list[str]


@dataclass(frozen=True)
class Verdict:
    """Verdict of the student on one distinct flow.

    `probabilities`: of every class, calibrated if the student was evaluated; they sum to 1. `members`: the classes that
    cannot be ruled out at LEVEL, [] if none is likely enough, None if the student was not evaluated. `out_of_range`:
    features whose value no row of the train pool reaches. `farthest`: its least usual values, which describe the flow
    and are no reason of the student. `strange`: None if the student's evaluation fitted no detector.
    """

    label: str
    probabilities: dict[str, float]
    members: list[str] | None
    out_of_range: list[str]
    explanation: Explanation | None = None
    farthest: list[Fact] = field(default_factory=list)
    strange: Strangeness | None = None

    @property
    def unknown(self) -> bool:
        """True if the flow is of no class that the student learnt; `label` is then the nearest one."""
        return self.strange is not None and self.strange.unknown

    @property
    def name(self) -> str:
        """Class of the flow as people are told it: `unknown` for one of no known class."""
        return UNKNOWN if self.unknown else self.label

    @property
    def probability(self) -> float:
        """Probability of the class."""
        return self.probabilities[self.label]

    def without_explanation(self) -> Verdict:
        """Return the class alone, as `classify` gave it."""
        return replace(self, explanation=None)

    @property
    def unsure(self) -> bool:
        """True if more classes than one cannot be ruled out, or all can; False if the student was not evaluated."""
        return self.members is not None and len(self.members) != 1


@dataclass
class Classifier:
    """A loaded student with all that it takes to read flows and to say how sure it is."""

    student: Student
    spec: DatasetSpec
    writer: FlowTextWriter
    settings: Settings
    fitted: Fitted | None
    origin: Origin
    detector: Unknown | None = None
    # Flow groups that it was trained on. They are of known classes, however strange: one flow has 13 % of the rows of
    # simulated Farm-Flow, and looks like no other.
    learnt: frozenset[str] = frozenset()

    @property
    def alarm(self) -> float | None:
        """Share of flows of known classes that is called unknown; None if unknown flows cannot be told."""
        return None if self.detector is None else next((a for a in ALARMS if a >= self.detector.least), None)

    def classify(self, flows: Any, log: Log | None = None) -> list[Verdict]:
        """Classify each row of a frame that has the features of the data set; UserError if a score is NaN."""
        texts = self.writer.texts(flows)
        logs, strange = self._judged_flows(texts, flows, log)
        sets = prediction_sets(logs, self.fitted.threshold) if self.fitted is not None else [None] * len(logs)
        names = self.spec.classes
        told = zip(
            logs, sets, self.writer.out_of_range(flows), farthest(self.writer, flows, FARTHEST), strange, strict=True
        )
        return [
            Verdict(
                names[row.argmax()],
                dict(zip(names, np.exp(row).tolist(), strict=True)),
                None if members is None else [names[place] for place in np.flatnonzero(members)],
                outside,
                farthest=far,
                strange=judged,
            )
            for row, members, outside, far, judged in told
        ]

    def groups(self, flows: Any) -> list[str]:
        """Return the flow group of each row of a frame that has the features of the data set."""
        return [group_id(text) for text in self._values.texts(flows)]

    @cached_property
    def _values(self) -> FlowTextWriter:
        return group_writer(self.spec)

    def scores(self, texts: Sequence[str], log: Log | None = None) -> np.ndarray:
        """Return log-probabilities of flow texts, calibrated if the student was evaluated: float64 [texts, classes]."""
        return self._calibrated(self.student.score_labels(self._questions(texts), self.spec.classes, log=log))

    def _judged_flows(
        self, texts: Sequence[str], flows: Any, log: Log | None
    ) -> tuple[np.ndarray, Sequence[Strangeness | None]]:
        """Return what `scores` does, and for each flow whether it is of a known class, None if that cannot be told."""
        if self.detector is None or self.alarm is None or not len(texts):
            return self.scores(texts, log), [None] * len(texts)
        questions, states = self._questions(texts), None
        if self.detector.needs_states:
            raw, states = self.student.score_with_states(questions, self.spec.classes, log=log)
        else:
            raw = self.student.score_labels(questions, self.spec.classes, log=log)
        logs = self._calibrated(raw)
        table = pd.DataFrame({name: np.asarray(flows[name]) for name in self.spec.feature_names})
        found = self.detector.score(raw, states, table, self.alarm)
        strange = [place for place, one in enumerate(found) if one.unknown]
        learnt = {
            place
            for place, group in zip(strange, self.groups(table.iloc[strange]), strict=True)
            if group in self.learnt
        }
        return logs, [
            Strangeness(one.p_value, False, [])
            if place in learnt
            else Strangeness(one.p_value, one.unknown, [str(why) for why in one.reasons])
            for place, one in enumerate(found)
        ]

    def _questions(self, texts: Sequence[str]) -> list[str]:
        return [asked(text, "classify", self.settings.student.tasks) for text in texts]

    def _calibrated(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated scores if the student was evaluated; UserError if one is NaN."""
        if bad := int(np.isnan(scores).any(axis=1).sum()):
            raise UserError(
                f"the student scores {bad:,} of {len(scores):,} distinct flows as NaN: its weights are damaged; "
                "train it again, or fetch its base again"
            )
        return apply_temperature(scores, self.fitted.temperature) if self.fitted is not None else scores

    def explain(
        self,
        flows: Any,
        verdicts: Sequence[Verdict],
        log: Log | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Verdict]:
        """Return the verdicts with the student's explanation of each, checked against its flow.

        Args:
            flows: The rows that were classified.
            verdicts: The verdict of each row.
            log: Called with progress messages.
            meanwhile: Called before each token; it may classify other flows, and ends the writing by raising.

        Raises:
            UserError: The tokeniser does not allow grounded decoding.
        """
        texts, settings = self.writer.texts(flows), self.settings
        marked = settings.teacher.facts == "marked"
        labels = [verdict.label for verdict in verdicts]
        questions = [asked(text, "explain", settings.student.tasks) for text in texts]
        # Without the newline: some tokenizers make one token of it and what follows.
        heads = [f"{LABEL_LINE} {label}" for label in labels]
        held = held_to(texts, marked, self.spec, labels=labels) if settings.serving.decoding == "grounded" else {}
        longest = room_for(settings.teacher.explanation_words)
        written = self.student.explain(questions, longest, answers=heads, log=log, meanwhile=meanwhile, **held)
        return [
            replace(verdict, explanation=self._judged(answer, text, verdict.label))
            for verdict, text, (answer, _ended) in zip(verdicts, texts, written, strict=True)
        ]

    def _judged(self, answer: str, text: str, label: str) -> Explanation:
        """Check an answer against its flow's text."""
        spec, marked = self.spec, self.settings.teacher.facts == "marked"
        unsupported = check_answer(
            answer, text, label, spec.classes, spec.standardised, marked=marked, known=spec.known_values
        )
        facts, ranks = facts_of(text, spec.standardised, spec.known_values), self.writer.ranks
        assert ranks is not None  # written for every serialisation
        cited = [
            Fact(item.feature, facts.values[item.feature], ranks.place(item.feature, facts.values[item.feature]))
            for item in parse_answer(answer).indicators
            if item.feature in facts.values and facts.says(item) == facts.values[item.feature]
        ]
        return Explanation(answer, self.settings.serving.decoding, unsupported, list(dict.fromkeys(cited)))
