"""What the embedded analyst can say about features: nouns, readings by direction, sentence patterns.

Belongs here: wording that holds for any class. Does not belong here: classes (analyst_classes.py), choosing (analyst.py).
No phrase holds a digit: every number of an answer comes from the flow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """A feature in words: what it measures, and clauses that hold where it is above or below the middle."""

    noun: str
    above: tuple[str, ...]
    below: tuple[str, ...]


def _reading(noun: str, above: str, below: str) -> Reading:
    return Reading(noun, tuple(above.split("|")), tuple(below.split("|")))


READINGS: dict[str, Reading] = {
    "missed_bytes": _reading(
        "bytes lost to the capture",
        "the capture missed more content than usual|acknowledgements refer to data that nobody captured",
        "the capture missed little|hardly any content is missing from the record",
    ),
    "orig_pkts": _reading(
        "packets sent by the originator",
        "the originator sends more packets than usual|the sender keeps the exchange going for longer than most",
        "the originator sends fewer packets than usual|the sender says very little",
    ),
    "orig_ip_bytes": _reading(
        "bytes sent by the originator",
        "the originator puts more bytes on the wire than usual|the outgoing volume is large",
        "the originator puts few bytes on the wire|the outgoing volume is small",
    ),
    "resp_pkts": _reading(
        "packets sent back by the responder",
        "the responder answers more than usual|the target takes part in the exchange",
        "the responder answers little or not at all|the target hardly takes part in the exchange",
    ),
    "resp_ip_bytes": _reading(
        "bytes sent back by the responder",
        "the responder returns more bytes than usual|a good deal of data comes back",
        "the responder returns few bytes|next to nothing comes back",
    ),
    "fwd_pkts_per_sec": _reading(
        "the rate of forward packets",
        "the originator fires its packets quickly|forward packets come in quick succession",
        "forward packets come slowly or only once|the originator shows no hurry",
    ),
    "bwd_pkts_per_sec": _reading(
        "the rate of backward packets",
        "replies come in quick succession|the responder is driven to a fast rhythm",
        "replies are rare or missing|the responder shows no hurry",
    ),
    "flow_pkts_per_sec": _reading(
        "the packet rate of the whole flow",
        "the flow packs its packets into a short time|packets follow each other faster than usual",
        "the flow has a slow rhythm or just a single packet|packets follow each other slowly, if at all",
    ),
    "down_up_ratio": _reading(
        "the ratio of backward to forward packets",
        "the exchange is answered more evenly than usual|replies keep up with requests",
        "the exchange is one-sided|requests outnumber replies",
    ),
    "fwd_header": _reading(
        "transport headers sent forward",
        "the originator carries large or many transport headers|forward headers are rich in options",
        "the originator carries small or few transport headers|forward headers are bare",
    ),
    "bwd_header": _reading(
        "transport headers sent backward",
        "the responder carries large or many transport headers|backward headers show a real reply",
        "the responder carries small or few transport headers|backward headers hardly occur",
    ),
    "fwd_payload": _reading(
        "payload sent forward",
        "the originator delivers more content than usual|forward packets carry a real load",
        "the originator delivers little content|forward packets are close to empty",
    ),
    "bwd_payload": _reading(
        "payload sent backward",
        "the responder delivers more content than usual|backward packets carry a real load",
        "the responder delivers little content|backward packets are close to empty",
    ),
    "flow_payload": _reading(
        "payload of both directions",
        "the flow moves more content than usual|there is substance in the exchange",
        "the flow moves little content|there is little substance in the exchange",
    ),
    "fwd_iat": _reading(
        "the time between forward packets",
        "the originator takes its time between packets|forward packets are spread out",
        "the originator leaves little or no time between packets|forward packets leave no gap to speak of",
    ),
    "bwd_iat": _reading(
        "the time between backward packets",
        "the responder takes its time between packets|backward packets are spread out",
        "the responder leaves little or no time between packets|backward packets leave no gap to speak of",
    ),
    "flow_iat": _reading(
        "the time between packets of the flow",
        "the flow stretches over time|packets are spread out over a longer time than usual",
        "the flow is over at once|packets leave no gap to speak of",
    ),
    "pkts_difference": _reading(
        "the surplus of forward over backward packets",
        "the originator outweighs the responder|forward packets dominate",
        "the originator does not outweigh the responder|backward packets keep the balance",
    ),
    "data_pkts_difference": _reading(
        "the surplus of forward packets with payload",
        "the originator brings most of the content|forward packets with payload dominate",
        "the originator brings no surplus of content|forward packets with payload do not dominate",
    ),
}
OTHER = _reading(
    "one aspect of the flow",
    "this aspect is more marked than usual|this aspect exceeds what most flows show",
    "this aspect is less marked than usual|this aspect stays short of what most flows show",
)
MIDDLING = (
    "nothing stands out here", "this aspect looks ordinary", "this alone says little", "this part of the flow is inconspicuous",
)  # fmt: skip


def reading(feature: str) -> Reading:
    """The reading of a feature; header, payload and time features share one for each direction."""
    if feature in READINGS:
        return READINGS[feature]
    side = feature.split("_")[0]
    for mark, family in (("_header_", "header"), ("_payload", "payload"), ("_iat", "iat")):
        if mark in feature:
            return READINGS.get(f"{side}_{family}", OTHER)
    return OTHER


# {f} feature, {v} value, {d} direction ("above the median"), {m} reading as a clause, {M} the same, capitalised.
DIRECTED = (
    "{f} is {v}, {d}: {m}.",
    "With {f} at {v}, {d}, {m}.",
    "The value {v} of {f} lies {d}; {m}.",
    "{f} reads {v}, which is {d}, and {m}.",
    "At {v}, {f} sits {d}, so {m}.",
    "{M}: {f} of {v} is {d}.",
    "{f} stands at {v}, that is {d}; {m}.",
    "One sign is {f} of {v}, {d}: {m}.",
    "Here {m}, because {f} of {v} is {d}.",
    "{f} of {v} falls {d}, meaning that {m}.",
    "{f} ({v}) lies {d}, which tells that {m}.",
    "Being {d}, {f} of {v} tells that {m}.",
    "Note {f}: at {v} it is {d}, hence {m}.",
    "The record gives {f} as {v}, {d}, and thus {m}.",
    "{M}, judging by {f}, which at {v} is {d}.",
    "Since {f} has {v}, {d}, {m}.",
    "Look at {f}: {v} is {d}, and {m}.",
    "The reading {v} puts {f} {d}; in other words, {m}.",
)
DIRECTED_SHORT = (
    "{f} is {v}, {d}.",
    "{f} of {v} lies {d}.",
    "Its {f} of {v} is {d}.",
    "At {v}, {f} is {d}.",
    "There is also {f} of {v}, {d}.",
)
# {n} what the feature measures.
PLAIN = (
    "{f}, which stands for {n}, is {v}.",
    "The flow shows {f} of {v} for {n}.",
    "For {n}, {f} gives {v}.",
    "{f} of {v} describes {n}.",
    "With {f} at {v}, the record fixes {n}.",
    "Look at {n}: {f} is {v}.",
    "The record holds {v} under {f}, which covers {n}.",
    "As to {n}, the value of {f} is {v}.",
    "{f} tells of {n}, here {v}.",
    "One sign is {f} of {v}, that is, {n}.",
    "The value {v} of {f} speaks of {n}.",
    "Note {f}: it measures {n} and reads {v}.",
)
PLAIN_SHORT = (
    "{f} is {v}.", "{f} reads {v}.", "Its {f} is {v}.", "There is also {f} of {v}.", "The flow shows {f} of {v}.",
)  # fmt: skip
BARE = (
    "{f} belongs to the evidence as well.", "The same goes for {f}.", "{f} adds to this.", "{f} takes part in the picture.",
)  # fmt: skip
LOOSE = (
    "The figure {v} belongs to the same picture.", "The figure {v} is to be read with the rest.", "To this adds the figure {v}.",
)  # fmt: skip
# {a} and {b} are `feature of value (direction)`.
PAIRS = (
    "{a} goes together with {b}.",
    "Read side by side, {a} and {b} support each other.",
    "{a} has to be seen with {b}.",
    "Next to {a} stands {b}.",
    "{a} and {b} tell the same story.",
    "What {a} suggests, {b} completes.",
    "Neither {a} nor {b} stands alone.",
    "{a} would mean less without {b}.",
    "Set against {b}, {a} gains weight.",
    "Together, {a} and {b} narrow the choice.",
)
OPENINGS = (
    "The features of this flow fit {l}.",
    "This flow belongs to {l}.",
    "Several features point to {l}.",
    "What is measured here agrees with {l}.",
    "The pattern is that of {l}.",
    "Read as a whole, the record suggests {l}.",
    "The case for {l} rests on a few features.",
    "Traffic of this kind is known as {l}.",
    "The numbers lead to {l}.",
    "This record carries the marks of {l}.",
    "There are good grounds to call this {l}.",
    "The evidence in this flow leads to {l}.",
)
CLOSINGS = (
    "Together these signs support {l}.",
    "All of this is in line with {l}.",
    "Hence the class {l}.",
    "Taken together, they make {l} the fitting class.",
    "This combination is what {l} leaves behind.",
    "On balance, {l} explains the record.",
    "So the flow is put down to {l}.",
    "In sum, the flow matches {l}.",
    "That is why {l} is the answer.",
    "The signs agree on {l}.",
    "For these reasons the label is {l}.",
    "The whole is consistent with {l}.",
)
# {c} a clause about the class, {C} the same, capitalised.
FACTS = (
    "{C}.",
    "This fits, since {c}.",
    "It matters here that {c}.",
    "As is known, {c}.",
    "Remember that {c}.",
    "The background is that {c}.",
    "That is to be expected, because {c}.",
    "Behind this stands the fact that {c}.",
    "In such traffic {c}.",
    "From practice, {c}.",
)
CAUTIONS = (
    "A single flow of this kind is weak evidence, and many of them in a row are strong.",
    "Flow statistics say nothing about content, so the reading rests on shape and timing alone.",
    "The features that lie close to the middle carry little weight in this reading.",
    "Other classes can leave a similar record, which is why several features are read together.",
    "An analyst would look at neighbouring flows from the same sender to confirm the picture.",
    "Devices on a farm repeat themselves, so a departure from routine deserves a second look.",
    "The direction of each feature matters more here than its exact size.",
    "No feature decides the matter alone; it is their agreement that counts.",
    "Where sender and target differ in effort, the side that spends less usually has the plan.",
    "The same reading holds for repeated flows with equal values.",
)
