"""Grammar of the answers to one flow: whatever an engine samples by it, each marked fact is the flow's.

It is written as GBNF, which llama.cpp reads, and converted to Lark for llguidance (vLLM, SGLang, and `held.py` here).
Prose has words and punctuation only: no digits, underscores or backticks, and no word that begins with `above` or
`below`, so that a value, percentile or direction can stand in a marked fact alone. Names of classes and, in backticks,
of features may be mentioned. The grammar does not judge words: "`orig_pkts` is tiny" is left to the checks of answers.
"""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from iot_pipeline.augmentation.answers import facts_of
from iot_pipeline.augmentation.checks import MIN_INDICATORS
from iot_pipeline.embedded_teacher.phrasing import Cite
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import parse_text
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.models.tokenizer import LABEL_LINE

MOST_INDICATORS = 12
TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")|(\[[^\]]*\])|([a-z]+)')
BARRED = ("above", "below")  # as the beginning of a word of prose
ACCENTED, TYPOGRAPHIC = "\u00c0-\u024f", "\u2010-\u2027"  # ranges of letters, and of dashes, quotes and dots
WORD_RULES = {
    "letter": f"[A-Za-z{ACCENTED}]",
    "gap": f"[ !\"'(),./:;?{TYPOGRAPHIC}-]+",
    "stop": "[!),.:;?]*",  # after a fact, whose value goes on no further
    "after": f"[!\"'),./:;?{TYPOGRAPHIC}-]",  # no parenthesis, which would read as what the flow says of the fact
}


def facts_to_cite(flow_text: str, standardised: frozenset[str] = frozenset()) -> list[Cite]:
    """Return the facts of a flow text as marked facts, values as printed; `standardised` as in `facts_of`."""
    facts = facts_of(flow_text, standardised)
    return [
        Cite(name, value, "", "", marked=True, is_category=True, share=facts.shares[name])
        if name in facts.shares
        else Cite(name, value, facts.percentiles.get(name, ""), facts.directions[name], marked=True)
        for name, value, _ in parse_text(flow_text)
    ]


def held_to(
    flows: Sequence[str],
    marked: bool,
    spec: DatasetSpec,
    order: str = "label_first",
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the arguments by which `Student.explain` holds answers to their flows.

    Args:
        flows: Flow texts [n].
        marked: True if the student cites marked facts, for which there is a grammar; else its numbers alone are held.
        spec: Data set spec.
        order: Order of the parts.
        labels: Classes [n] that the answers name; None: any.
    """
    if not marked:
        return {"grounded_in": flows}
    named: Sequence[str | None] = labels if labels is not None else [None] * len(flows)
    return {
        "guided_by": [
            lark(gbnf(facts_to_cite(flow, spec.standardised), spec.classes, order, label))
            for flow, label in zip(flows, named, strict=True)
        ]
    }


def gbnf(facts: Sequence[Cite], classes: Sequence[str], order: str, label: str | None = None) -> str:
    """Return the grammar of the answers to a flow, as GBNF.

    Args:
        facts: Facts that may be cited (`facts_to_cite`).
        classes: All classes; prose may mention them.
        order: Order of the parts, `label_first` or `explanation_first`.
        label: Class that the answer must name; None: any.

    Raises:
        UserError: There are no facts or no classes.
    """
    if not facts or not classes:
        raise UserError("a grammar needs the facts of a flow and the names of classes")
    least = min(MIN_INDICATORS, len(facts)) - 1
    explanation = (
        f'"ANALYSIS: " analysis "\\nKEY_INDICATORS: " fact ("; " fact){{{least},{max(MOST_INDICATORS - 1, least)}}}'
    )
    parts = ('"CLASSIFICATION: " label', explanation)
    rules = {
        "root": ' "\\n" '.join(parts if order == "label_first" else reversed(parts)),
        "label": _literal(label) if label is not None else "class",
        "analysis": 'gap? (unit gap | fact stop " " (after gap?)?)* (unit gap? | fact stop)',
        "unit": "word | class | name",
        "class": _any_of(map(_literal, classes)),
        "name": _any_of(_literal(fact.name) for fact in facts),
        "fact": _any_of(map(_fact, facts)),
        "word": _word(BARRED),
        **WORD_RULES,
    }
    return "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())


def class_gbnf(classes: Sequence[str]) -> str:
    """Return the grammar of the class line alone, as GBNF: for engines that are asked for nothing else."""
    return f'root ::= "{LABEL_LINE} " class\nclass ::= {_any_of(map(_literal, classes))}\n'


def lark(grammar: str) -> str:
    """Return a grammar of `gbnf` in Lark's form: all rules but the root are terminals, and classes stand in slashes."""

    def token(found: re.Match[str]) -> str:
        literal, symbols, name = found.groups()
        return literal or (f"/{symbols.replace('/', chr(92) + '/')}/" if symbols else name.upper())

    rules = TOKEN.sub(token, grammar).replace(" ::=", ":").replace(" |\n", "\n |")
    return "%llguidance {}\n" + rules.replace("ROOT:", "start:", 1)


def _fact(fact: Cite) -> str:
    """Return the pattern of a marked fact; what stands in parentheses may be left out."""
    bare = str(fact).removesuffix(f" ({fact.note})")
    return _literal(bare) + (f" {_literal(f' ({fact.note})')}?" if fact.note else "")


def _word(barred: Sequence[str]) -> str:
    """Return the pattern of a run of letters that begins with none of the barred words, in any case.

    Barred "ad":  [B-Zb-z...] letter* | [aA] ([A-CE-Za-ce-z...] letter*)?
    """
    firsts = sorted({word[0] for word in barred})
    others = "".join(letter for letter in string.ascii_letters if letter.lower() not in firsts)
    options = [f"[{others}{ACCENTED}] letter*"]
    for first in firsts:
        rest = [word[1:] for word in barred if word[0] == first]
        if all(rest):
            options.append(f"[{first}{first.upper()}] ({_word(rest)})?")
    return " | ".join(options)


def _any_of(options: Iterable[str]) -> str:
    return " |\n  ".join(options)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
