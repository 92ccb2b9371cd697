"""Facts of a flow that are worth telling without an explanation: its values that are least usual in the train pool."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.flows.serialise import printer
from iot_pipeline.flows.texts import FlowTextWriter, RankTable


class Fact(NamedTuple):
    """A feature of a flow as its text prints it: value, and place in the train pool (`p97`, of a category `83%`)."""

    feature: str
    value: str
    place: str


def distance(ranks: RankTable, feature: str, text: str) -> int:
    """Return how unusual a printed value is, 0..100.

    Of a number twice the distance of its percentile from 50, of a category the share of rows with another value.
    """
    if feature in ranks.counts:
        return 100 - ranks.share(feature, text)
    return abs(2 * ranks.percentile(feature, text) - 100)


def farthest(writer: FlowTextWriter, flows: Any, most: int) -> list[list[Fact]]:
    """Return for each flow its `most` least usual values; of equally unusual ones the first in spec order come first.

    `flows` is anything whose `flows[name]` is a column. Each distinct value of a column is looked up once.
    """
    ranks, show = writer.ranks, printer(writer.spec)
    assert ranks is not None  # `FlowTextWriter.save` writes them for every serialisation
    facts, places, distances = [], [], []
    for feature in writer.spec.features:
        name = feature.name
        given = np.asarray(flows[name], dtype=object if feature.is_category else np.float64)
        distinct, place = np.unique(given, return_inverse=True)
        texts = [show(name, value) for value in distinct.tolist()]
        facts.append([Fact(name, text, ranks.place(name, text)) for text in texts])
        distances.append(np.array([distance(ranks, name, text) for text in texts])[place])
        places.append(place)
    order = np.argsort(-np.array(distances), axis=0, kind="stable")[:most]
    return [[facts[column][places[column][row]] for column in columns] for row, columns in enumerate(order.T.tolist())]
