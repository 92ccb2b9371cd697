"""State of the server: the student behind its lanes, and what handlers ask of it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from iot_pipeline.errors import UserError
from iot_pipeline.flows.rows import Row, RowReader
from iot_pipeline.models.tokenizer import class_tokens, encode, literal, prompt_text
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.classifier import Classifier, Verdict
from iot_pipeline.serving.events import About, verdict_part
from iot_pipeline.serving.server.known import Verdicts
from iot_pipeline.serving.server.lanes import Classified, ModelThread
from iot_pipeline.serving.server.limits import Limits, Refusal
from iot_pipeline.serving.server.metrics import Metrics
from iot_pipeline.serving.server.pasted import read_flows
from iot_pipeline.serving.units import Unit, Units

HELP = (
    "give one flow: a JSON object with the columns of the data set, a line of CSV under its header, or lines of "
    "`feature: value` as the prompts show them; GET /v1/models lists the columns"
)


class Tokens(Protocol):
    """Counter of tokens."""

    def prompt(self, text: str) -> int:
        """Count the tokens of the prompt that asks about a flow's text."""

    def answer(self, text: str) -> list[int]:
        """Return the tokens of an answer."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""

    def class_tokens(self, classes: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each class behind `CLASSIFICATION:`."""


class StudentTokens:
    """Counter of a student's tokens, with a tokeniser of its own: the model thread uses the student's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)

    def prompt(self, text: str) -> int:
        """Count the tokens of the prompt that asks about a flow's text."""
        return len(encode(self._tokenizer, [prompt_text(self._tokenizer, text)])[0])

    def answer(self, text: str) -> list[int]:
        """Return the tokens of an answer."""
        return encode(self._tokenizer, [literal(self._tokenizer, text)])[0]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def class_tokens(self, classes: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each class behind `CLASSIFICATION:`."""
        return class_tokens(self._tokenizer, classes)[1]


@dataclass
class Service:
    """A student that is served, within limits.

    `cache`: verdicts that are known; None to keep none. `words`: source columns that expressions see as text (rows.py).
    `shown`: a flow by its features, as published, as an example for clients; None to make one of medians.
    `given`: units of flows whose request states none; None: as the data set is published.
    """

    classifier: Classifier
    tokens: Tokens
    limits: Limits = field(default_factory=Limits)
    cache: VerdictCache | None = None
    words: frozenset[str] | None = None
    shown: dict[str, Any] | None = None
    given: Unit | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    ready: bool = False

    @cached_property
    def metrics(self) -> Metrics:
        """Figures of the service."""
        return Metrics(self.classifier.origin, self.classifier.spec.name)

    @cached_property
    def model(self) -> ModelThread:
        """Thread that uses the student."""
        text = self.classifier.writer.texts({name: [value] for name, value in self.example.items()})[0]
        verdicts = Verdicts(self.classifier, self.cache, self.metrics.looked_up)
        reader = RowReader(self.classifier.spec, self.words)
        return ModelThread(verdicts, reader, self.units, self.limits, self.tokens.prompt(text), self.metrics)

    @cached_property
    def units(self) -> Units:
        """Units in which flows may be given; UserError if they cannot be given in those of the service."""
        ranks = self.classifier.writer.ranks
        assert ranks is not None  # written for every serialisation
        units = Units(self.classifier.spec, ranks)
        if self.given is not None:
            units.check(self.given)
        return units

    @property
    def default_units(self) -> Unit:
        """Units of flows whose request states none."""
        return self.given or self.units.default

    @cached_property
    def _about(self) -> About:
        return About.of(self.classifier)

    def told(self, verdict: Verdict) -> dict[str, Any]:
        """Return a verdict as clients read it, without the model."""
        return {name: value for name, value in verdict_part(verdict, self._about).items() if name != "model"}

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Return the model that verdicts come from, which every answer cites."""
        named = {"id": self.model_id, "dataset": self.classifier.spec.name}
        return {**named, **self._about.model, "calibrated": self._about.calibrated}

    @property
    def model_id(self) -> str:
        """Name of the student in OpenAI's API."""
        origin = self.classifier.origin
        return f"{self.classifier.spec.name}-{origin.stage}-{origin.track}"

    @cached_property
    def example(self) -> dict[str, Any]:
        """A flow by its features, as published: the one that is given, or of medians and commonest values."""
        if self.shown is not None:
            return self.shown
        spec, ranks = self.classifier.spec, self.classifier.writer.ranks
        assert ranks is not None  # written for every serialisation
        scales = spec.fitted_scales
        values: dict[str, Any] = {}
        for feature in spec.features:
            if feature.is_category:
                values[feature.name] = ranks.usual(feature.name)
            else:
                shown = ranks.median(feature.name)
                values[feature.name] = scales[feature.name].to_raw(shown) if feature.name in scales else shown
        return values

    async def start(self) -> None:
        """Start the model thread, and classify one flow, so that the first client does not wait."""
        self.model.start()
        await self.model.classify([self.example], self.units.default, stated=True)
        self.ready = True

    def stop(self, wait_s: float) -> bool:
        """End the model thread; False if it still runs."""
        self.ready = False
        if not self.model.stop(wait_s):
            return False
        if self.cache is not None:
            self.cache.close()
        return True

    async def classify(self, rows: Sequence[Row], units: Unit | None = None) -> Classified:
        """Classify rows, and note their classes; `units`: those that the request states, if any."""
        chosen = units or self.default_units
        try:
            self.units.check(chosen)
        except UserError as error:
            raise Refusal(400, str(error), "invalid_value", "units") from None
        rows = [self.units.completed(row, chosen) for row in rows]
        found = await self.model.classify(rows, chosen, stated=units is not None)
        for verdict in found.verdicts:
            self.metrics.verdict(verdict)
        return found

    def classes(self, found: Classified) -> list[Verdict]:
        """Return verdicts without the explanations that the cache may know."""
        return [verdict.without_explanation() for verdict in found.verdicts]

    async def explain(self, rows: Sequence[Row], units: Unit | None = None) -> list[Verdict]:
        """Classify and explain rows; `units`: those that the request states, if any."""
        if len(rows) > self.limits.explained_flows:
            raise Refusal(
                413, f"{self.limits.explained_flows} flows are explained at once, not {len(rows):,}", "too_many"
            )
        return await self.model.explain(await self.classify(rows, units))

    async def read_text(self, text: str, param: str) -> list[Row]:
        """Return the flows in a text, which is read beside the loop: clients write it."""
        if len(text) > self.limits.text_characters:
            told = f"a text may have {self.limits.text_characters:,} characters"
            raise Refusal(413, told, "too_many", param)
        try:
            return await asyncio.to_thread(read_flows, text, self.classifier.spec)
        except UserError as error:
            raise Refusal(400, str(error), "invalid_value", param) from None

    async def rows_of(self, flows: Sequence[Row] | None, text: str | None) -> list[Row]:
        """Return the flows of a request, which gives them as objects or as text; Refusal if it has none or too many."""
        if (flows is None) == (text is None):
            raise Refusal(400, "give either flows or text", "invalid_value", "flows")
        rows = list(flows) if flows is not None else await self.read_text(text or "", "text")
        if not rows:
            raise Refusal(400, f"no flow is given: {HELP}", "invalid_value", "flows" if flows is not None else "text")
        if len(rows) > self.limits.flows:
            raise Refusal(413, f"{self.limits.flows:,} flows are read at once, not {len(rows):,}", "too_many", "flows")
        return rows

    async def one_flow(self, text: str, param: str) -> Row:
        """Return the flow in a text; Refusal if it has none, or several."""
        rows = await self.read_text(text, param)
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise Refusal(
                400, f"{len(rows):,} flows in one message; POST /v1/classify takes several", "invalid_value", param
            )
        raise Refusal(400, f"no flow in the message: {HELP}", "invalid_value", param)

    def check_model(self, name: str | None) -> None:
        """Refusal (404) for the name of another model."""
        if name is not None and name != self.model_id:
            told = f"the model {name[:100]!r} does not exist; GET /v1/models names the one that is served"
            raise Refusal(404, told, "model_not_found", "model")
