"""A server of a fake student on loopback: the scores follow from the flow's values, the answers from a template."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import uvicorn

from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.classifier import Classifier, Explanation, Fitted, Origin, Strangeness, Verdict
from iot_pipeline.serving.server.app import application
from iot_pipeline.serving.server.guard import Access
from iot_pipeline.serving.server.limits import Limits
from iot_pipeline.serving.server.protocol import limited
from iot_pipeline.serving.server.run import bind, url_of
from iot_pipeline.serving.server.service import Service
from iot_pipeline.serving.units import Unit
from iot_pipeline.settings import load_settings

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


@cache
def spec_of(name: str) -> DatasetSpec:
    """A data set's spec, read once."""
    return load_spec(name)


@dataclass
class FakeClassifier(Classifier):
    """Classifier whose scores are the first values of a flow; it answers after given seconds."""

    label_seconds: float = 0.0
    token_seconds: float = 0.0
    tokens: int = 10
    batches: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    strange: Strangeness | None = None
    written: list[int] = field(default_factory=list)  # tokens of each batch of explanations

    def classify(self, flows: Any, log: Any = None) -> list[Verdict]:
        """Verdicts with the judgement that is given."""
        return [replace(verdict, strange=self.strange) for verdict in super().classify(flows, log)]

    def scores(self, texts: Sequence[str], log: Any = None) -> np.ndarray:
        """Log-probabilities that follow from the text alone."""
        self.batches.append(len(texts))
        self.threads.add(threading.get_ident())
        time.sleep(self.label_seconds)
        seeds = [np.random.default_rng(list(text.encode())) for text in texts]
        raw = np.array([seed.normal(0, 2, len(self.spec.classes)) for seed in seeds])
        return raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)

    def explain(
        self, flows: Any, verdicts: Sequence[Verdict], log: Any = None, meanwhile: Callable[[], None] | None = None
    ) -> list[Verdict]:
        """Answer by a template, token by token."""
        self.threads.add(threading.get_ident())
        self.written.append(0)
        for _ in range(self.tokens):
            time.sleep(self.token_seconds)
            self.written[-1] += 1
            if meanwhile is not None:
                meanwhile()
        texts = self.writer.texts(flows)
        return [
            replace(v, explanation=Explanation(
                f"CLASSIFICATION: {v.label}\nANALYSIS: {HOSTILE} {text.splitlines()[0]}.\nKEY_INDICATORS: none",
                "grounded", [], [],
            ))
            for v, text in zip(verdicts, texts, strict=True)
        ]  # fmt: skip


class WordTokens:
    """Tokens that are words with the blanks before them."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def prompt(self, text: str) -> int:
        """Number of words."""
        return len(text.split())

    def answer(self, text: str) -> list[int]:
        """Places of the words."""
        words = re.findall(r"\s*\S+", text)
        self._words += [word for word in words if word not in self._words]
        return [self._words.index(word) for word in words]

    def text(self, tokens: Sequence[int]) -> str:
        """Words joined."""
        return "".join(self._words[token] for token in tokens)

    def class_tokens(self, classes: Sequence[str]) -> list[list[int]]:
        """One token a class."""
        return [[100 + place] for place in range(len(classes))]


def fake(dataset: str = "farm_flow", **options: Any) -> FakeClassifier:
    """A classifier of a data set whose train pool has the values 0, 1 and 2."""
    spec = spec_of(dataset)
    ranks = RankTable(
        3,
        {name: [0.0, 1.0, 2.0] for name in spec.number_names},
        {name: [1, 2, 3] for name in spec.number_names},
        {name: {"tcp": 2, "udp": 1} for name in spec.category_names},
    )
    origin = Origin("10K", "original", "tiny", "a" * 64, {"base_model": "b"}, "p", ["SIMULATED flows"])
    student: Any = None
    writer = FlowTextWriter(spec, "ranked", ranks)
    return FakeClassifier(student, spec, writer, load_settings({}), Fitted(1.0, 0.5), origin, **options)


@contextlib.contextmanager
def served(
    classifier: Classifier,
    access: Access | None = None,
    cache: VerdictCache | None = None,
    given: Unit | None = None,
    **limits: Any,
) -> Iterator[str]:
    """A server on a free port of loopback, in a thread: its URL."""
    service = Service(classifier, WordTokens(), Limits(**limits), cache, given=given)
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        application(service, access or Access()), http=limited(service.limits), ws="none", lifespan="on",
        log_level="critical", access_log=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = url_of(listener)
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(10)
        assert service.stop(5)


def flow(number: float = 1.0, dataset: str = "farm_flow") -> dict[str, Any]:
    """A flow of a data set's source columns."""
    spec = spec_of(dataset)
    columns = [name for name in spec.source_columns if name != spec.label_column]
    return {name: "tcp" if name in spec.category_names else number + place for place, name in enumerate(columns)}
