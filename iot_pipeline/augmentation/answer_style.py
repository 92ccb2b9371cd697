"""Well-formed answers about a randomly drawn class: label-free pre-training text for the tiny base."""

from collections.abc import Callable, Sequence

import numpy as np

from iot_pipeline.augmentation.answers import format_answer, parse_answer
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.marked import ASKED_FORM
from iot_pipeline.flows.spec import DatasetSpec


def form_writer(
    spec: DatasetSpec, words: int, order: str, marked: bool = False
) -> Callable[[str, str, np.random.Generator], str]:
    """Return an answer writer (flow text, class name, random) -> text.

    The caller draws the class independently of the flow: the text teaches the form of answers and how values are cited,
    never which class a flow has.

    Args:
        spec: Data set spec.
        words: Words of a text, about.
        order: Order of the parts.
        marked: True to cite features as marked facts.
    """
    standardised = "\n".join(f"- {f.name} ({f.unit}, standardised)" for f in spec.features if f.standardised)
    items = ASKED_FORM if marked else "<items>"
    parts: Sequence[str] = ("CLASSIFICATION: <class>", "ANALYSIS: <text>", f"KEY_INDICATORS: {items}")
    parts = parts if order == "label_first" else (*parts[1:], parts[0])
    system = f"Known classes: {', '.join(spec.classes)}\n{standardised}\n" + "\n".join(parts)

    def write(flow: str, name: str, random: np.random.Generator) -> str:
        user = f"{flow}\n\nTrue class: {name}\nExplain in about {words} words."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text, _, _ = write_answer(messages, 0.7, int(random.integers(1 << 31)), 4096)
        return format_answer(parse_answer(text), order, marked)

    return write
