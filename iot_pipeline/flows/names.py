"""Names of features: those that a spec takes, and the name that a source column is given.

A name stands in SQL, in flow texts, in answers and in the grammar of answers. There it ends before a blank, a number or
a mark of punctuation, so it has none of these in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Pieces of letters, digits and `_`, joined by single signs; after most of them a digit would read as a number: "-2".
NAME = r"#?[^\W\d]\w*(?:(?:[.<>]\w|[/%#+-][^\W\d])\w*)*[%#]?"
WHOLE = re.compile(NAME)
PERCENTILE = re.compile(r"\bp\d")  # p97 is a percentile, wherever a word begins
SIGN = re.compile(r"[./%#+<>-]")
# SQL and flow texts contain names verbatim.
UNPRINTABLE = re.compile(r"[\s:\"'`\x00-\x1f\x7f-\x9f]+")
# A tokeniser may read these as control tokens: <|im_end|>, </s>, <end_of_turn>, <<SYS>>, [INST].
CHAT_TOKEN = re.compile(
    r"<[^<>\s]+>|<<[^<>\s]+>>|\[/?(?:INST|PAD|CLS|SEP|MASK|UNK|BOS|EOS|[A-Z]+_(?:TOOLS|CALLS|RESULTS|PROMPT))\]"
)
# Columns of the pipeline beside the features, in the lake's tables and in queries.
RESERVED = {
    "row_id", "label", "flow_group", "occurrence", "n", "place", "raw_group", "reason", "source_row",
    "source_label", "rows", "weight", "side", "group_rows", "position", "repeat", "text",
}  # fmt: skip
# Words that explanations write before a number or a reference: "orig_pkts has the value 5, above the mean".
_WORDS = """
    above addition amounts an and as at be below but by carries comes evidence feature features figure find flow for
    from gives has have in indicator indicators is it its level mean measured measurement measurements median namely
    of on or out percentile rank ranks reading readings reads record records shows so stands than that the this to
    turns value values was we which while with words
"""
WORDS_OF_ANSWERS = frozenset(_WORDS.split())
MOST_CHARACTERS = 100


def name_fault(name: str) -> str:
    """Return why a name cannot be a feature's, in words that follow "feature name 'x'"; empty if it can."""
    if not name or UNPRINTABLE.search(name):
        return ": a blank, colon, quote or control character cannot be in a name"
    if name.lower() in RESERVED:
        return " is a column of the pipeline's own: name the feature otherwise"
    if name.lower() in WORDS_OF_ANSWERS:
        return f" is a word that explanations use: name the feature otherwise, for example {feature_name(name)!r}"
    if len(name) > MOST_CHARACTERS:
        return f" has {len(name):,} characters, and {MOST_CHARACTERS} is the most"
    if not _has_form(name):
        return (
            " cannot be told from the text around it: a name begins with a letter, _ or #, has letters, digits, _ and "
            f"single . / - + % # < > between them, and not _ alone; name the feature {feature_name(name)!r}, with "
            "the column as its expression"
        )
    return ""


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for a feature name that cannot be read everywhere, is reserved, or repeated (ignoring case)."""
    seen: dict[str, str] = {}
    for name in names:
        if fault := name_fault(name):
            raise ValueError(f"feature name {name[:MOST_CHARACTERS]!r}{fault}")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"features {other!r} and {name!r} differ in case only: name one otherwise")
    if len(set(names)) != len(names):
        raise ValueError("two features have the same name")


def feature_name(column: str) -> str:
    """Return the name of the feature of a source column: the column's own wherever a spec takes it."""
    if column.lower() in RESERVED | WORDS_OF_ANSWERS:
        return f"{column}_feature"
    if _has_form(column) and len(column) <= MOST_CHARACTERS:
        return column
    spelt = _spelt(unicodedata.normalize("NFC", column))
    return f"{spelt}_feature" if spelt.lower() in RESERVED | WORDS_OF_ANSWERS else spelt


def _has_form(name: str) -> bool:
    odd = PERCENTILE.search(name) or CHAT_TOKEN.search(name)
    return (
        _is_told(name) and WHOLE.fullmatch(name) is not None and odd is None and unicodedata.is_normalized("NFC", name)
    )


def _is_told(name: str) -> bool:
    """Return whether a name has a letter or digit: `_` alone is lost in prose."""
    return re.search(r"[^\W_]", name) is not None


def _spelt(text: str) -> str:
    """Return the nearest name of the right form: marks that it cannot have become `_`."""
    text = re.sub(r"[<>]", "_", text) if CHAT_TOKEN.search(text) else text
    kept = SIGN.sub(_joint, re.sub(r"[^\w./%#+<>-]+", "_", text))
    kept = re.sub(r"[<>]", "_", kept) if CHAT_TOKEN.search(kept) else kept
    kept = kept.strip("_")[: MOST_CHARACTERS - len("feature_")].rstrip("_./+<>-")
    begins = re.match(r"#?[^\W\d]", kept) is not None and PERCENTILE.match(kept) is None and _is_told(kept)
    return kept if begins else f"feature_{kept.lstrip('#')}".rstrip("_./+<>-")


def _joint(sign: re.Match[str]) -> str:
    """Return a sign where it may stand in a name, else `_`."""
    before, after = sign.string[: sign.start()][-1:], sign.string[sign.end() :]
    joins = re.match(r"\w" if sign[0] in ".<>" else r"[^\W\d]", after) is not None and not re.match(r"p\d", after)
    stands = joins if re.match(r"\w", before) or (sign[0] == "#" and not before) else False
    return sign[0] if stands or (sign[0] in "%#" and not after and re.match(r"\w", before)) else "_"
