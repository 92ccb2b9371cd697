"""Answers in the right form about a class drawn at random: reading matter for the tiny base, without any label."""

from collections.abc import Callable, Sequence

import numpy as np

from iot_pipeline.augmentation.answers import format_answer, parse_answer
from iot_pipeline.augmentation.prompts import glossary_of
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.spec import DatasetSpec


def form_writer(spec: DatasetSpec, words: int, order: str) -> Callable[[str, str, np.random.Generator], str]:
    """A function (flow text, class name, random) -> answer text of about `words` words in `order`.

    It is told the class by its caller, who draws it whatever the flow: what it writes teaches how answers read and
    how values are cited, never which flow is what.
    """
    marked = "\n".join(f"- {t.name} ({t.unit}, standardised)" for t in glossary_of(spec) if t.standardised)
    parts: Sequence[str] = ("CLASSIFICATION: <class>", "ANALYSIS: <text>", "KEY_INDICATORS: <items>")
    parts = parts if order == "label_first" else (*parts[1:], parts[0])
    system = f"Known classes: {', '.join(spec.classes)}\n{marked}\n" + "\n".join(parts)

    def write(flow: str, name: str, random: np.random.Generator) -> str:
        user = f"{flow}\n\nTrue class: {name}\nExplain in about {words} words."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text, _, _ = write_answer(messages, 0.7, int(random.integers(1 << 31)), 4096)
        return format_answer(parse_answer(text), order)

    return write
