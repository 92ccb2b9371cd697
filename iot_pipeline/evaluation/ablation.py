"""Deletion and sufficiency: a class scored anew with features of the flow set to what is usual in the train pool."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.measure import Measure
from iot_pipeline.evaluation.views import Floats, Ints
from iot_pipeline.flows.serialise import leads, parse_text, placed, printed, shortened
from iot_pipeline.flows.texts import FlowTextWriter

DRAWS = 3  # random sets of features beside each set of named ones


class MedianFlow:
    """Flow texts in which features read as the train pool's median: its printed value, with its percentile if ranked.

    A category reads as its commonest value, with its share if ranked.
    The percentile is that of texts, so that the student reads nothing new; ties can put it off p50.
    """

    def __init__(self, writer: FlowTextWriter) -> None:
        if writer.ranks is None:
            raise UserError("features can be set to the median only with the rank table of the train pool")
        ranks, form, kind = writer.ranks, writer.spec.format, writer.serialisation
        self._leads = leads(writer.spec.feature_names, kind, writer.spec.category_names)
        self._median: dict[str, str] = {}
        for name in writer.spec.feature_names:
            is_word = name in ranks.counts
            text = ranks.usual(name) if is_word else printed(form, ranks.median(name))
            short = text if is_word else shortened(text)
            ranked = f"{text} {ranks.place(name, text)}"
            self._median[name] = ranked if kind == "ranked" else short if kind == "compact" else text

    def without(self, flow: str, features: Collection[str]) -> str:
        """Return a flow text with these features at the median."""
        cells = [(name, placed(value, rank)) for name, value, rank in parse_text(flow)]
        return "".join(
            lead + (self._median[name] if name in features else cell)
            for lead, (name, cell) in zip(self._leads, cells, strict=True)
        )

    def only(self, flow: str, features: Collection[str]) -> str:
        """Return a flow text with all but these features at the median."""
        return self.without(flow, self._median.keys() - set(features))


def ablation_measures(
    writer: FlowTextWriter,
    flows: Sequence[str],
    predicted: Ints,
    named: Mapping[str, Sequence[Collection[str]]],
    score: Callable[[list[str]], Floats],
    seed: int,
) -> dict[str, list[Measure]]:
    """Measure how much a student's class rests on the features that each explainer names.

    `comprehensiveness`: log-probability of the predicted class that is lost with the named features at the median;
    `sufficiency`: change with all others there. Chance: the mean over DRAWS random sets of as many features.

    Args:
        writer: Writer of the flow texts.
        flows: Flow texts [n].
        predicted: Number of the class that the student predicts [n].
        named: Features by explainer, for each flow [n].
        score: Function from flow texts to log-probabilities [texts, classes].
        seed: Seed of the random sets.
    """
    median, features = MedianFlow(writer), writer.spec.feature_names
    random = np.random.default_rng(seed)
    drawn = [[[features[place] for place in random.permutation(len(features))] for _ in range(DRAWS)] for _ in flows]
    places: dict[str, int] = {}

    def place(text: str) -> int:
        return places.setdefault(text, len(places))

    def pair(flow: str, chosen: Collection[str]) -> tuple[int, int]:
        return place(median.without(flow, chosen)), place(median.only(flow, chosen))

    whole = [place(flow) for flow in flows]
    own = {who: [pair(flow, sets[i]) for i, flow in enumerate(flows)] for who, sets in named.items()}
    by_chance = {
        who: [[pair(flow, order[: len(sets[i])]) for order in drawn[i]] for i, flow in enumerate(flows)]
        for who, sets in named.items()
    }
    scores = score(list(places)) if places else np.empty((0, 1))
    change = [scores[:, code] - scores[place, code] for code, place in zip(predicted, whole, strict=True)]

    def changes(which: Sequence[Sequence[tuple[int, int]]]) -> tuple[Floats, Floats]:
        found = np.array([np.mean([change[i][list(of)] for of in sets], axis=0) for i, sets in enumerate(which)])
        return found.reshape(-1, 2)[:, 0], found.reshape(-1, 2)[:, 1]

    result = {}
    for who in named:
        (lost, kept), (lost_by_chance, kept_by_chance) = changes([[of] for of in own[who]]), changes(by_chance[who])
        result[who] = [
            Measure("comprehensiveness", -lost, -lost_by_chance), Measure("sufficiency", kept, kept_by_chance)
        ]  # fmt: skip
    return result
